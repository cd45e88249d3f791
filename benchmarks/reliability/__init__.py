"""Campaigns that try to break planc, and the figures they leave: see `benchmarks.reliability.__main__`."""
