"""oneDNN's convolutions for planc's own operators on the CPU, where the package onednn-cpu-gomp is installed."""
