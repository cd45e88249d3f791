"""What compiled code of the packer and of the solvers shares: how arrays get to it (`packed`), and functions that are parts
of others (`parts`). It imports nothing of planc."""
