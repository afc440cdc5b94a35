"""Benchmarks of Sandlot and its alternatives, in one run on one machine, over HTTP only."""
