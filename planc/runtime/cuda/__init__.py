"""The CUDA device: driver, provider, sessions, graphs, and kernels of planc's own."""
