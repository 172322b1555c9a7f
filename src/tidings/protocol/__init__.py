"""The NATS protocol: bytes in, bytes out. Pure functions and one parser, without a socket."""
