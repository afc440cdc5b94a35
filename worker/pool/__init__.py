"""Which sandbox runs which invocation: warm ones, fresh ones, none twice at a time. See `pool.py`."""

from worker.pool.pool import Pool

__all__ = ["Pool"]
