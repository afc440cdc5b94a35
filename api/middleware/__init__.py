"""Middleware that wraps every request: request id, audit log, tracing."""
