"""What a worker takes for itself before it starts sandboxes."""

from __future__ import annotations

import resource

from worker.__main__ import raise_descriptor_limit


def test_a_worker_takes_all_descriptors_that_its_hard_limit_permits() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, before[1]), before[1]))
        raise_descriptor_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
