"""The process that an app runs in: signals, the event loop, the exit."""
