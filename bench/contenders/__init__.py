"""One script per contender. Each runs in its own process and its own environment."""
