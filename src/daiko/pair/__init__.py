"""Pairs of volumes: the differential bitmap [0115-0117]."""
