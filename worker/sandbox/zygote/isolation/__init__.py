"""Isolation layers, one module each, in runc's words."""
