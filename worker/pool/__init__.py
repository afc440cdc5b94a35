"""The pool of sandboxes: warm instances, prewarmed sandboxes, and the runs that wait for either."""

from worker.pool.pool import Pool

__all__ = ["Pool"]
