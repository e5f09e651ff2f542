"""How long a million rows of feedback take, and what they cost: one measured run over the real control API.

    python -m benchmarks.feedback [--rows 1000000] [--write]

Fills a prediction log with as many exposures as there will be rows, starts a real control process, and sends a CSV file with
`bluegreen feedback`; then the same file once more. One row in a hundred names an unknown request, one is rubbish, one is a
repetition. Meanwhile exposures keep being written, as the shadow does twice a second, and the longest that such a write had to
wait is told. Memory is the control process's greatest resident size (VmHWM). Exit status 1 when a demand is missed; `--write` puts
the table into docs/experiments.md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from benchmarks.machine import describe
from benchmarks.processes import choose_cores
from router.commands.client import ControlClient
from router.commands.feedback import send
from router.page import PlanPage
from router.seed import seed
from router.settings import Settings
from router.state import StateDir
from router.store.exposures import ExposureLog, ExposureRow
from router.store.store import Store

MOST_SECONDS = 60.0
MOST_BYTES = 500_000_000
ADDED = 2_000  # exposures written at a time while the log is filled
MANUAL = Path(__file__).resolve().parent.parent / "docs" / "experiments.md"
BEGIN, END = "<!-- feedback:begin -->", "<!-- feedback:end -->"


class Control:
    """A control process on a state directory of its own."""

    def __init__(self, folder: Path) -> None:
        settings = Settings.model_validate(
            {"blue": {"name": "v1", "servers": ["http://127.0.0.1:9"]}, "state": str(folder)}, context={"folder": folder}
        )
        self.state = StateDir(folder)
        self.state.create()
        self.state.settings_json.write_text(json.dumps(settings.to_json()))
        page = PlanPage(self.state.plan_page, writable=True)
        seed(page, settings.first_plan(), reseed=False, now=time.time())
        page.close()
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        command = [sys.executable, "-P", "-m", "router.run_control", "--state", str(folder), "--fd", str(listener.fileno())]
        self._process = subprocess.Popen([*command, "--parent", str(os.getpid())], pass_fds=[listener.fileno()])
        listener.close()
        deadline = time.monotonic() + 20
        while not self._answers():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise SystemExit("the control process did not start; its log is above")
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz", trust_env=False).is_success
        except httpx.HTTPError:
            return False

    @property
    def most_memory(self) -> int:
        """The greatest resident size so far, in bytes."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))

    @property
    def cpu_seconds(self) -> float:
        """Processor time so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(10)


class Writer(threading.Thread):
    """Writes exposures twice a second, and remembers the longest wait."""

    def __init__(self, log: ExposureLog) -> None:
        super().__init__(daemon=True)
        self._log = log
        self._over = threading.Event()
        self.longest = 0.0
        self.written = 0

    def run(self) -> None:
        """Until `stop`."""
        while not self._over.wait(0.5):
            rows = [exposure(f"live-{self.written + n}") for n in range(200)]
            begin = time.perf_counter()
            self._log.add(rows, [], time.time())
            self.longest = max(self.longest, time.perf_counter() - begin)
            self.written += len(rows)

    def stop(self) -> None:
        """End it."""
        self._over.set()
        self.join()


def exposure(request_id: str) -> ExposureRow:
    """A row as the shadow makes it."""
    told = {"protocol": "v1", "items": 1, "kind": "labels", "decision": "2"}
    unit = f"{hash(request_id) & 0xFFFFFFFFFFFFFFFF:016x}"
    return ExposureRow(request_id, 1, 1, 0.5, unit, "blue", 4, 200, False, 3.25, time.time(), told, "2", None)


def fill(log: ExposureLog, ids: list[str]) -> float:
    """Write the exposures; returns rows per second."""
    begin = time.perf_counter()
    for at in range(0, len(ids), ADDED):
        log.add([exposure(name) for name in ids[at : at + ADDED]], [], time.time())
    return len(ids) / (time.perf_counter() - begin)


def write_file(path: Path, ids: list[str], rng: random.Random) -> dict[str, int]:
    """The CSV file; returns how many rows of each sort are in it."""
    sorts = {"known": 0, "unknown": 0, "rubbish": 0, "repeated": 0}
    with path.open("w") as file:
        file.write("request_id,label,reward\n")
        for name in ids:
            draw = rng.random()
            if draw < 0.01:
                sorts["unknown"] += 1
                file.write(f"unknown-{name},1,\n")
            elif draw < 0.02:
                sorts["rubbish"] += 1
                file.write("rubbish\n")
            elif draw < 0.03:
                sorts["repeated"] += 1
                file.write(f"{ids[0]},2,\n")
            else:
                sorts["known"] += 1
                file.write(f"{name},{rng.randrange(10)},\n")
    return sorts


def measure(rows: int) -> dict[str, Any]:
    """One run."""
    rng = random.Random(1)
    with tempfile.TemporaryDirectory(prefix="bluegreen-feedback-") as folder:
        control = Control(Path(folder) / "state")
        store = Store(control.state.store)
        try:
            log = ExposureLog(store)
            ids = [f"{rng.getrandbits(128):032x}" for _ in range(rows)]
            found: dict[str, Any] = {"rows": rows, "logged_per_second": fill(log, ids)}
            rng.shuffle(ids)
            file = Path(folder) / "labels.csv"
            sorts = write_file(file, ids, rng)
            found["file_bytes"] = file.stat().st_size
            writer = Writer(log)
            writer.start()
            client = ControlClient(control.url)
            for turn in ("first", "again"):
                cpu, begin = control.cpu_seconds, time.perf_counter()
                found[turn] = send(client, file, quiet=False)
                found[f"{turn}_seconds"] = time.perf_counter() - begin
                found[f"{turn}_cpu"] = control.cpu_seconds - cpu
            writer.stop()
            found.update(memory=control.most_memory, longest_wait=writer.longest, sorts=sorts)
        finally:
            store.close()
            control.end()
    return found


def complaints(found: dict[str, Any]) -> list[str]:
    """What was not as it must be."""
    first, again, sorts = found["first"], found["again"], found["sorts"]
    wrong = []
    if found["first_seconds"] > MOST_SECONDS:
        wrong.append(f"{found['first_seconds']:.1f} s, not at most {MOST_SECONDS:g}")
    if found["memory"] > MOST_BYTES:
        wrong.append(f"{found['memory'] / 1e6:.0f} MB, not at most {MOST_BYTES / 1e6:.0f}")
    if (first["unknown"], first["rejected_rows"]) != (sorts["unknown"], sorts["rubbish"]):
        wrong.append(f"unknown and rejected rows are {first['unknown']} and {first['rejected_rows']}, the file has {sorts}")
    if first["joined"] + first["duplicates"] + first["replaced"] != sorts["known"] + sorts["repeated"]:
        wrong.append(f"the rows do not add up: {first}")
    if again["joined"]:
        wrong.append(f"the second time {again['joined']} rows were joined once more")
    return wrong


def table(found: dict[str, Any]) -> str:
    """The measurement for the manual."""
    machine = describe(choose_cores())
    rows = found["rows"]
    lines = [
        f"| {rows:,} rows of CSV ({found['file_bytes'] / 1e6:.0f} MB) by `bluegreen feedback` | |",
        "|---|---:|",
        f"| joined in | {found['first_seconds']:.1f} s ({rows / found['first_seconds']:,.0f} rows/s) |",
        f"| processor time of the control process | {found['first_cpu']:.1f} s |",
        f"| the same file once more | {found['again_seconds']:.1f} s |",
        f"| greatest memory of the control process | {found['memory'] / 1e6:.0f} MB |",
        f"| longest wait of the log's own writes meanwhile | {1e3 * found['longest_wait']:.0f} ms |",
        f"| exposures written to an empty log | {found['logged_per_second']:,.0f} rows/s |",
        "",
        f"{machine['CPU']}; Python {sys.version.split()[0]}; {time.strftime('%Y-%m-%d')}. `python -m benchmarks.feedback`",
    ]
    return "\n".join(lines)


def main() -> int:
    """Measure, print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--write", action="store_true", help="put the table into docs/experiments.md")
    options = parser.parse_args()
    found = measure(options.rows)
    text = table(found)
    print(text)
    print({turn: {k: v for k, v in found[turn].items() if k != "rejected"} for turn in ("first", "again")}, file=sys.stderr)
    if options.write:
        manual = MANUAL.read_text()
        head, rest = manual.split(BEGIN)
        MANUAL.write_text(f"{head}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}")
    wrong = complaints(found)
    for line in wrong:
        print(f"missed: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
