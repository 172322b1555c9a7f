"""Flows: requests with several answers, streamed replies and streamed requests."""
