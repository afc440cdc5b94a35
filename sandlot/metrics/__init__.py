"""Counting, and saying what was counted to whoever asks. See `meters.py`."""
