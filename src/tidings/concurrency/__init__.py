"""Workers, threads and what lets them work on one event loop."""
