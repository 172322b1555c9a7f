"""Listeners, tasks, hooks and middlewares: they run the functions that users declare."""
