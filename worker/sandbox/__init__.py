"""Isolated processes: how they are started, watched and ended.

The package handles command lines, bytes, clocks, signals and namespaces; jobs, Redis and HTTP are
beyond it, which import-linter enforces.
"""
