"""Invocation in, Outcome out."""
