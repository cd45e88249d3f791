"""What measures: layers, scratch, copies, contention, boundaries between segments."""
