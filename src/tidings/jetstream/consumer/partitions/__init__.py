"""Partitioned consumers: the order of each key, and as many instances as there are partitions."""
