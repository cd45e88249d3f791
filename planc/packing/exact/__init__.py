"""Exact search for a packing: branching, propagation, conflicts, restarts."""
