"""The whole way from a training graph to a verified plan."""
