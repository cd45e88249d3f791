"""What the compiled code of the packer and of the solvers shares: how arrays get to it. It imports nothing of planc."""
