"""One script a contender, each run as a process of its own in its own environment."""
