"""A service that consists of several modules: `tidings run examples.groups.shop:app --dev`."""
