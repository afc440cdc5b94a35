"""HTTP in, Invocation out; Outcome in, HTTP out."""
