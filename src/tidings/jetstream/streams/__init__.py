"""Declared streams: compare them with the streams on the server, and apply the differences."""
