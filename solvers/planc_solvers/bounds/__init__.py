"""Lower bounds: merged models, their relaxation, and what proves them."""
