"""Examples. Run them from the folder above: `tidings run examples.greeter:app --dev`."""
