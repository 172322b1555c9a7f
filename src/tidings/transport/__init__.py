"""One connection to a NATS server, or to a cluster of them."""
