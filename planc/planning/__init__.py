"""Graph, costs and budget made into the planning problem."""
