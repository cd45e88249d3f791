"""What people look at: summaries, the page, traces and comparisons of plans."""
