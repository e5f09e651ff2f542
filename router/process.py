"""What a child process does about the system: it never outlives its parent, it gives back memory, and those that clients wait
for get the processor before the one that nobody waits for.

A worker, the shadow or the control process that went on alone after its supervisor was killed would hold the ports and serve
an old plan that nobody can change. Linux ends it instead (prctl PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import signal
import struct
import sys
from typing import Final

_PR_SET_PDEATHSIG = 1
# sched_setattr(2) has no wrapper in glibc before 2.41, so it is called by its number.
_SCHED_SETATTR: Final = {"x86_64": 314, "aarch64": 274}.get(platform.machine())
# The first version of what it takes: size, policy, flags, nice, priority, runtime, deadline, period.
_SCHED_ATTR: Final = struct.Struct("=IIQiIQQQ")
_SLICE_NS: Final = 100_000  # the shortest that the kernel takes


def die_with_parent(parent: int | None = None, signum: int = signal.SIGTERM) -> None:
    """Have the kernel send this process `signum` when the thread that started it ends.

    `parent` is the PID that the starter gave of itself: when it is no longer our parent, the starter died before this call, no
    signal would ever come, and the process ends here. Without it that race stays open (a parent of 1 proves nothing: in a
    container the supervisor itself is process 1). Does nothing where there is no prctl.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signum), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if parent is not None and os.getppid() != parent:
        raise SystemExit(0)


def ask_for_short_turns() -> None:
    """Have the kernel put this process on a processor soon after it wakes, in turns of 0.1 ms instead of some 3 ms.

    Since Linux 6.12 a process may ask for the length of its turns, and one that wakes goes before one with longer turns
    (sched_setattr(2), sched_runtime of SCHED_OTHER). It gets no more time than before, only sooner. Older kernels ignore it.
    """
    if _SCHED_SETATTR is None or not sys.platform.startswith("linux") or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    asked = _SCHED_ATTR.pack(_SCHED_ATTR.size, os.SCHED_OTHER, 0, nice, 0, _SLICE_NS, 0, 0)
    ctypes.CDLL(None).syscall(_SCHED_SETATTR, 0, asked, 0)  # where it is not allowed, turns are as long as everybody's


def give_way(nice: int) -> None:
    """Let every process of less niceness go before this one, and never interrupt one by waking up (SCHED_BATCH, sched(7))."""
    os.nice(nice)
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def give_back_memory() -> None:
    """Return what is free in the heap to the system; what cannot be, or on another libc than glibc, stays.

    glibc keeps a heap as large as a burst has made it (malloc_trim(3)). Without this a worker whose queue to the shadow was
    full once would look for ever as if it leaked. Half a millisecond after a burst, 50 µs when there is nothing to return.
    """
    if _trim is not None:
        _trim(0)


_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
