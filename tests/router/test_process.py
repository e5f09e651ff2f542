from __future__ import annotations

import os
import signal
import subprocess
import sys

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
        [sys.executable, "-P", "-c", CHILD.format(unused_pid())], capture_output=True, timeout=30, check=False
    )
    assert done.returncode == 0
    assert done.stdout == b""


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False
