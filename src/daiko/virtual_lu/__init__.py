"""Virtual LUs: block devices over the mapping table."""
