"""Attacks on a real sandbox, which show which isolation features hold."""
