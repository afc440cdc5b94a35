"""Wrappers around a pool that see every execution: redaction, tracing, failpoints."""
