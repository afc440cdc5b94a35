"""A worker's metrics: `counts.py` collects them, `listener.py` serves them."""
