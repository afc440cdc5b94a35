"""The plans: each fault with its requirements and promises.

A plan's seeded random generator makes every choice, so that a seed repeats a run as far as the
machine's timing allows.
"""

from __future__ import annotations

from typing import Final

from tests.chaos import (
    api_faults,
    clock_faults,
    disk_faults,
    host_faults,
    reply_faults,
    restore_faults,
    upgrade_faults,
    valkey_faults,
    worker_faults,
)
from tests.chaos.scene import Plan

REPEATED_ANYWAY: Final = {"release", "worker_died", "retry_or_fail"}
"""Scripts that are sent only where a job is run again anyway."""

LONG_S: Final = (0.1, 0.7)
"""Long enough that several jobs run whenever Valkey goes away; their ends come while it is."""

BUSY_HZ: Final = 45.0
BUSY_S: Final = (0.05, 0.3)
"""Just less than eight slots can do: jobs wait, so that steps carry claims and not only ends."""

PLANS: Final = (
    Plan("worker killed", worker_faults.kill_workers, 12, bound_s=1.0),
    Plan("worker killed, unseen", worker_faults.kill_workers_unseen, 12, bound_s=5.0),
    Plan("workers rolled", worker_faults.roll_workers, 12, may_repeat=False),
    Plan("500 SIGTERMs", worker_faults.terminate_workers, 50, may_spend=False, rate_hz=60),
    Plan("host unplugged", host_faults.unplug_host, 20, bound_s=5.0, hosts=3),
    Plan("host drops", host_faults.drop_host, 20, bound_s=5.0, hosts=3),
    Plan("host rejects", host_faults.reject_host, 20, bound_s=5.0, hosts=3),
    Plan("host killed every 2 s", host_faults.kill_hosts, 60, bound_s=5.0, hosts=3, rate_hz=200, work_s=(0.001, 0.02)),
    Plan("worker frozen 6 s", worker_faults.freeze_worker, 16, bound_s=5.0),
    Plan(
        "Valkey killed",
        valkey_faults.restart_valkey,
        16,
        bound_s=2.0,
        measured_from="heal",
        may_repeat=False,
        work_s=LONG_S,
        rate_hz=12,
    ),
    Plan(
        "Valkey killed every 8 s",
        valkey_faults.restart_valkey_every_8_s,
        40,
        bound_s=2.0,
        measured_from="heal",
        may_repeat=False,
    ),
    Plan(
        "Valkey frozen 10 s",
        valkey_faults.freeze_valkey,
        10,
        bound_s=5.0,
        measured_from="heal",
        may_repeat=False,
        work_s=LONG_S,
        rate_hz=12,
    ),
    Plan(
        "Valkey paused 10 s",
        valkey_faults.pause_valkey,
        10,
        bound_s=5.0,
        measured_from="heal",
        may_repeat=False,
        work_s=LONG_S,
        rate_hz=12,
    ),
    *(
        Plan(
            f"reply lost: {name}",
            reply_faults.lose_replies(name),
            5,
            through_proxy=True,
            may_repeat=name in REPEATED_ANYWAY,
            with_keys=sender.side == "workers",
            rate_hz=BUSY_HZ if sender.side == "workers" else 30.0,
            work_s=BUSY_S if sender.side == "workers" else (0.02, 0.2),
        )
        for name, sender in reply_faults.SENDERS.items()
    ),
    Plan(
        "clocks ten minutes off",
        clock_faults.live_with_wrong_clocks,
        16,
        bound_s=5.0,
        wrong_clocks=("-600", "+600", "-600"),
    ),
    Plan("workers cut off by proxy", host_faults.cut_worker, 8, bound_s=5.0, measured_from="heal", through_proxy=True),
    Plan("API killed", api_faults.kill_api, 10),
    Plan("API rolled", api_faults.roll_api, 10),
    Plan(
        "everything replaced",
        upgrade_faults.replace_everything,
        20,
        api_processes=2,
        may_repeat=False,
        may_spend=False,
        rate_hz=150,
        work_s=(0.005, 0.05),
    ),
    *(
        Plan(f"restored from a {kind}", restore_faults.restore(kind), 0, may_repeat=False, may_spend=False)
        for kind in ("file", "snapshot")
    ),
    Plan("Valkey full", valkey_faults.fill_valkey, 6),
    Plan(
        "disk full, always", disk_faults.fill_disk, 8, measured_from="heal", bound_s=5.0, may_repeat=False, disk="small"
    ),
    Plan(
        "disk full, everysec",
        disk_faults.fill_disk,
        8,
        measured_from="heal",
        bound_s=5.0,
        may_repeat=False,
        disk="small",
        fsync="everysec",
    ),
    Plan("20 power cuts, always", disk_faults.cut_power, 50, measured_from="heal", bound_s=5.0, disk="cuttable"),
    Plan(
        "power cuts, everysec",
        disk_faults.cut_power,
        15,
        measured_from="heal",
        must_lose=True,
        disk="cuttable",
        fsync="everysec",
    ),
    Plan("worker dies in each window", worker_faults.die_in_windows, 0, bound_s=1.0),
    Plan(
        "60 s without Valkey",
        valkey_faults.lose_valkey,
        60,
        bound_s=5.0,
        measured_from="heal",
        may_repeat=False,
        work_s=LONG_S,
        rate_hz=10,
    ),
)
