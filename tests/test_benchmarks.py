"""The benchmark harness: what it reads, computes and writes, and its clients against real servers. Nothing here is timed."""

from __future__ import annotations

import itertools
import json
import shutil
import statistics
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from busy import in_time
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import bench, configs, load, measure, plots, processes, render
from benchmarks.processes import ROOT, BenchError, Child
from benchmarks.result import Check, Collected, Report, Row, Series, bound_check, number, paired, ratio_check, report_from_dict
from benchmarks.rows.switching import BLUE, GREEN, Held, Switch, held


def a_row(**changes: object) -> Row:
    fields: dict[str, object] = {
        "id": "cost",
        "title": "CPU per request, small JSON",
        "about": "What it is.",
        "unit": "µs/request",
        "series": (
            Series("bluegreen", (30.0, 33.0, 27.0), {"requests/s": 20000.0}),
            Series("nginx", (25.0, 30.0, 20.0), {"requests/s": 30000.0}),
            Series("envoy", (100.0, 110.0, 90.0)),
        ),
        "commands": ("taskset -c 1 wrk",),
    }
    return Row(**(fields | changes))  # type: ignore[arg-type]


def a_report(*rows: Row) -> Report:
    return Report({"CPU": "some"}, {"bluegreen": "0.1.0", "nginx": "nginx/1.22"}, "2026-01-01 00:00 UTC", 3, False, 12.0, rows)


def test_wrk_result_is_read_from_the_line_of_our_script() -> None:
    output = 'Running 1s test\nRESULT {"requests":1000,"duration_us":500000,"bytes":9,"status_errors":2,"socket_errors":3}\n'
    result = load.parse_wrk(output)
    assert (result.requests, result.seconds, result.received_bytes, result.errors, result.rate) == (1000, 0.5, 9, 5, 2000)


def test_wrk_output_without_a_result_is_an_error() -> None:
    with pytest.raises(BenchError, match="no result"):
        load.parse_wrk("unable to connect to 127.0.0.1:1 Connection refused")


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=50), st.integers(1, 99))
def test_quantile_agrees_with_the_standard_librarys_inclusive_method(values: list[float], percent: int) -> None:
    expected = statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
    assert measure.quantile(values, percent / 100) == pytest.approx(expected, abs=1e-6)


def test_ratios_are_taken_round_by_round() -> None:
    row = a_row()
    assert paired(row.get("bluegreen"), row.get("nginx")) == [1.2, 1.1, 1.35]
    assert paired(row.get("bluegreen"), row.get("nginx"), subtract=True) == [5.0, 3.0, 7.0]


@pytest.mark.parametrize(
    ("must", "aim", "least", "reached", "aimed"),
    [
        (1.3, 1.0, False, True, False),
        (1.2, 1.2, False, True, True),
        (1.1, None, False, False, None),
        (1.0, 1.3, True, True, False),
        (1.25, 1.2, True, False, True),
    ],
)
def test_a_ratio_is_held_against_its_target(
    must: float, aim: float | None, least: bool, reached: bool, aimed: bool | None
) -> None:
    check = ratio_check(a_row(), "bluegreen", "nginx", "ratio", must, aim, least=least)
    assert (check.value, check.reached, check.aimed) == ("1.20 ×", reached, aimed)


@pytest.mark.parametrize(
    ("value", "least", "reached"), [(8, False, True), (8.1, False, False), (8, True, True), (7.9, True, False)]
)
def test_a_value_is_held_against_its_bound(value: float, least: bool, reached: bool) -> None:
    assert bound_check("memory", value, "KiB", 8, None, least=least).reached is reached


@pytest.mark.parametrize(
    ("value", "text"), [(0.123, "0.12"), (1.5, "1.50"), (39.34, "39.3"), (9706.4, "9,706"), (4.0, "4"), (-2.5, "-2.50")]
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_collected_details_are_medians_over_rounds() -> None:
    collected = Collected()
    for sample, rate in ((1.0, 10.0), (3.0, 30.0), (2.0, 90.0)):
        collected.add("nginx", sample, rate=rate)
    assert collected.series() == (Series("nginx", (1.0, 3.0, 2.0), {"rate": 30.0}),)


def test_a_report_survives_json() -> None:
    report = a_report(a_row().checked(Check("a", "≤ 1", "", "2", False, None)), a_row(id="p99", series=(), failed="no port"))
    assert report_from_dict(json.loads(json.dumps(report.to_dict()))) == report


def test_the_document_says_what_was_missed_and_what_was_not_measured() -> None:
    row = a_row()
    row = row.checked(
        ratio_check(row, "bluegreen", "nginx", "bluegreen / nginx", 1.1, 1.0),
        ratio_check(row, "bluegreen", "envoy", "bluegreen / Envoy", 0.6, None),
    )
    text = render.document(a_report(row, a_row(id="p99", title="Tail", series=(), failed="nginx did not answer")))
    assert "1 of 3 must-reach targets were reached" in text
    assert "bluegreen / nginx | 1.20 × | ≤ 1.1 × | **no** | ≤ 1 × | **no** |" in text
    assert "bluegreen / Envoy | 0.30 × | ≤ 0.6 × | yes |" in text
    assert "**Not measured:** nginx did not answer" in text
    assert "| nginx | 25 | 20 .. 30 | 3 | 1.00 × | 30,000 |" in text


def test_every_table_of_the_document_is_rectangular() -> None:
    row = a_row()
    text = render.document(
        a_report(row.checked(ratio_check(row, "bluegreen", "nginx", "r", 1.1, None)), a_row(id="x", failed="no"))
    )
    tables = [
        list(group) for is_table, group in itertools.groupby(text.splitlines(), lambda line: line.startswith("|")) if is_table
    ]
    assert len(tables) == 4
    for table in tables:
        assert len({line.count("|") for line in table}) == 1, table


def test_links_to_headings_are_the_ones_github_makes() -> None:
    assert render.anchor("p99 at a fixed 2,000 requests/s, added") == "p99-at-a-fixed-2000-requestss-added"


def test_a_plot_is_well_formed_and_its_bars_are_in_proportion() -> None:
    tree = ET.fromstring(plots.bars(a_row(title="a < b & c")))
    space = "{http://www.w3.org/2000/svg}"
    widths = {r.get("class"): float(r.get("width", "")) for r in tree.iter(f"{space}rect") if r.get("class") in ("ours", "bar")}
    assert widths["bar"] / widths["ours"] == pytest.approx(100 / 30, rel=0.01)  # the last bar is Envoy's
    assert len(list(tree.iter(f"{space}path"))) == 3


def test_a_bar_far_beyond_the_others_is_cut_and_marked() -> None:
    series = (Series("nginx", (30.0,)), Series("envoy", (150.0,)), Series("naive", (9000.0,)))
    assert plots.full_scale(series) == 150
    tree = ET.fromstring(plots.bars(a_row(series=series)))
    space = "{http://www.w3.org/2000/svg}"
    widths = [float(r.get("width", "")) for r in tree.iter(f"{space}rect") if r.get("class") == "bar"]
    assert widths == [plots.ROOM / 5, plots.ROOM, plots.ROOM]
    assert [path.get("class") for path in tree.iter(f"{space}path")] == ["ground"]


def test_a_negative_median_has_no_bar() -> None:
    tree = ET.fromstring(plots.bars(a_row(series=(Series("nginx", (-5.0,)), Series("envoy", (5.0,))))))
    widths = [float(r.get("width", "")) for r in tree.iter("{http://www.w3.org/2000/svg}rect") if r.get("class") == "bar"]
    assert widths[0] == 0 < widths[1]


SWITCHES = [Switch(GREEN, 1.0, 1.125), Switch(BLUE, 2.0, 2.125)]


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ([(1.25, 1.5, GREEN), (2.5, 2.75, BLUE)], Held(2, 0, 0.0)),
        ([(0.5, 0.75, BLUE)], Held(0, 0, 0.0)),  # before the first switch nothing is asked
        ([(1.25, 1.5, BLUE)], Held(1, 1, 0.25)),
        ([(1.0625, 1.5, BLUE)], Held(0, 0, 0.0625)),  # sent while the call ran: either colour is right
        ([(1.875, 2.0625, BLUE)], Held(0, 0, 0.0)),  # answered after the next switch was sent: may have been recalled
        ([(2.25, 9.0, GREEN)], Held(1, 1, 0.25)),
    ],
)
def test_requests_are_held_against_the_switch_before_them(log: list[tuple[float, float, int]], expected: Held) -> None:
    assert held(SWITCHES, log) == expected


def test_an_unknown_row_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        bench.parse_arguments(["--rows", "cost,speed"])
    assert raised.value.code == 2
    assert "no row 'speed'; there are cost" in capsys.readouterr().err


def test_a_child_is_ended_with_its_own_children(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(processes, "WORK", tmp_path)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    parent = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {deaf!r}]); time.sleep(60)"
    child = processes.start("parent", [sys.executable, "-c", parent])
    with child:
        wait_for(child, "deaf")
        first, second = child.pids()
        assert measure.resident_bytes([first, second]) > measure.resident_bytes([second]) > 0
    assert processes.stat_fields(first) == []
    assert processes.stat_fields(second) == [] or processes.stat_fields(second)[0] == "Z"


def test_cpu_time_is_that_of_the_process_and_its_ended_threads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(processes, "WORK", tmp_path)
    busy = (
        "import threading, time\n"
        "def spin():\n"
        "    while time.thread_time() < 0.2: pass\n"
        "thread = threading.Thread(target=spin); thread.start(); thread.join()\n"
        "print('spun', flush=True); time.sleep(60)"
    )
    with processes.start("busy", [sys.executable, "-c", busy]) as child:
        wait_for(child, "spun")
        assert measure.cpu_seconds([child.pid]) >= 0.19


def test_a_child_that_ends_by_itself_is_reported_with_its_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(processes, "WORK", tmp_path)
    with (
        processes.start("broken", [sys.executable, "-c", "raise SystemExit('no such setting')"]) as child,
        pytest.raises(BenchError, match="no such setting"),
    ):
        processes.wait_until_answers(child, processes.free_port(), "/", 10)


def wait_for(child: Child, word: str) -> None:
    end = time.monotonic() + 60
    while word not in child.log.read_text():
        assert time.monotonic() < end, child.log.read_text()
        time.sleep(0.02)


def slow_upstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hang: str) -> tuple[Child, int]:
    monkeypatch.setattr(processes, "WORK", tmp_path)
    monkeypatch.setattr(load, "WORK", tmp_path)
    port = processes.free_port()
    child = processes.start("slow", processes.python(ROOT / "upstream_slow.py", f"--port={port}", f"--hang={hang}"))
    processes.wait_until_answers(child, port, "/events?count=1&every_ms=1")
    return child, port


def test_the_fixed_rate_client_sends_what_it_was_asked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child, port = slow_upstream(tmp_path, monkeypatch, "0.01")
    log = tmp_path / "log.bin"

    def pace() -> None:
        report = load.pace(port, processes.choose_cores(), 200, 0.5, warmup=0.25, connections=16, log=log)
        assert (report["requests"], report["errors"], report["unanswered"], report["green"]) == (100, 0, 0, 150)
        assert report["us"]["p50"] >= 10_000  # each answer waits 10 ms at the server

    with child:
        in_time(2.5, pace)  # two seconds after its last request it waits for no answer
    entries = load.read_log(log)
    assert len(entries) == 150
    assert all(answered > sent and colour == 2 for sent, answered, colour in entries)


def test_a_request_without_an_answer_counts_as_long_as_it_waited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child, port = slow_upstream(tmp_path, monkeypatch, "30")

    def pace() -> None:
        report = load.pace(port, processes.choose_cores(), 100, 0.2, warmup=0, connections=4)
        assert (report["requests"], report["unanswered"]) == (20, 20)
        assert report["us"]["p50"] >= 1e6

    with child:
        in_time(3.0, pace)  # it takes 2.2 s, and what it had no time to send by then it does not count


def test_every_event_of_every_stream_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child, port = slow_upstream(tmp_path, monkeypatch, "1")
    with child:
        report = load.client(load.streams_command(port, processes.choose_cores(), 0.5, streams=3, every_ms=10), 1)
    assert report["events"] == report["expected"] == 150
    assert 0 < report["us"]["p50"] <= report["us"]["p99"]


WANTED = configs.Wanted(18080, 19001, 19002, 10, mirror=True)


@pytest.mark.parametrize("text", [configs.envoy(WANTED), configs.traefik_routes(WANTED), configs.caddy(WANTED)])
def test_generated_json_names_both_upstreams(text: str) -> None:
    json.loads(text)
    assert "19001" in text
    assert "19002" in text


@pytest.mark.skipif(not shutil.which("nginx", path="/usr/sbin:/usr/bin"), reason="nginx is not installed")
@pytest.mark.parametrize("mirror", [False, True])
def test_nginx_accepts_its_configuration(tmp_path: Path, mirror: bool) -> None:
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin")
    file = tmp_path / "nginx.conf"
    file.write_text(configs.nginx(configs.Wanted(18080, 19001, 19002, 10, mirror), tmp_path, None))
    done = subprocess.run([str(nginx), "-t", "-e", "stderr", "-c", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not shutil.which("haproxy", path="/usr/sbin:/usr/bin"), reason="haproxy is not installed")
def test_haproxy_accepts_its_configuration(tmp_path: Path) -> None:
    haproxy = shutil.which("haproxy", path="/usr/sbin:/usr/bin")
    file = tmp_path / "haproxy.cfg"
    file.write_text(configs.haproxy(WANTED))
    done = subprocess.run([str(haproxy), "-c", "-f", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
