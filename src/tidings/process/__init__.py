"""The process of an app: signals, the event loop and the exit."""
