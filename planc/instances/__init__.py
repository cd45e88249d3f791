"""Bare graph instances: their format, and the replay of what a solver says of them."""
