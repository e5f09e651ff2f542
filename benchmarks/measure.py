"""CPU time and memory of exactly the processes that were started, from /proc.

CPU time is user plus system time of a process with all its threads, ended ones too (proc(5): utime, stime). The kernel counts
it by its scheduler clock and reports it in ticks of 10 ms, which over a run of seconds is an error of a fraction of a percent.
Time the kernel spends on loopback traffic in soft interrupts is charged to whoever runs at that moment, for every proxy alike.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.processes import stat_fields

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pids: Iterable[int]) -> float:
    """User plus system seconds of these processes so far; one that has ended counts nothing."""
    ticks = 0
    for pid in pids:
        fields = stat_fields(pid)
        if fields:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS_PER_S


def waited_seconds(pids: Iterable[int]) -> float:
    """How long these processes' main threads have been ready to run while another had the core, so far: field 2 of schedstat
    (the kernel's Documentation/scheduler/sched-stats); 0 where the kernel does not keep it.
    """
    nanoseconds = 0
    for pid in pids:
        try:
            nanoseconds += int(Path(f"/proc/{pid}/schedstat").read_text().split()[1])
        except (OSError, IndexError):
            continue
    return nanoseconds / 1e9


def resident_bytes(pids: Iterable[int]) -> int:
    """Resident memory (VmRSS) of these processes together."""
    return sum(_status_kib(pid, "VmRSS:") for pid in pids) * 1024


def peak_resident_bytes(pid: int) -> int:
    """The most memory that a process ever had resident (VmHWM)."""
    return _status_kib(pid, "VmHWM:") * 1024


def open_files(pids: Iterable[int]) -> int:
    """Open file descriptors of these processes together."""
    count = 0
    for pid in pids:
        try:
            count += len(os.listdir(f"/proc/{pid}/fd"))
        except OSError:
            continue
    return count


def _status_kib(pid: int, field: str) -> int:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    return 0


def quantile(values: Sequence[float], q: float) -> float:
    """The q-quantile by linear interpolation between order statistics. Raises ValueError on no values."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values to take a quantile of")
    position = q * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def median(values: Sequence[float]) -> float:
    """The median. Raises statistics.StatisticsError on no values."""
    return statistics.median(values)
