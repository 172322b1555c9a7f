"""Integrations with other libraries. The core imports none of them."""
