"""How many processor cores this process may use: for the server's batches, decoding, and what records say."""

import math
import os
from pathlib import Path

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # "quota period", or "max period" where there is none


def usable_cores(quota: Path = CPU_QUOTA) -> int:
    """Cores that this process may be scheduled on, or fewer where its container has a CPU limit.

    Only Linux says which cores a process may be scheduled on; elsewhere all count.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        microseconds, period_microseconds = quota.read_text("ascii").split()
    except (OSError, ValueError):
        return cores
    return cores if microseconds == "max" else min(cores, math.ceil(int(microseconds) / int(period_microseconds)))
