"""Integrations: each is loaded only when an app uses it, and needs an extra of its own."""
