"""Extents of virtual LUs: the mapping table, range sets, allocation, bitmaps. Pure."""
