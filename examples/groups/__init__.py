"""A service in several modules: `tidings run examples.groups.shop:app --dev`."""
