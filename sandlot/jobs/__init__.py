"""Jobs in Redis: submitting, claiming, settling and reading them, in RQ's data model and keys of
Sandlot's own beside it."""

from sandlot.jobs.ids import new_job_id
from sandlot.jobs.inspection import JobPage, JobRecord
from sandlot.jobs.large_results import StoredResult
from sandlot.jobs.notifications import Follower, WaitEnd
from sandlot.jobs.queue import Queue, Submitted, Unfinished
from sandlot.jobs.settlement import JobResult, OutcomeRecord
from sandlot.jobs.stats import QueueStatus

__all__ = [
    "Follower",
    "JobPage",
    "JobRecord",
    "JobResult",
    "OutcomeRecord",
    "Queue",
    "QueueStatus",
    "StoredResult",
    "Submitted",
    "Unfinished",
    "WaitEnd",
    "new_job_id",
]
