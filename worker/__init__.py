"""The worker: claims jobs, runs them in sandboxes and records their outcomes."""
