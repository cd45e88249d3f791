"""What compiled code of the packer and of the solvers shares: how arrays get to it (`packed`), functions that are parts of
others (`parts`), and when a cache of it is stale (`cache`). It imports nothing of planc."""
