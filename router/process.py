"""What a child process does about the system: it never outlives its parent, and it gives back memory.

A worker, the shadow or the control process that went on alone after its supervisor was killed would hold the ports and serve
an old plan that nobody can change. Linux ends it instead (prctl PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


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


def give_back_memory() -> None:
    """Return what is free in the heap to the system; what cannot be, or on another libc than glibc, stays.

    glibc keeps a heap as large as a burst has made it (malloc_trim(3)). Without this a worker whose queue to the shadow was
    full once would look for ever as if it leaked. Half a millisecond after a burst, 50 µs when there is nothing to return.
    """
    if _trim is not None:
        _trim(0)


_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
