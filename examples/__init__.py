"""Examples, to run from the folder above: `tidings run examples.greeter:app --dev`."""
