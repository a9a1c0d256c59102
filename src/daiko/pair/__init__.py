"""Pairs of volumes: their states, the differential bitmap, the write path of both sides, initial
copy and update copy ([0088]-[0126])."""
