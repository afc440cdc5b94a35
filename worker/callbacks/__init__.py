"""Callbacks: signed POSTs when a job ends, retried for up to three days."""
