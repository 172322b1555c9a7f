"""What runs the functions that users declare: listeners, tasks, hooks, middlewares."""
