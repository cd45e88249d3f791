"""A forward model made ready for differentiation."""
