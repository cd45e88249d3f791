"""Several processes that run one step together: how they meet, exchange, and hear of each other's failures."""
