"""What this machine's cores and memory leave to a process."""

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def num_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_host_memory() -> int:
    """Bytes of memory that are free or could be, within the limit of the process's control group; 0 if not known."""
    available = _meminfo("MemAvailable:")
    try:
        limit, used = (int((CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
    except (OSError, ValueError):  # No control group, or "max": no limit.
        return available
    return min(available, max(limit - used, 0))


def _meminfo(field: str) -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:  # Not Linux.
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), 0)
