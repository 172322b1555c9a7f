"""The NATS protocol: bytes in, bytes out. Pure functions and one parser, and no socket."""
