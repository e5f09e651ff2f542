"""How evidence is gathered: everything `Evidence` is told, read once from the plain JSON of the settings.

Only what the evidence itself needs is here. The thresholds of gates are read too, because an interval that stands beside the
threshold it will be held against is worth more than one that stands alone; they decide nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from models.predictions.prediction import Kind, Options, Pointer, Protocol
from shadow.compare import CompareOptions

# The reservoirs' places are part of the state, which is written several times a second.
MAX_RECORDED: Final = 20_000
# Without a gate on slices, a slice is suspect when fewer of its pairs agree than this.
SLICE_FLOOR: Final = 0.95


@dataclass(frozen=True, slots=True)
class RecordOptions:
    """Which pairs are kept whole. `disagreements` and `others` are numbers of pairs, at most `MAX_RECORDED`; `body` is in
    bytes, for each body; `redact` holds `header:NAME` and `json:/pointer`.
    """

    disagreements: int = 1000
    others: int = 1000
    body: int = 1 << 16
    redact: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for rule in self.redact:
            if not rule.startswith(("header:", "json:/")):
                raise ValueError(f"record.redact has {rule!r}: write header:NAME or json:/pointer")


@dataclass(frozen=True, slots=True)
class EvidenceOptions:
    """How answers are read, compared and counted.

    `python`: the name of a comparison of the operator's own, looked for in `python_directory` first. `alpha`: the error
    probability of every interval and decision. `floor`: the agreement that a gate asks for, None where none does. `margin`:
    the excess of disagreement over blue's own noise that is put up with. `objective_ms`: the latency that answers shall not
    exceed. `warm_up`: how many pairs at a release's start are kept out of the latencies.
    """

    decode: Options = field(default_factory=Options)
    compare: CompareOptions = field(default_factory=CompareOptions)
    python: str | None = None
    python_directory: Path | None = None
    slices: tuple[str, ...] = ()
    record: RecordOptions = field(default_factory=RecordOptions)
    warm_up: int = 0
    alpha: float = 0.05
    floor: float | None = None
    slice_floor: float = SLICE_FLOOR
    margin: float = 0.01
    objective_ms: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.alpha < 1.0:
            raise ValueError(f"alpha is {self.alpha!r}: give an error probability between 0 and 1, such as 0.05")
        if self.objective_ms is not None and not self.objective_ms > 0.0:
            raise ValueError(f"the latency objective is {self.objective_ms!r} ms: give a time above 0")
        for rule in self.slices:
            if not rule.startswith(("header:", "json:/")):
                raise ValueError(f"slices has {rule!r}: write header:NAME or json:/pointer")

    @classmethod
    def from_settings(cls, document: Mapping[str, Any]) -> EvidenceOptions:
        """The options in the settings as plain JSON (durations in seconds, sizes in bytes); what is left out has its default.

        Reads `compare`, `slices`, `record`, `shadow.warm_up`, and of `rollout` the level and the gates' thresholds. Raises
        ValueError that says which value is wrong.
        """
        compare, record = _section(document, "compare"), _section(document, "record")
        rollout = _section(document, "rollout")
        gates = _section(rollout, "gates")
        agreement, objective, slices = (_section(gates, name) for name in ("agreement", "objective", "slices"))
        defaults, records, strict = cls(), RecordOptions(), CompareOptions()
        pointers = tuple(Pointer(at, name) for name, at in _section(compare, "pointers").items())
        kind = compare.get("kind")
        floor = agreement.get("min")
        limit = objective.get("latency_ms")
        return cls(
            decode=Options(
                protocol=Protocol(compare.get("protocol", "auto")),
                kind=Kind(kind) if kind is not None else None,
                pointers=pointers,
            ),
            compare=CompareOptions(
                rtol=float(compare.get("rtol", strict.rtol)),
                atol=float(compare.get("atol", strict.atol)),
                ignore=tuple(compare.get("ignore", strict.ignore)),
                similarity_floor=float(compare.get("similarity_floor", strict.similarity_floor)),
                cosine_floor=float(compare.get("cosine_floor", strict.cosine_floor)),
            ),
            python=compare.get("python"),
            python_directory=Path(document["directory"]) if "directory" in document else None,
            slices=tuple(document.get("slices") or ()),
            record=RecordOptions(
                disagreements=min(int(record.get("disagreements", records.disagreements)), MAX_RECORDED),
                others=min(int(record.get("others", records.others)), MAX_RECORDED),
                body=int(record.get("body", records.body)),
                redact=tuple(record.get("redact", ())),
            ),
            warm_up=int(_section(document, "shadow").get("warm_up", 0)),
            alpha=float(rollout.get("alpha", defaults.alpha)),
            floor=None if floor is None else float(floor),
            slice_floor=float(slices.get("min", SLICE_FLOOR if floor is None else floor)),
            margin=float(agreement.get("margin", defaults.margin)),
            objective_ms=None if limit is None else float(limit),
        )


def _section(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = document.get(name)
    return value if isinstance(value, Mapping) else {}
