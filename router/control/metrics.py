"""`GET /metrics`: the counter pages, the plan and the evidence as Prometheus text.

A collector reads everything when it is asked; nothing is counted here, so a restart of this process loses nothing, and counters
only grow because the pages do. Gauges come from living workers alone: an ended worker's page still says what it last did.
Latencies keep the pages' own bins, cut at powers of two of a microsecond, where the cumulative counts are exact; only the sum
is an estimate, from the middle of each bin. Every name here is explained in docs/metrics.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from models.arm import Colour
from router import counters
from router.control.plans import Control
from router.control.status import COLOURS, arm_word, breaker, healthy_servers, own_answers
from router.counters import ArmCounts, CounterPage, bin_bounds, bin_of, release_counts, sum_arm
from router.errors import Unavailable

CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")
# 0.256 ms to 67 s: each bound is a power of two of a microsecond, where a bin of the histogram ends.
BUCKETS = tuple(1 << power for power in range(8, 27))


def metrics_routes(control: Control) -> APIRouter:
    """`/metrics`, in the format that the scraper's Accept header asks for (Prometheus text or OpenMetrics)."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(RouterCollector(control))
    routes = APIRouter(tags=["metrics"])

    @routes.get("/metrics")
    def metrics(request: Request) -> Response:
        """Counters and gauges for Prometheus."""
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": kind})

    return routes


class RouterCollector(Collector):
    """Makes the metrics of one router, anew for each scrape."""

    def __init__(self, control: Control) -> None:
        """Nothing is read yet."""
        self._control = control

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry need not read the pages to learn the names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Every metric."""
        pages, living = self._control.workers.pages(), self._control.workers.living_pages()
        yield from _arms(pages, living)
        yield from _workers(pages, living)
        yield from _plan(self._control, living)
        yield from _shadow(self._control, pages)


def _arms(pages: Mapping[int, CounterPage], living: Mapping[int, CounterPage]) -> Iterator[Metric]:
    total = {colour.value: sum_arm(pages.values(), COLOURS[colour]) for colour in Colour}
    requests = CounterMetricFamily("bluegreen_requests", "Answers that clients got from an arm.", labels=["arm", "class"])
    causes = CounterMetricFamily("bluegreen_failures", "Failures of an arm by cause.", labels=["arm", "cause"])
    latency = HistogramMetricFamily(
        "bluegreen_request_duration_seconds", "From a request's arrival to its whole answer.", labels=["arm"]
    )
    for arm, counts in total.items():
        for name, count in zip(CLASSES, counts.statuses, strict=True):
            requests.add_metric([arm, name], count)
        for cause in ("connect_failures", "timeouts", "broken", "server_errors"):
            causes.add_metric([arm, cause], getattr(counts, cause))
        buckets, seconds = _histogram(counts)
        latency.add_metric([arm], buckets, seconds)
    yield requests
    yield causes
    yield latency
    for name, field, text in (
        ("errors", "errors", "Failures of an arm: refused, timed out, broken off, 5xx."),
        ("fallbacks", "fallbacks", "Requests of an arm that the other one answered in its place."),
        ("retries", "retries", "Requests sent again because a kept-alive connection had gone stale."),
        ("skipped", "skipped", "Requests kept from an arm because its breaker was open."),
        ("upstream_connections", "opened", "Connections opened to an arm's servers."),
    ):
        counter = CounterMetricFamily(f"bluegreen_{name}", text, labels=["arm"])
        for arm, counts in total.items():
            counter.add_metric([arm], getattr(counts, field))
        yield counter
    for name, word, text in (
        ("in_flight", counters.IN_FLIGHT, "Requests now at an arm."),
        ("queued", counters.QUEUED, "Requests now waiting for a place at an arm."),
    ):
        gauge = GaugeMetricFamily(f"bluegreen_{name}", text, labels=["arm"])
        for colour in Colour:
            gauge.add_metric([colour.value], arm_word(living, colour, word))
        yield gauge


def _histogram(counts: ArmCounts) -> tuple[list[tuple[str, float]], float]:
    """Cumulative counts at each bound in seconds, +Inf last, and the estimated sum of all latencies in seconds."""
    buckets: list[tuple[str, float]] = []
    seen, begin = 0, 0
    for bound in BUCKETS:
        end = bin_of(bound)
        seen += sum(counts.histogram[begin:end])
        buckets.append((repr(bound / 1e6), seen))
        begin = end
    buckets.append(("+Inf", seen + sum(counts.histogram[begin:])))
    micros = sum(count * sum(bin_bounds(position)) / 2 for position, count in enumerate(counts.histogram) if count)
    return buckets, micros / 1e6


def _workers(pages: Mapping[int, CounterPage], living: Mapping[int, CounterPage]) -> Iterator[Metric]:
    own = CounterMetricFamily("bluegreen_own_answers", "Answers that the router made itself.", labels=["status"])
    for status, count in own_answers(pages).items():
        own.add_metric([status], count)
    yield own
    for name, word, text in (
        ("recalled", counters.RECALLED, "Requests taken back from green by a switch and sent to blue."),
        ("refused_connections", counters.REFUSED, "Connections refused over a limit."),
        ("clients_left", counters.CLIENTS_LEFT, "Clients that went away before their answer was whole."),
        ("tunnels", counters.TUNNELS, "Upgraded connections."),
    ):
        yield CounterMetricFamily(f"bluegreen_{name}", text, value=sum(page.words[word] for page in pages.values()))
    yield GaugeMetricFamily(
        "bluegreen_connections",
        "Client connections, TLS handshakes included.",
        value=sum(page.words[counters.CONNECTIONS] for page in living.values()),
    )
    up = GaugeMetricFamily("bluegreen_worker_up", "1 while the worker in a slot runs and beats.", labels=["worker"])
    obeys = GaugeMetricFamily("bluegreen_worker_revision", "The plan revision that a worker obeys.", labels=["worker"])
    for slot, page in pages.items():
        up.add_metric([str(slot)], 1 if slot in living else 0)
        obeys.add_metric([str(slot)], page.words[counters.REVISION])
    yield up
    yield obeys


def _plan(control: Control, living: Mapping[int, CounterPage]) -> Iterator[Metric]:
    plan = control.plan()
    for name, text, value in (
        ("plan_revision", "The plan's revision.", plan.revision),
        ("release", "The release that is compared now.", plan.release),
        ("split_green_percent", "Green's share of live traffic in percent.", plan.split.green_percent),
        ("shadow_percent", "Share of exchanges that are mirrored in percent.", plan.shadow.percent),
        ("history_pending", "Changes of the plan that the history does not hold yet.", len(control.history.waiting())),
    ):
        yield GaugeMetricFamily(f"bluegreen_{name}", text, value=value)
    info = GaugeMetricFamily("bluegreen_arm_info", "1; the labels name each arm's model.", labels=["arm", "name"])
    state = GaugeMetricFamily("bluegreen_breaker_state", "0 closed, 1 open, 2 half-open; the worst worker's.", labels=["arm"])
    up = GaugeMetricFamily("bluegreen_server_up", "1 while every living worker has a server in use.", labels=["arm", "server"])
    for colour in Colour:
        arm = plan.arm(colour)
        if arm is None:
            continue
        info.add_metric([colour.value, arm.name], 1)
        state.add_metric([colour.value], breaker(living, colour))
        for url, well in zip(arm.servers, healthy_servers(arm, living, colour), strict=True):
            up.add_metric([colour.value, url], 1 if well else 0)
    yield info
    yield state
    yield up


def _shadow(control: Control, pages: Mapping[int, CounterPage]) -> Iterator[Metric]:
    """About the present release: these begin anew with each, so they are gauges. The store may be down: then fewer come."""
    release = control.plan().release
    sampled, lost = release_counts(pages.values(), release)
    yield GaugeMetricFamily("bluegreen_shadow_sampled", "Exchanges of this release sampled for the shadow.", value=sampled)
    yield GaugeMetricFamily("bluegreen_shadow_lost", "Of those, lost before they reached the shadow.", value=lost)
    try:
        stored = control.store.evidence(release)
    except Unavailable:
        return
    snapshot, updated = stored if stored is not None else ({}, None)
    dropped = int(snapshot.get("dropped", 0)) + lost
    yield GaugeMetricFamily(
        "bluegreen_shadow_dropped", "Of those, not compared for any reason, lost ones included.", value=dropped
    )
    yield GaugeMetricFamily("bluegreen_shadow_pairs", "Pairs compared in this release.", value=int(snapshot.get("pairs", 0)))
    rate = (snapshot.get("agreement") or {}).get("rate")
    if rate is not None:
        yield GaugeMetricFamily("bluegreen_shadow_agreement_ratio", "Share of pairs that agree.", value=float(rate))
    if updated is not None:
        yield GaugeMetricFamily("bluegreen_evidence_updated_seconds", "When the evidence was saved (Unix time).", value=updated)
