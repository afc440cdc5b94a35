"""The program that sandboxes are forked from.

Executed by the worker as a clean process (`python -I`, a literal environment, no inherited descriptors): whatever it holds in memory is
in the memory of every sandbox, so it imports the standard library and its own folder, never the worker. Imports here are relative for that reason.
"""
