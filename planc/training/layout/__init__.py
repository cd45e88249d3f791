"""Rewrites a finished step for kernels of planc's own."""
