"""Processes behind walls: how they are started, watched and ended. Knows argv, bytes, clocks, signals and namespaces only."""
