"""Jobs in Redis: what the API submits and reads, what a worker claims and settles.

Knows: RQ's data model, our own keys beside it, the scripts that move a job from one state to the next. Does not know: HTTP, sandboxes.
"""

from sandlot.jobs.connection import connect
from sandlot.jobs.durability import Durability, DurabilityWatch
from sandlot.jobs.followers import Follower
from sandlot.jobs.ids import new_job_id
from sandlot.jobs.listing import JobPage
from sandlot.jobs.load import QueueStatus
from sandlot.jobs.queue import Queue, Submitted
from sandlot.jobs.record import JobRecord
from sandlot.jobs.results import Stored
from sandlot.jobs.settlement import End, Settled

__all__ = [
    "Durability",
    "DurabilityWatch",
    "End",
    "Follower",
    "JobPage",
    "JobRecord",
    "Queue",
    "QueueStatus",
    "Settled",
    "Stored",
    "Submitted",
    "connect",
    "new_job_id",
]
