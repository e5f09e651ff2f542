from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from control_process import ControlProcess, Follower, new_state
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from router import counters as c
from router.counters import bin_of
from router.store.store import Store

DOC = Path(__file__).resolve().parents[2] / "docs/metrics.md"


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlProcess]:
    process = ControlProcess(new_state(tmp_path_factory.mktemp("metrics"))[0])
    yield process
    process.end()


@pytest.fixture(scope="module")
def worker(process: ControlProcess) -> Iterator[Follower]:
    follower = Follower(process.state, 0)
    yield follower
    follower.stop()


@pytest.fixture(scope="module")
def evidence(process: ControlProcess) -> None:
    store = Store(process.state.store)
    store.save_evidence(1, {"pairs": 40, "dropped": 2, "agreement": {"n": 40, "rate": 0.95, "ci": [0.8, 1]}}, 1700.5)
    store.close()


Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(process: ControlProcess) -> Samples:
    with process.client() as client:
        answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    samples: Samples = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in samples, "a metric is there twice"
            samples[key] = sample.value
    return samples


def value(samples: Samples, name: str, /, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


def test_every_counter_of_a_page_is_served(process: ControlProcess, worker: Follower, evidence: None) -> None:
    words = worker.words
    per_arm = {
        "bluegreen_errors_total": c.ERRORS,
        "bluegreen_fallbacks_total": c.FALLBACKS,
        "bluegreen_retries_total": c.RETRIES,
        "bluegreen_skipped_total": c.SKIPPED,
        "bluegreen_upstream_connections_total": c.OPENED,
        "bluegreen_in_flight": c.IN_FLIGHT,
        "bluegreen_queued": c.QUEUED,
    }
    causes = {
        "connect_failures": c.CONNECT_FAILURES,
        "timeouts": c.TIMEOUTS,
        "broken": c.BROKEN,
        "server_errors": c.SERVER_ERRORS,
    }
    for colour, base in enumerate(c.COLOUR_BASE):
        for offset in (*per_arm.values(), *causes.values(), *range(5)):
            words[base + offset] = 1000 * (colour + 1) + offset
        words[base + c.DOWN] = 0
    for offset in (c.RECALLED, c.REFUSED, c.CLIENTS_LEFT, c.TUNNELS, c.CONNECTIONS):
        words[offset] = 500 + offset
    for index, _ in enumerate(c.OWN_STATUSES):
        words[c.OWN_BASE + index] = 700 + index
    words[c.RELEASE_BASE + 3], words[c.RELEASE_BASE + 4], words[c.RELEASE_BASE + 5] = 1, 60, 5  # release 1
    words[c.COLOUR_BASE[1] + c.DOWN] = 0b01
    words[c.COLOUR_BASE[1] + c.BREAKER] = 1

    found = scrape(process)
    for arm, base in (("blue", 1000), ("green", 2000)):
        for name, offset in per_arm.items():
            assert value(found, name, arm=arm) == base + offset, name
        for cause, offset in causes.items():
            assert value(found, "bluegreen_failures_total", arm=arm, cause=cause) == base + offset
        for status in range(5):
            assert value(found, "bluegreen_requests_total", **{"arm": arm, "class": f"{status + 1}xx"}) == base + status
    assert value(found, "bluegreen_recalled_total") == 500 + c.RECALLED
    assert value(found, "bluegreen_refused_connections_total") == 500 + c.REFUSED
    assert value(found, "bluegreen_clients_left_total") == 500 + c.CLIENTS_LEFT
    assert value(found, "bluegreen_tunnels_total") == 500 + c.TUNNELS
    assert value(found, "bluegreen_connections") == 500 + c.CONNECTIONS
    for index, status in enumerate(c.OWN_STATUSES):
        assert value(found, "bluegreen_own_answers_total", status=str(status)) == 700 + index
    assert value(found, "bluegreen_worker_up", worker="0") == 1
    assert value(found, "bluegreen_worker_revision", worker="0") == 1
    assert value(found, "bluegreen_plan_revision") == 1
    assert value(found, "bluegreen_release") == 1
    assert value(found, "bluegreen_split_green_percent") == 0
    assert value(found, "bluegreen_shadow_percent") == 50
    assert value(found, "bluegreen_history_pending") == 0
    assert value(found, "bluegreen_arm_info", arm="green", name="iris-v2") == 1
    assert value(found, "bluegreen_breaker_state", arm="blue") == 0
    assert value(found, "bluegreen_breaker_state", arm="green") == 1
    assert value(found, "bluegreen_server_up", arm="green", server="http://127.0.0.1:9002") == 0
    assert value(found, "bluegreen_server_up", arm="green", server="http://127.0.0.1:9003") == 1
    assert value(found, "bluegreen_shadow_sampled") == 60
    assert value(found, "bluegreen_shadow_lost") == 5
    assert value(found, "bluegreen_shadow_dropped") == 7
    assert value(found, "bluegreen_shadow_pairs") == 40
    assert value(found, "bluegreen_shadow_agreement_ratio") == 0.95
    assert value(found, "bluegreen_evidence_updated_seconds") == 1700.5


def test_latencies_are_cut_exactly_at_the_bounds(process: ControlProcess, worker: Follower) -> None:
    base = c.HISTOGRAM_BASE[0]
    for microseconds, count in ((100, 3), (255, 1), (256, 10), (1000, 20), (1024, 40), (2**26, 5), (2**30, 2)):
        worker.words[base + bin_of(microseconds)] += count
    found = scrape(process)

    def below(bound: str) -> float:
        return value(found, "bluegreen_request_duration_seconds_bucket", arm="blue", le=bound)

    assert below("0.000256") == 4
    assert below("0.000512") == 14
    assert below("0.001024") == 34
    assert below("0.002048") == 74
    assert below("67.108864") == 74
    assert below("+Inf") == 81
    assert value(found, "bluegreen_request_duration_seconds_count", arm="blue") == 81
    exact = (3 * 100 + 255 + 10 * 256 + 20 * 1000 + 40 * 1024 + 5 * 2**26 + 2 * 2**30) / 1e6
    assert value(found, "bluegreen_request_duration_seconds_sum", arm="blue") == pytest.approx(exact, rel=1 / 16)
    bounds = [v for (name, labels), v in found.items() if name.endswith("_bucket") and ("arm", "blue") in labels]
    assert bounds == sorted(bounds)


def test_every_metric_is_documented_and_nothing_else_is(process: ControlProcess, worker: Follower, evidence: None) -> None:
    with process.client() as client:
        families = list(text_string_to_metric_families(client.get("/metrics").text))
    found = {f.name + ("_total" if f.type == "counter" else ""): f.type for f in families}
    rows = re.findall(r"^\| `(bluegreen_\w+)` \| (\w+) \| (.*?) \|", DOC.read_text(), flags=re.MULTILINE)
    assert {name: kind for name, kind, _ in rows} == found
    assert all(family.documentation for family in families)
    labels = {name: set(re.findall(r"`(\w+)`", text)) for name, _, text in rows}
    for family in families:
        name = family.name + ("_total" if family.type == "counter" else "")
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == labels[name], name


def test_openmetrics_is_served_to_who_asks_for_it(process: ControlProcess, worker: Follower) -> None:
    with process.client(accept="application/openmetrics-text; version=1.0.0") as client:
        answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert "bluegreen_requests" in {family.name for family in parse_openmetrics(answer.text)}


def test_gauges_forget_an_ended_worker_and_counters_do_not(tmp_path: Path) -> None:
    state, _ = new_state(tmp_path)
    process = ControlProcess(state)
    worker = Follower(state, 3)
    base = c.COLOUR_BASE[1]
    worker.words[base + c.ERRORS] = worker.words[base + c.IN_FLIGHT] = worker.words[c.CONNECTIONS] = 6
    worker.words[base + c.DOWN] = worker.words[base + c.BREAKER] = 1
    worker.die()
    found = scrape(process)
    assert value(found, "bluegreen_errors_total", arm="green") == 6
    assert value(found, "bluegreen_in_flight", arm="green") == 0
    assert value(found, "bluegreen_connections") == 0
    assert value(found, "bluegreen_worker_up", worker="3") == 0
    assert value(found, "bluegreen_breaker_state", arm="green") == 0
    assert value(found, "bluegreen_server_up", arm="green", server="http://127.0.0.1:9002") == 1
    process.end()


def test_a_store_that_fails_costs_only_what_it_holds(tmp_path: Path) -> None:
    state, _ = new_state(tmp_path)
    process = ControlProcess(state)
    with closing(sqlite3.connect(state.store)) as raw:
        raw.execute("DROP TABLE evidence")
    found = scrape(process)
    assert value(found, "bluegreen_plan_revision") == 1
    assert ("bluegreen_shadow_pairs", ()) not in found
    process.end()
