"""Callbacks: who ordered one is told of the end of a job, by a signed POST that is tried again for days."""
