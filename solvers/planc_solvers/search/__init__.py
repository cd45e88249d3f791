"""Search for schedules: greedy starts, annealing, orders."""
