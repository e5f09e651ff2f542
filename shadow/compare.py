"""Two decoded answers -> one `Comparison`: whether green agrees with blue, how alike they are, and how they differ,
by the kind of prediction.

What counts as agreement of one output of one item:

| kind | agreement | similarity in [0, 1] |
|---|---|---|
| labels | the same label (1, 1.0 and true are the same; "1" is not) | share of equal labels |
| probabilities | the same most probable class (see below) | 1 - total variation distance |
| numbers | within max(rtol * larger, atol) | 1 - abs(a - b) / (abs(a) + abs(b)), 1 when they agree |
| vectors | cosine >= `cosine_floor` | (1 + cosine) / 2 |
| text | equal, or edit similarity >= `similarity_floor` | edit similarity |
| ranked | equal, or average overlap >= `similarity_floor` | average overlap (Fagin, Kumar, Sivakumar 2003) |
| json | no field differs | share of equal fields |

An item agrees when all its outputs do, a pair when all its items do. All of it is symmetric in blue and green, except
for signs. Shapes that mean the same have become the same in the decoding; where the two sides were still judged to be
of different kinds, the kind that fits both decides. An answer that could not be read is its own outcome, and so is a
pair in which nothing is left to compare: silence is not agreement. Distances between probabilities do not decide
because any two models differ in the last digit; a limit on them is a statistic over many pairs, not a property of
one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import Final

from models.predictions.prediction import Decoded, Kind, Label, Prediction, Reason, Unreadable
from models.record import record
from shadow import json_fields, kind_measures
from shadow.json_fields import FieldDifference, is_ignored
from shadow.kind_measures import Judged, Limits

MAX_DIFFERENCES: Final = 1_000
MAX_FIELDS: Final = 50
_MAX_PATHS: Final = 1_000


class Outcome(StrEnum):
    """What came of a pair. UNREADABLE says nothing about agreement and does not enter its rate."""

    AGREE = "agree"
    DISAGREE = "disagree"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """How strict a comparison is.

    `rtol` and `atol`: two numbers agree within max(rtol * larger, atol). `ignore`: JSON pointers to what is not
    compared; one to an output (`/outputs/1`) leaves out that output. `similarity_floor`: the least edit similarity of
    texts and overlap of ranked lists that still agree. `cosine_floor`: the same for vectors. `limits`: the same without
    the pointers, as the measures of one kind take it. Raises ValueError, saying which, for a value that is out of range.
    """

    rtol: float = 1e-5
    atol: float = 1e-8
    ignore: tuple[str, ...] = ("/id", "/model_version")
    similarity_floor: float = 0.9
    cosine_floor: float = 0.99
    limits: Limits = field(init=False, repr=False, compare=False)
    ignored: dict[str, bool] = field(init=False, repr=False, compare=False)  # what was found for the paths that came so far

    def __post_init__(self) -> None:
        for name, tolerance in (("rtol", self.rtol), ("atol", self.atol)):
            if not tolerance >= 0:
                raise ValueError(f"{name} is {tolerance}: a tolerance is 0 or more")
        if not 0 <= self.similarity_floor <= 1:
            raise ValueError(f"similarity_floor is {self.similarity_floor}: a similarity is from 0 to 1")
        if not -1 <= self.cosine_floor <= 1:
            raise ValueError(f"cosine_floor is {self.cosine_floor}: a cosine is from -1 to 1")
        json_fields.ignored_members(self.ignore)
        object.__setattr__(self, "ignored", {})
        object.__setattr__(self, "limits", Limits(self.rtol, self.atol, self.similarity_floor, self.cosine_floor))


@record
class Comparison:
    """What a pair says.

    `kind`: what was compared, None when nothing was. `similarity`: mean over items and outputs. `items` and
    `agreeing`: how many were compared, how many of them agree; `flags` says which. `labels`: (blue, green) decisions
    for a confusion table, one for each item whose kind decides for a class. `differences`: green - blue of numbers,
    at most `MAX_DIFFERENCES`. `measures`: what else the kind measures, means over the items (`max_…`: the largest).
    `fields`: the first `MAX_FIELDS` places that differ. `reason`: why the pair does not agree, in words.
    `unreadable`: for each side that could not be read, ("blue" or "green", reason). `partial`: an answer was recorded
    in part, and the parts that both have were compared.
    """

    outcome: Outcome
    kind: Kind | None
    similarity: float
    items: int = 0
    agreeing: int = 0
    flags: tuple[bool, ...] = ()
    labels: tuple[tuple[Label, Label], ...] = ()
    differences: tuple[float, ...] = ()
    measures: Mapping[str, float] = field(default_factory=lambda: kind_measures.NO_MEASURES)
    fields: tuple[FieldDifference, ...] = ()
    reason: str | None = None
    unreadable: tuple[tuple[str, Reason], ...] = ()
    partial: bool = False

    @property
    def agree(self) -> bool:
        """Whether green answered like blue. False for a pair that could not be read: look at `outcome` first."""
        return self.outcome is _AGREE


DEFAULT_OPTIONS = CompareOptions()
_AGREE: Final = Outcome.AGREE  # looking up a member of an enumeration costs as much as the comparison
_DISAGREE: Final = Outcome.DISAGREE
_LABELS: Final = Kind.LABELS
_JSON: Final = Kind.JSON


def compare(blue: Decoded | Unreadable, green: Decoded | Unreadable, options: CompareOptions = DEFAULT_OPTIONS) -> Comparison:
    """Green's answer against blue's to the same request. Never raises."""
    if isinstance(blue, Unreadable) or isinstance(green, Unreadable):
        return _unreadable(blue, green)
    partial = blue.truncated or green.truncated
    ours, theirs = blue.items, green.items
    if len(ours) != len(theirs):
        kind = _kind_of(ours, theirs)
        reason = f"different number of items: {len(ours)} in blue's answer, {len(theirs)} in green's"
        return Comparison(Outcome.DISAGREE, kind, 0.0, max(len(ours), len(theirs)), reason=reason, partial=partial)
    if ours and (plain := _plain_labels(ours, theirs, options)) is not None:
        return _of_plain_labels(*plain, ours[0].path, partial=partial)
    if len(ours) == 1 and not partial and (single := _of_one_item(ours[0], theirs[0], options)) is not None:
        return single
    tally = _Tally(options, len(ours), partial=partial)
    for one, other in zip(ours, theirs, strict=True):
        tally.add_item(one, other)
    return tally.comparison()


def _plain_labels(
    blue: tuple[Prediction, ...], green: tuple[Prediction, ...], options: CompareOptions
) -> tuple[list[bool], list[tuple[Label, Label]]] | None:
    """Which items agree, and the labels, when every item is one plain label on both sides; None when some are not."""
    labels: list[tuple[Label, Label]] = []
    flags: list[bool] = []
    for one, other in zip(blue, green, strict=True):
        ours, theirs = one.value, other.value
        kind = type(ours)
        if (
            one.kind is not _LABELS
            or other.kind is not _LABELS
            or kind is not type(theirs)
            or (kind is not int and kind is not str)
        ):
            return None
        if one.also or other.also:
            return None
        labels.append((ours, theirs))
        flags.append(ours == theirs)
    if blue[0].path != blue[-1].path or _is_ignored(blue[0].path, options) or _is_ignored(green[0].path, options):
        return None
    return flags, labels


def _of_plain_labels(flags: list[bool], labels: list[tuple[Label, Label]], path: str, *, partial: bool) -> Comparison:
    """The most frequent comparison by far, without the machinery of the others."""
    agreeing = sum(flags)
    if agreeing == len(flags):
        return Comparison(_AGREE, _LABELS, 1.0, agreeing, agreeing, tuple(flags), tuple(labels), partial=partial)
    different = islice((pair for pair in labels if pair[0] != pair[1]), MAX_FIELDS)
    return Comparison(
        Outcome.DISAGREE,
        _LABELS,
        agreeing / len(flags),
        len(flags),
        agreeing,
        tuple(flags),
        tuple(labels),
        fields=tuple(FieldDifference(path, json_fields.shown(ours), json_fields.shown(theirs)) for ours, theirs in different),
        reason="different label",
        partial=partial,
    )


def _of_one_item(one: Prediction, other: Prediction, options: CompareOptions) -> Comparison | None:
    """The comparison of single items whose outputs stand side by side; None for those that need a `_Tally`.

    That is what most requests ask for, and a tally's accounts for many items take longer than judging one.
    """
    ours, theirs = (one, *one.also), (other, *other.also)
    if len(ours) != len(theirs):
        return None
    if len(ours) > 1 and any(output.name != their.name for output, their in zip(ours, theirs, strict=True)):
        return None
    agree, similarity, reason = True, 0.0, None
    decision: tuple[Label, Label] | None = None
    differences: Sequence[float] = ()
    measures: Mapping[str, float] = kind_measures.NO_MEASURES
    fields: list[FieldDifference] = []
    for output, their in zip(ours, theirs, strict=True):
        kind = output.kind
        if kind is not their.kind or kind is _JSON or _is_ignored(output.path, options) or _is_ignored(their.path, options):
            return None
        judged = kind_measures.judge(kind, output, their, options.limits)
        similarity += judged.similarity
        decision = decision or judged.labels
        if judged.differences:
            if differences:
                return None
            differences = judged.differences
        if judged.measures:
            if measures:
                return None
            measures = judged.measures
        if not judged.agree:
            agree = False
            reason = reason or judged.reason
            if len(fields) < MAX_FIELDS:
                values = json_fields.shown(kind_measures.as_json(output)), json_fields.shown(kind_measures.as_json(their))
                fields.append(FieldDifference(output.path, *values))
    return Comparison(
        _AGREE if agree else _DISAGREE,
        ours[0].kind,
        similarity / len(ours),
        1,
        1 if agree else 0,
        (agree,),
        () if decision is None else (decision,),
        tuple(differences[:MAX_DIFFERENCES]),
        measures,
        tuple(fields),
        reason,
    )


def _unreadable(blue: Decoded | Unreadable, green: Decoded | Unreadable) -> Comparison:
    sides = (("blue", blue), ("green", green))
    found = tuple((colour, answer.reason) for colour, answer in sides if isinstance(answer, Unreadable))
    reason = "; ".join(f"{colour} unreadable: {answer}" for colour, answer in sides if isinstance(answer, Unreadable))
    return Comparison(Outcome.UNREADABLE, None, 0.0, reason=reason, unreadable=found)


def _kind_of(ours: Sequence[Prediction], theirs: Sequence[Prediction]) -> Kind:
    """The kind to name where the two sides do not even match; not both are empty."""
    if ours and theirs:
        return kind_measures.common_kind(ours[0], theirs[0])
    return (ours or theirs)[0].kind


def _is_ignored(path: str, options: CompareOptions) -> bool:
    if not options.ignore:
        return False
    ignored = options.ignored.get(path)
    if ignored is None:
        if len(options.ignored) >= _MAX_PATHS:
            options.ignored.clear()
        ignored = options.ignored[path] = is_ignored(options.ignore, path)
    return ignored


class _Tally:
    """A comparison while its items are added."""

    def __init__(self, options: CompareOptions, batch: int, *, partial: bool) -> None:
        self.options = options
        self.ignore = options.ignore
        self.batch = batch
        self.limits = options.limits
        self.partial = partial
        self.kind: Kind | None = None
        self.flags: list[bool] = []
        self.similarities = 0.0
        self.outputs = 0
        self.labels: list[tuple[Label, Label]] = []
        self.differences: list[float] = []
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        self.fields: list[FieldDifference] = []
        self.reason: str | None = None
        self.leaves = 0  # fields of JSON looked at
        self.too_large = False

    def add_item(self, one: Prediction, other: Prediction) -> None:
        """One item of the batch, with all its outputs."""
        ours, theirs = self._outputs(one), self._outputs(other)
        if not ours and not theirs:
            return  # all of it is ignored
        pairs = _matched(ours, theirs)
        if pairs is None:
            self.kind = self.kind or _kind_of(ours, theirs)
            self.outputs += 1
            names = [sorted(output.name or output.path for output in outputs) for outputs in (ours, theirs)]
            self._disagree(f"different outputs: {names[0]} in blue's answer, {names[1]} in green's")
            self.flags.append(False)
            return
        agree: bool | None = None
        decision: tuple[Label, Label] | None = None
        for our_output, their_output in pairs:
            judged = self._judge(our_output, their_output)
            if judged is not None:
                agree = self._take(judged, our_output, their_output) and agree is not False
                decision = decision or judged.labels  # one for each item: its leading output's
        if agree is not None:
            self.flags.append(agree)
        if decision is not None:
            self.labels.append(decision)

    def comparison(self) -> Comparison:
        """The finished comparison."""
        if self.too_large:
            found = (("blue", Reason.TOO_LARGE), ("green", Reason.TOO_LARGE))
            return Comparison(
                Outcome.UNREADABLE, self.kind, 0.0, reason="more fields than a comparison looks at", unreadable=found
            )
        if not self.flags:
            found = (("blue", Reason.NOTHING), ("green", Reason.NOTHING))
            return Comparison(Outcome.UNREADABLE, None, 0.0, reason=str(Reason.NOTHING), unreadable=found, partial=self.partial)
        agreeing = sum(self.flags)
        outcome = _AGREE if agreeing == len(self.flags) else _DISAGREE
        measures = {name: total if name[:4] == "max_" else total / self.counts[name] for name, total in self.sums.items()}
        return Comparison(
            outcome,
            self.kind,
            self.similarities / self.outputs,
            len(self.flags),
            agreeing,
            tuple(self.flags),
            tuple(self.labels),
            tuple(self.differences),
            measures or kind_measures.NO_MEASURES,
            tuple(self.fields),
            self.reason,
            partial=self.partial,
        )

    def _outputs(self, prediction: Prediction) -> list[Prediction]:
        ignore = self.ignore
        if not prediction.also:
            return [] if _is_ignored(prediction.path, self.options) else [prediction]
        outputs = [prediction, *prediction.also]
        return [output for output in outputs if not _is_ignored(output.path, self.options)] if ignore else outputs

    def _judge(self, one: Prediction, other: Prediction) -> Judged | None:
        """None when there is nothing in this output to judge."""
        kind = one.kind
        if kind is not other.kind:
            kind = kind_measures.common_kind(one, other)
        if self.kind is None:
            self.kind = kind
        if kind is not _JSON:
            return kind_measures.judge(kind, one, other, self.limits, partial=self.partial, batch=self.batch)
        ours, theirs = kind_measures.as_json(one), kind_measures.as_json(other)
        limits = self.options
        path = max(one.path, other.path)  # of two, one and the same for both directions
        compared = json_fields.compare_fields(ours, theirs, limits.ignore, path=path, rtol=limits.rtol, atol=limits.atol)
        self.leaves += compared.leaves if compared is not None else 0
        if compared is None or self.leaves > json_fields.MAX_LEAVES:
            self.too_large = True
            return None
        if not compared.leaves:
            return None
        self.fields.extend(islice(compared.fields, max(MAX_FIELDS - len(self.fields), 0)))
        return Judged(
            kind,
            compared.differing == 0,
            1 - compared.differing / compared.leaves,
            differences=compared.differences,
            measures={"fields": compared.leaves, "fields_differing": compared.differing},
            reason=f"{compared.differing} of {compared.leaves} fields differ",
        )

    def _take(self, judged: Judged, one: Prediction, other: Prediction) -> bool:
        self.outputs += 1
        self.similarities += judged.similarity
        if judged.differences and len(self.differences) < MAX_DIFFERENCES:
            self.differences.extend(islice(judged.differences, MAX_DIFFERENCES - len(self.differences)))
        for name, measure in judged.measures.items():
            if name[:4] == "max_":
                self.sums[name] = max(self.sums.get(name, 0.0), measure)
            else:
                self.sums[name] = self.sums.get(name, 0.0) + measure
                self.counts[name] = self.counts.get(name, 0) + 1
        if not judged.agree:
            self._disagree(judged.reason)
            if judged.kind is not _JSON and len(self.fields) < MAX_FIELDS:
                ours, theirs = (json_fields.shown(kind_measures.as_json(side)) for side in (one, other))
                self.fields.append(FieldDifference(one.path, ours, theirs))
        return judged.agree

    def _disagree(self, reason: str) -> None:
        if self.reason is None:
            self.reason = reason


def _matched(ours: list[Prediction], theirs: list[Prediction]) -> list[tuple[Prediction, Prediction]] | None:
    """The outputs side by side, the leading one first; None when they do not match.

    One on each side matches whatever its name; several match by name, in any order.
    """
    if len(ours) == 1 == len(theirs):
        return [(ours[0], theirs[0])]
    if len(ours) != len(theirs):
        return None
    pairs = list(zip(ours, theirs, strict=True))
    for output, other in pairs:
        if output.name != other.name:
            break
    else:
        return pairs
    by_name = {output.name: output for output in theirs}
    if len(by_name) < len(theirs) or by_name.keys() != {output.name for output in ours}:
        return None
    pairs = [(output, by_name[output.name]) for output in ours]
    # neither order is the right one, so one that is the same whichever side is blue
    return sorted(pairs, key=lambda pair: (pair[0].kind is not _LABELS or pair[1].kind is not _LABELS, pair[0].name))
