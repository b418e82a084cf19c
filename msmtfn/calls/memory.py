"""Memory that a process may take, so that it gets a `MemoryError` instead of being killed."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PROCESS_STATUS: Final = Path("/proc/self/status")
MACHINE_MEMORY: Final = Path("/proc/meminfo")
CGROUPS: Final = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
)
"""Folders of a container's group in both versions of cgroups, and their files with its limit and its use in bytes."""
MIN_BYTES: Final = 2**30
"""Memory that is taken for available in any case, since the figures are estimates."""
UNKNOWN_BYTES: Final = 2**40


def available_memory() -> int:
    """Return the memory that processes may still take, in bytes, by the machine's and the container's limits."""
    available = UNKNOWN_BYTES
    with contextlib.suppress(OSError):
        found = re.search(r"^MemAvailable:\s+(\d+) kB$", MACHINE_MEMORY.read_text(encoding="utf-8"), re.MULTILINE)
        available = int(found[1]) * 1024 if found else available
    for group, limit, used in CGROUPS:
        with contextlib.suppress(OSError, ValueError):  # the other version of cgroups, or no limit ("max")
            cached = re.findall(r"^(?:in)?active_file (\d+)$", (group / "memory.stat").read_text(), re.MULTILINE)
            free = int((group / limit).read_text()) - int((group / used).read_text())
            available = min(available, free + sum(map(int, cached)))
    return max(available, MIN_BYTES)


@contextlib.contextmanager
def limited_memory(num_bytes: int) -> Iterator[None]:
    """Limit the memory that this process may allocate in addition; beyond it, allocations fail as if out of memory."""
    if not PROCESS_STATUS.exists():
        yield
        return
    import resource  # noqa: PLC0415 - does not exist on Windows

    # RLIMIT_DATA rather than RLIMIT_AS, since the address space includes shared and merely reserved memory.
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    found = re.search(r"^VmData:\s+(\d+) kB$", PROCESS_STATUS.read_text(encoding="utf-8"), re.MULTILINE)
    limit = num_bytes + (int(found[1]) * 1024 if found else 0)
    limits = [value for value in (limit, soft, hard) if value != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
