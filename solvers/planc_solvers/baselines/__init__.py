"""Published policies, one a file."""
