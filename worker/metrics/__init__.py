"""What a worker counts, and where it can be read. See `counts.py` and `listener.py`."""
