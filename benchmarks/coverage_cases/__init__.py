"""The models of `benchmarks/coverage.py`, one library a file; random weights, small configurations."""
