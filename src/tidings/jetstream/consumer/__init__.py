"""Consumers: what is declared, what the server has, and the handlers at work."""
