"""Compare tidings with other NATS clients in one run. See README.md in this folder."""
