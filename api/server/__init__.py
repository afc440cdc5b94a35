"""Serve the application: sockets, TLS, the HTTP protocol and its processes."""
