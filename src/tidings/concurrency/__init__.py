"""Workers and threads, and the bridge between threads and the event loop."""
