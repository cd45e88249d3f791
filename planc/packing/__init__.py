"""Offsets of buffers in one slab."""
