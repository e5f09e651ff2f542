from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys

import pytest
from control_process import until, unused_pid

CHILD = (
    "import sys, time; from router.process import die_with_parent; die_with_parent({}); print('on', flush=True); time.sleep(60)"
)
PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-P", "-c", sys.argv[1].format(os.getpid())], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""


def test_a_child_ends_when_its_parent_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    os.kill(child, 0)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    until(lambda: not _runs(child))


def test_a_child_whose_parent_died_before_it_asked_ends_at_once() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", CHILD.format(unused_pid())], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0
    assert done.stdout == b""


SCHEDULED = """
import ctypes, os, platform, struct
from router.process import ask_for_short_turns, give_way
{}
layout = struct.Struct("=IIQiIQQQ")
told = ctypes.create_string_buffer(layout.size)
number = {{"x86_64": 315, "aarch64": 275}}[platform.machine()]
assert ctypes.CDLL(None).syscall(number, 0, told, layout.size, 0) == 0  # sched_getattr(2)
_, policy, _, nice, _, runtime, _, _ = layout.unpack(told)
print(policy, nice - int(os.environ["NICE"]), runtime)
"""


def scheduled(call: str) -> tuple[int, int, int]:
    """(policy, niceness added, length of a turn in ns) of a process after a call."""
    environment = {**os.environ, "NICE": str(os.getpriority(os.PRIO_PROCESS, 0))}
    command = [sys.executable, "-P", "-c", SCHEDULED.format(call)]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    policy, nice, turn = map(int, told.stdout.split())
    return policy, nice, turn


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="the call's number is known for these")
def test_short_turns_change_neither_policy_nor_niceness() -> None:
    policy, nice, turn = scheduled("ask_for_short_turns()")
    assert (policy, nice) == (os.SCHED_OTHER, 0)
    release = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])
    assert turn == 100_000 or release < (6, 12)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="the call's number is known for these")
def test_short_turns_leave_a_policy_that_somebody_chose() -> None:
    assert scheduled("give_way(3); ask_for_short_turns()")[:2] == (os.SCHED_BATCH, 3)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False
