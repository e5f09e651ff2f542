"""Sends recorded exchanges again, as the shadow would: the engine of `replay` and `backtest`.

It is the shadow's own mirror, fed from a file instead of from workers, and told to wait where the shadow lets go. So a
candidate is asked and timed exactly as it will be when it runs as green: same rewriting, same bounds, same connections. It
runs in a thread and an event loop of its own, which makes it callable from anywhere, a notebook's running loop included.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any, Final

from models.arm import Arm, ArmError, parse_arm
from models.pool import Tls
from router.recording import Recorded
from shadow.mirror import Mirror, MirrorOptions
from shadow.observation import Observation

RELEASE: Final = 1
_SWEEP_SECONDS: Final = 0.05
_NAP_SECONDS: Final = 0.0005
_NOBODY: Final = Arm("nobody", ("http://localhost",))


class ReplayError(ValueError):
    """The replay cannot begin; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """`rate` in exchanges per second, None for as fast as `in_flight` at once allow; timeouts in seconds, `answer_bytes` is
    what is kept of an answer.
    """

    rate: float | None = None
    in_flight: int = 16
    connect_timeout: float = 1.0
    answer_timeout: float = 30.0
    answer_bytes: int = 1 << 20
    tls: Tls = field(default_factory=Tls)

    def __post_init__(self) -> None:
        if self.rate is not None and not 0 < self.rate <= 1e6:
            raise ReplayError(f"the rate must be above 0 exchanges per second, not {self.rate:g}")
        if not 1 <= self.in_flight <= 4096:
            raise ReplayError(f"the number in flight must be from 1 to 4096, not {self.in_flight}")


@dataclass(slots=True)
class Sent:
    """What was done: exchanges that came to an end, those let go by reason, and the seconds that it took."""

    exchanges: int = 0
    let_go: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


def arm_at(urls: str | Sequence[str], name: str, headers: Mapping[str, str] | None = None) -> Arm:
    """An arm with these servers; `headers` are set on every request to it. Raises ReplayError."""
    try:
        return parse_arm({"name": name, "servers": [urls] if isinstance(urls, str) else list(urls), "headers": headers}, name)
    except ArmError as error:
        raise ReplayError(str(error)) from None


def send(
    exchanges: Iterable[Recorded],
    green: Arm,
    observed: Callable[[Observation], None],
    *,
    blue: Arm | None = None,
    options: ReplayOptions | None = None,
    progress: Callable[[int], None] | None = None,
) -> Sent:
    """Send every exchange's request to `green`, and with `blue` to it as well, in random order.

    `observed` gets each with the recorded answer as blue's, from another thread; `progress` how many have ended so far. An
    error in `exchanges` or `observed` ends it and is raised here.
    """
    result: list[Sent] = []
    raised: list[BaseException] = []

    def work() -> None:
        try:
            result.append(asyncio.run(_send(exchanges, green, observed, blue, options or ReplayOptions(), progress)))
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work, name="replay", daemon=True)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
    return result[0]


async def _send(
    exchanges: Iterable[Recorded],
    green: Arm,
    observed: Callable[[Observation], None],
    blue: Arm | None,
    options: ReplayOptions,
    progress: Callable[[int], None] | None,
) -> Sent:
    sent = Sent()
    failed: list[BaseException] = []

    def ended(observation: Observation) -> None:
        sent.exchanges += 1
        try:
            observed(observation)
        except Exception as error:
            failed.append(error)

    mirror = Mirror(_bounds(options, twice=blue is not None), ended, lambda _, why: sent.let_go.update((why,)))
    # Without a blue to ask, none of its servers is ever asked: the recorded answers stand for it.
    mirror.configure(RELEASE, blue or green, green, _bounds(options, twice=blue is not None))
    begin = swept = perf_counter()
    number = 0
    source: Iterator[Recorded] = iter(exchanges)
    while not failed:
        now = perf_counter()
        if now - swept > _SWEEP_SECONDS:
            swept = now
            mirror.sweep()
            if progress is not None:
                progress(sent.exchanges + sent.let_go.total())
        if mirror.busy >= options.in_flight or (options.rate is not None and now < begin + number / options.rate):
            await asyncio.sleep(_NAP_SECONDS)
            continue
        recorded = next(source, None)
        if recorded is None:
            break
        number += 1
        # Whichever arm answered then, its answer stands for blue's now, and the candidate is asked.
        mirror.take(replace(recorded, colour="blue").to_frame(RELEASE))
        await asyncio.sleep(0)
    while mirror.busy and not failed:
        await asyncio.sleep(_SWEEP_SECONDS)
        mirror.sweep()
    mirror.close()
    mirror.configure(RELEASE, _NOBODY, None, _bounds(options, twice=False))  # connections that nobody may use any more close
    if failed:
        raise failed[0]
    if progress is not None:
        progress(sent.exchanges + sent.let_go.total())
    sent.seconds = perf_counter() - begin
    return sent


def _bounds(options: ReplayOptions, *, twice: bool) -> MirrorOptions:
    context: ssl.SSLContext = options.tls.context()
    return MirrorOptions(
        max_in_flight=options.in_flight,
        waiting=0,
        noise_percent=100.0 if twice else 0.0,
        answer_bytes=options.answer_bytes,
        connect_timeout=options.connect_timeout,
        answer_timeout=options.answer_timeout,
        tls=context,
        server_name=options.tls.server_name,
    )


def replay_options(settings: Mapping[str, Any], *, rate: float | None = None, in_flight: int = 16) -> ReplayOptions:
    """The options that a settings document (plain JSON) gives a replay."""
    from router.proxy.options import read_options

    found = read_options(settings)
    return ReplayOptions(
        rate=rate,
        in_flight=in_flight,
        connect_timeout=found.timeouts.connect,
        answer_timeout=found.timeouts.first_byte,
        answer_bytes=found.mirroring.body,
        tls=found.upstream_tls,
    )
