"""Streams as an app declares them, compared with those on the server."""
