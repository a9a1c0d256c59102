"""Leaf devices: files, memory, LUs of second controllers; and the probe that measures them."""
