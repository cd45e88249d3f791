"""Thin adapters between `compile_step` and training frameworks; each needs its framework."""
