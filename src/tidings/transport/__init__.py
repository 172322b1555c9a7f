"""One connection to a NATS server or cluster."""
