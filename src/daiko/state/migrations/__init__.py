"""One SQL script for each schema version, NNNN_what_it_does.sql, applied in order.

A script takes the store from version NNNN-1 to NNNN. It runs in one transaction together with
the change of `PRAGMA user_version`. Scripts that were released are never changed.
"""
