"""Changes of a schedule: the steps of the search."""
