"""Locks and leaders, on leases in a bucket."""
