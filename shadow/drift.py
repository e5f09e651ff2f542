"""What the two models say altogether: blue's decisions against green's, and the distributions of their predictions.

The confusion table counts every item of every batch, so that it can be checked against a computation offline. The tests must
not: items of one request are not independent of each other, and a test that counts them one by one is sure too soon. They get
one item of each request, chosen by a hash of the request's id. Population stability index and Jensen-Shannon divergence are
shown because people know them; what decides is one-against-the-rest McNemar for labels, and for values the distance of the
distribution functions with its band (DKW at all times).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, Final
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from models.predictions.prediction import Decoded, Kind, Label, Prediction
from shadow.compare import Comparison
from shadow.multiplicity import log_mean_e
from shadow.packing import pack_histogram, unpack_histogram
from shadow.paired import label_shift
from shadow.quantiles import Histogram, distribution_distance
from shadow.sequential import Floats, log_threshold

MAX_LABELS: Final = 50
OTHER: Final = "(other)"
_LABEL_LENGTH: Final = 100
_LABELS: Final = Kind.LABELS  # looking up a member of an enumeration takes time
_NUMBERS: Final = Kind.NUMBERS
_PROBABILITIES: Final = Kind.PROBABILITIES
_TEXT: Final = Kind.TEXT
_ROW: Final = MAX_LABELS + 1  # the last place is for all labels that found none
_BINS: Final = 10
_GATHERED: Final = 512  # values that are added to a histogram in one go
# What is spread over a distribution's bins before their logarithms are taken: half an observation each.
_PSEUDO_COUNT: Final = 0.5

Document = dict[str, Any]


class Confusion:
    """How often blue said one label and green another. The first `MAX_LABELS` labels have a place, the rest share one."""

    __slots__ = ("every", "places", "single")

    def __init__(self) -> None:
        self.places: dict[Label, int] = {}
        self.every: dict[int, int] = {}  # blue's place * _ROW + green's -> items
        self.single: dict[int, int] = {}  # the same of one item per pair

    def update(self, labels: Iterable[tuple[Label, Label]], chosen: int) -> None:
        """Adds the (blue, green) labels of one pair's items; the one at `chosen` stands for the pair."""
        every, places = self.every, self.places
        for index, (blue, green) in enumerate(labels):
            row, column = places.get(blue), places.get(green)
            cell = (self._place(blue) if row is None else row) * _ROW + (self._place(green) if column is None else column)
            every[cell] = every.get(cell, 0) + 1
            if index == chosen:
                self.single[cell] = self.single.get(cell, 0) + 1

    def _place(self, label: Label) -> int:
        """The place of a label that is new or written otherwise than the one that has it."""
        label = _known_label(label)
        place = self.places.get(label)
        if place is None:
            place = len(self.places)
            if place >= MAX_LABELS:
                return MAX_LABELS
            self.places[label] = place
        return place

    def table(self, counts: Mapping[int, int]) -> tuple[list[Label], NDArray[np.int64]]:
        """(labels, counts [k, k]): rows blue's label, columns green's, in the labels' order; the shared place last."""
        shared = any(cell // _ROW == MAX_LABELS or cell % _ROW == MAX_LABELS for cell in counts)
        ordered = sorted(self.places, key=_label_order)
        places = [self.places[label] for label in ordered] + ([MAX_LABELS] if shared else [])
        grid = np.zeros((_ROW, _ROW), dtype=np.int64)
        for cell, count in counts.items():
            grid[cell // _ROW, cell % _ROW] = count
        return [*ordered, *([OTHER] if shared else [])], grid[np.ix_(places, places)]

    def snapshot(self) -> Document:
        """The section `confusion`: `labels` as text, `counts` [k][k] with a row for each of blue's, and `n` items."""
        labels, counts = self.table(self.every)
        return {"labels": label_names(labels), "counts": counts.tolist(), "n": int(counts.sum())}

    def drift(self, alpha: float) -> Document | None:
        """Whether green gives labels in other shares than blue; None before the first label."""
        if not self.single:
            return None
        labels, counts = self.table(self.single)
        log_e, distance = label_shift(counts, alpha)
        blue, green = counts.sum(axis=1), counts.sum(axis=0)
        n = int(counts.sum())
        shifts = (green - blue) / n
        names = label_names(labels)
        evidence = log_mean_e(log_e)
        return {
            "method": "one label against the rest (McNemar)",
            "n": n,
            **_divergences(blue, green),
            "distance": {"estimate": float(np.abs(shifts).max()), "ci": distance.to_json()},
            "log_e": evidence,
            "decided": evidence >= log_threshold(alpha),
            "shares": {
                "names": names,
                "blue": [round(float(share), 9) for share in blue / n],
                "green": [round(float(share), 9) for share in green / n],
            },
            "most_moved": names[int(np.argmax(np.abs(shifts)))],
        }

    def to_dict(self) -> Document:
        """For the state, as JSON values."""
        return {
            "labels": list(self.places),
            "every": [[cell, count] for cell, count in self.every.items()],
            "single": [[cell, count] for cell, count in self.single.items()],
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Confusion:
        """The inverse of `to_dict`."""
        made = cls()
        made.places = {label: place for place, label in enumerate(state["labels"])}
        made.every = {int(cell): int(count) for cell, count in state["every"]}
        made.single = {int(cell): int(count) for cell, count in state["single"]}
        return made


class ValueDrift:
    """The distributions of one number that each prediction has: its value, its confidence, its length."""

    __slots__ = ("_new", "blue", "green")

    def __init__(self, *, signed: bool, low_exponent: int, high_exponent: int) -> None:
        self._new: tuple[list[float], list[float]] = [], []  # added to the histograms in one go
        self.blue = Histogram(signed, low_exponent, high_exponent)
        self.green = Histogram(signed, low_exponent, high_exponent)

    def update(self, blue: float, green: float) -> None:
        """Adds one pair's values; a pair with one that is not finite, or negative where none can be, is left out."""
        if math.isfinite(blue) and math.isfinite(green) and (self.blue.signed or (blue >= 0.0 and green >= 0.0)):
            self._new[0].append(blue)
            self._new[1].append(green)
            if len(self._new[0]) >= _GATHERED:
                self._add_gathered()

    def _add_gathered(self) -> None:
        for histogram, new in zip((self.blue, self.green), self._new, strict=True):
            histogram.extend(new)
            new.clear()

    def drift(self, alpha: float) -> Document:
        """Whether green's values are distributed otherwise than blue's."""
        self._add_gathered()
        n = self.blue.n
        distance = distribution_distance(self.green, self.blue, alpha)
        blue, green, edges = _in_deciles(self.blue, self.green)
        shares = np.cumsum(blue) / max(n, 1), np.cumsum(green) / max(n, 1)
        return {
            "method": "distance of the distribution functions (DKW at all times)",
            "n": n,
            **_divergences(blue, green),
            "distance": {"estimate": float(np.abs(shares[0] - shares[1]).max(initial=0.0)), "ci": distance.to_json()},
            "log_e": None,
            "decided": distance.low > 0.0,
            "shares": {
                "names": edges,
                "blue": [round(float(count) / max(n, 1), 9) for count in blue],
                "green": [round(float(count) / max(n, 1), 9) for count in green],
            },
        }

    def to_dict(self) -> Document:
        """For the state, as JSON values."""
        self._add_gathered()
        return {"blue": pack_histogram(self.blue), "green": pack_histogram(self.green)}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> ValueDrift:
        """The inverse of `to_dict`."""
        blue, green = unpack_histogram(state["blue"]), unpack_histogram(state["green"])
        made = cls(signed=blue.signed, low_exponent=blue.low_exponent, high_exponent=blue.high_exponent)
        made.blue, made.green = blue, green
        return made


class Drift:
    """The predictions of a release: confusion table and distributions. Histograms are made when they are first needed."""

    __slots__ = ("channels", "confusion")

    def __init__(self) -> None:
        self.confusion = Confusion()
        self.channels: dict[str, ValueDrift] = {}

    def update(self, blue: Decoded, green: Decoded, comparison: Comparison, request_id: str) -> None:
        """Adds a pair that was compared; both have equally many items."""
        items = len(blue.items)
        if items == 0 or len(green.items) != items:
            return
        chosen = 0 if items == 1 else crc32(request_id.encode("utf-8", "surrogatepass")) % items
        labels = comparison.labels
        if labels:
            # One (blue, green) for each output that decides; of several outputs of an item the leading one comes first.
            outputs, rest = divmod(len(labels), items)
            if rest == 0:
                self.confusion.update(labels if outputs == 1 else labels[::outputs], chosen)
        self._update_values(blue.items[chosen], green.items[chosen])

    def _update_values(self, blue: Prediction, green: Prediction) -> None:
        kind = blue.kind
        if kind is _LABELS and not blue.also:
            return
        if kind is green.kind:
            if kind is _NUMBERS:
                self._add("values", _first_number(blue.value), _first_number(green.value))
            elif kind is _TEXT:
                self._add("length", float(len(blue.value)), float(len(green.value)))
        ours, theirs = _confidence(blue), _confidence(green)
        if ours is not None and theirs is not None:
            self._add("confidence", ours, theirs)

    def _add(self, name: str, blue: float, green: float) -> None:
        channel = self.channels.get(name)
        if channel is None:
            channel = self.channels[name] = _CHANNELS[name]()
        channel.update(blue, green)

    def snapshot(self, alpha: float) -> Document:
        """The section `drift`: the first channel that there is, its name under `of`, and all of them under `channels`."""
        found = {name: channel.drift(alpha) for name, channel in sorted(self.channels.items(), key=_channel_order)}
        labels = self.confusion.drift(alpha)
        channels = {"labels": labels, **found} if labels is not None else found
        if not channels:
            return {"of": None, "n": 0, "psi": None, "js": None, "distance": None, "decided": False, "channels": {}}
        of, leading = next(iter(channels.items()))
        return {"of": of, **{key: value for key, value in leading.items() if key != "shares"}, "channels": channels}

    def to_dict(self) -> Document:
        """For the state, as JSON values."""
        channels = {name: channel.to_dict() for name, channel in self.channels.items()}
        return {"confusion": self.confusion.to_dict(), "channels": channels}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Drift:
        """The inverse of `to_dict`."""
        made = cls()
        made.confusion = Confusion.from_dict(state["confusion"])
        made.channels = {name: ValueDrift.from_dict(channel) for name, channel in state["channels"].items()}
        return made


# Values of any model: 6e-8 to 1e12. Confidences: 1/1024 to 1. Lengths in characters.
_CHANNELS: Final = {
    "values": lambda: ValueDrift(signed=True, low_exponent=-24, high_exponent=40),
    "length": lambda: ValueDrift(signed=False, low_exponent=0, high_exponent=24),
    "confidence": lambda: ValueDrift(signed=False, low_exponent=-10, high_exponent=1),
}
_ORDER: Final = {"values": 0, "length": 1, "confidence": 2}


def _channel_order(entry: tuple[str, ValueDrift]) -> int:
    return _ORDER[entry[0]]


def label_names(labels: Iterable[Label]) -> list[str]:
    """Labels as text: texts as they are, all else as JSON writes it; a text that reads like another label is quoted."""
    labels = list(labels)
    others = {json.dumps(label) for label in labels if not isinstance(label, str)}
    return [
        (json.dumps(label, ensure_ascii=False) if label in others else label) if isinstance(label, str) else json.dumps(label)
        for label in labels
    ]


def _known_label(label: Label) -> Label:
    """A label as a table can keep it and JSON can write it."""
    if isinstance(label, float):
        return int(label) if label.is_integer() else label if math.isfinite(label) else str(label)
    if isinstance(label, str):
        return label[:_LABEL_LENGTH].encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(label, int) and not isinstance(label, bool) and abs(label) >= 1 << 63:
        return f"{label:.6e}" if abs(label) < 10**300 else "a huge number"
    return label


def _label_order(label: Label) -> tuple[int, float, str]:
    if isinstance(label, (bool, int, float)):
        return (0, float(label), "")
    return (1, 0.0, label) if isinstance(label, str) else (2, 0.0, "")


def _first_number(value: Any) -> float:
    number = value[0] if isinstance(value, tuple) and value else value
    try:
        return float(number)
    except (OverflowError, TypeError):
        return math.nan


def _confidence(prediction: Prediction) -> float | None:
    """The largest probability that the prediction gives, None when it gives none."""
    for output in (prediction, *prediction.also):
        if output.kind is _PROBABILITIES and output.value:
            most = max(output.value)
            return float(most) if 0.0 <= most <= 2.0 else None
    return None


def _in_deciles(blue: Histogram, green: Histogram) -> tuple[Floats, Floats, list[str]]:
    """Counts of both in ten bins cut at blue's deciles (fewer where values repeat), and the bins' names."""
    if not blue.n:
        return np.zeros(1), np.zeros(1), ["all"]
    lower, upper = blue.edges()
    cumulative = blue.cumulative()
    ranks = np.ceil(np.arange(1, _BINS) / _BINS * blue.n)
    cuts = np.unique(np.searchsorted(cumulative, ranks))
    cuts = cuts[cuts < len(cumulative) - 1]
    counts = []
    for histogram in (blue, green):
        at_cuts = np.concatenate(([0], histogram.cumulative()[cuts], [histogram.n]))
        counts.append(np.diff(at_cuts).astype(np.float64))
    ends = [f"{float(upper[cut]):.4g}" for cut in cuts]
    del lower
    names = [f"up to {end}" for end in ends] + ([f"over {ends[-1]}"] if ends else ["all"])
    return counts[0], counts[1], names


def _divergences(blue: NDArray[Any], green: NDArray[Any]) -> Document:
    """Population stability index, and Jensen-Shannon divergence in bits (Lin 1991), which lies in [0, 1]."""
    b, g = (np.asarray(counts, dtype=np.float64) + _PSEUDO_COUNT for counts in (blue, green))
    b, g = b / b.sum(), g / g.sum()
    middle = 0.5 * (b + g)
    psi = float(((g - b) * np.log(g / b)).sum())
    js = float(0.5 * (b * np.log2(b / middle)).sum() + 0.5 * (g * np.log2(g / middle)).sum())
    return {"psi": psi, "js": max(js, 0.0)}
