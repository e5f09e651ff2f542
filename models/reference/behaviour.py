"""Fault injection: how a reference server misbehaves on purpose, for demonstrations, tests and chaos runs.

A `Behaviour` is settings; a `FaultSource` draws from it what happens to the next inference request; `perturb` makes
the wrong answers of a noisy one. Health, readiness and metadata are never disturbed: a real server that is slow or
wrong still says that it is well, and that is the hard case for whoever watches it.
Left out: hanging, resetting and garbage on the wire. Those are faults of a connection and need a server that is not
HTTP.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

# A noisy regression answer is off by up to this share of itself: far beyond any tolerance for rounding.
REGRESSION_NOISE = 0.1


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How inference misbehaves. The defaults are a server without fault.

    `delay_ms` is added before every answer, and `delay_jitter_ms` times a uniform [0, 1) draw on top of it; other
    requests are answered meanwhile. `error_rate` is the share of requests answered with 500. `noise_rate` is the
    share answered as by a non-deterministic model: every row of such a request gets another label than the model's
    (each other label equally likely, the probabilities moved along with it), or a number up to 10 % off. The draws of
    different requests are independent. With a `seed` the n-th request of a process always meets the same fault;
    without one, servers that are started alike still misbehave independently of each other.

    Raises:
        ValueError: a delay is negative or not finite, or a rate lies outside [0, 1].
    """

    delay_ms: float = 0.0
    delay_jitter_ms: float = 0.0
    error_rate: float = 0.0
    noise_rate: float = 0.0
    seed: int | None = None

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        for name in ("delay_ms", "delay_jitter_ms"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"{name} must be a number of milliseconds from 0, not {getattr(self, name)}")
        for name in ("error_rate", "noise_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a share from 0 to 1, not {getattr(self, name)}")


WELL = Behaviour()


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one request: wait `delay_s` seconds, then fail, or answer, noisily if there is a `noise_seed`."""

    delay_s: float
    fails: bool
    noise_seed: int | None


class FaultSource:
    """Draws the fault of each request in turn."""

    def __init__(self, behaviour: Behaviour) -> None:
        """Start the sequence of `behaviour`."""
        self._behaviour = behaviour
        self._random = random.Random(behaviour.seed)

    def draw(self) -> Fault:
        """The fault of the next request."""
        behaviour = self._behaviour
        # Always four draws in the same order: changing one setting leaves the sequence of the others as it was.
        jitter, error, noise = self._random.random(), self._random.random(), self._random.random()
        noise_seed = self._random.getrandbits(63)
        return Fault(
            delay_s=(behaviour.delay_ms + jitter * behaviour.delay_jitter_ms) / 1000,
            fails=error < behaviour.error_rate,
            noise_seed=noise_seed if noise < behaviour.noise_rate else None,
        )


def perturb(outputs: Mapping[str, NDArray[Any]], classes: Sequence[int], noise_seed: int) -> dict[str, NDArray[Any]]:
    """`outputs` as a model gone astray gives them, reproducible from `noise_seed`.

    Labels [n] and probabilities [n, k] of `classes` (k of them, sorted) are moved by the same number of classes, row
    by row, so that they still fit each other. Without classes, `predict` holds numbers [n] and each is scaled by a
    factor of its own.
    """
    import numpy as np

    generator = np.random.default_rng(noise_seed)
    n_rows = len(next(iter(outputs.values())))
    if not classes:
        factors = 1 + generator.uniform(-REGRESSION_NOISE, REGRESSION_NOISE, n_rows)
        return {name: values * factors for name, values in outputs.items()}
    labels = np.asarray(classes)
    shifts = generator.integers(1, len(labels), n_rows)
    moved: dict[str, NDArray[Any]] = {}
    for name, values in outputs.items():
        if name == "predict":
            moved[name] = labels[(np.searchsorted(labels, values) + shifts) % len(labels)]
        else:
            columns = (np.arange(len(labels)) - shifts[:, None]) % len(labels)
            moved[name] = np.take_along_axis(values, columns, axis=1)
    return moved
