"""Integrations with other libraries. An app loads one only when it uses it, with its extra."""
