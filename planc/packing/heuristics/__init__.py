"""Packings in one pass, and their improvement by order."""
