"""What one release's pairs say altogether.

`Evidence` reads and compares each observation once, and keeps only counts, histograms and small samples: memory and state are
bounded whatever the traffic. It knows no clock, no socket and no file; the caller passes `now`, stores `state()` and records.
Every exchange that was sampled is counted exactly once: as a pair, when both arms served it and both answers could be read, or
as dropped, with the reason. Three questions are kept apart, so that none can flatter another: does green answer (errors), can
its answer be read (unreadable), does it say the same (agreement).

Every interval and every decision here may be looked at after each observation, and is wrong at any time with probability at
most alpha: each by itself, not all together. Whoever acts on several at once has to divide alpha (`shadow.multiplicity`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from models.predictions.prediction import Decoded, Kind, Unreadable
from shadow.answers import Blame, Reading, blame, is_client_retry, read, wire
from shadow.compare import Comparison, compare
from shadow.compare import Outcome as Compared
from shadow.custom import Failure, OwnComparison, UnusableComparison, answer_of, compare_with, load_comparison
from shadow.drift import Drift
from shadow.evidence_options import EvidenceOptions
from shadow.finite import finite
from shadow.latency import Latency
from shadow.measures import TEXT, Measures, Numbers
from shadow.noise import NoiseComparison
from shadow.observation import Observation
from shadow.paired import McNemar
from shadow.records import Records
from shadow.sections import Document, pair_sections
from shadow.sequential import Bernoulli
from shadow.slices import AGREED, BETTER, BLUE_FAILED, DIFFERED, GREEN_FAILED, WORSE, Slices
from shadow.words import summary

__all__ = ["Evidence", "EvidenceOptions"]

STATE_VERSION: Final = 1
# Every key of these counters is one of a closed set, but for reasons that callers give to `drop`.
MAX_REASONS: Final = 64
# Kinds whose answers are alike by degrees, so that noise can be judged by similarity too.
_BY_DEGREES: Final = frozenset({Kind.PROBABILITIES, Kind.NUMBERS, Kind.VECTORS, Kind.TEXT, Kind.RANKED})


class Evidence:
    """The evidence about one release; see the module. Not safe for several threads at once."""

    def __init__(self, release: int, options: EvidenceOptions, state: Mapping[str, Any] | None = None) -> None:
        """Empty, or going on from a `state()`. Raises ValueError, KeyError or TypeError for one that is none."""
        self.release, self.options = release, options
        self.received = 0
        self.dropped_by: dict[str, int] = {}
        self.retries = 0
        self.unreadable: dict[str, dict[str, int]] = {"blue": {}, "green": {}}
        self.unread = McNemar()
        self.agreement = Bernoulli()
        self.noise = NoiseComparison(options.margin, options.margin, options.alpha)
        self.noise_lost = 0  # noise pairs whose second answer of blue could not be used
        self.errors = McNemar()
        self.errors_both = self.refused = self.fell_back = 0
        self.latency = Latency(options.warm_up, options.objective_ms)
        self.drift = Drift()
        self.numbers, self.measures = Numbers(), Measures()
        self.slices = Slices(options.slices)
        self.records = Records(release, options.record)
        self.partial = 0
        # (protocol, how it was recognised, kind or "", dialect of the stream or "") -> pairs; all of them closed sets.
        self.read_as: dict[tuple[str, str, str, str], int] = {}
        self.troubles: dict[str, int] = {}
        self.own_n = self.own_failures = 0
        self.own_last: str | None = None
        self.internal_failures, self.internal_last = 0, ""
        self.readings: tuple[Reading, Reading] | None = None  # blue's and green's of the last observation, if it was read
        self._own = _own_comparison(options)
        if state is not None:
            self._restore(state)

    # --- observing ---

    @property
    def pairs(self) -> int:
        """Exchanges that both arms served and that were compared."""
        return self.agreement.n

    @property
    def dropped(self) -> int:
        """Exchanges that were sampled and not compared, for any reason."""
        return sum(self.dropped_by.values())

    def drop(self, reason: str, count: int = 1) -> None:
        """Count exchanges that were sampled and will never be observed."""
        if count <= 0:
            return
        self.received += count
        self._dropped(reason, count)

    def take_back(self, reason: str, count: int) -> int:
        """Uncount drops that were presumed (lost, as it seemed) and came after all. Returns how many were taken back."""
        known = self.dropped_by.get(reason, 0)
        back = max(0, min(count, known))
        if back:
            self.received -= back
            self.dropped_by[reason] = known - back
            if back == known:
                del self.dropped_by[reason]
        return back

    def observe(self, observation: Observation) -> None:
        """Read, compare and count one observation. Never raises, whatever the bytes."""
        self.received += 1
        self.readings = None
        try:
            self._observe(observation)
        except Exception as error:
            # A fault of ours in one pair must not end the shadow; it is counted, shown, and loses that pair only.
            self.internal_failures += 1
            self.internal_last = f"{type(error).__name__}: {error}"[:300]
            if self.pairs + self.dropped < self.received:
                self._dropped("fault in the evidence")

    def _observe(self, observation: Observation) -> None:
        if is_client_retry(observation):
            self.retries += 1
            self._dropped("client's retry")
            return
        self.fell_back += observation.fell_back
        decode = self.options.decode
        blue, green = read(observation, observation.blue, decode), read(observation, observation.green, decode)
        self.readings = blue, green
        guilty = blame(blue, green)
        rows = self.slices.rows(observation)
        again = None
        mirrored, twin = observation.mirrored_green, green
        if observation.again is not None:
            again = read(observation, observation.again, decode)
            if mirrored is not None:
                twin = green if mirrored is observation.green else read(observation, mirrored, decode)
                self.latency.update_objective(observation.again, mirrored, again.served, twin.served)
        self.errors.update(guilty is Blame.GREEN, guilty is Blame.BLUE)
        if guilty is not Blame.NOBODY:
            self._failed(observation, guilty, blue, green, rows)
            return
        if again is not None and again.served and observation.again is not None and mirrored is not None and twin.served:
            self.latency.update_pair(observation.again, mirrored)
            tokens = _tokens(again.answer), _tokens(twin.answer)
            if tokens != (None, None) or mirrored.gaps_ms:
                self.latency.update_stream(observation.again, mirrored, *tokens)
        self.latency.update_live(observation.live, observation.blue, observation.green)
        self._compare(observation, blue, green, again, rows)

    def _failed(self, observation: Observation, guilty: Blame, blue: Reading, green: Reading, rows: list[list[int]]) -> None:
        """A pair in which an arm did not serve the request."""
        if guilty is Blame.REFUSED:
            self.refused += 1
            self._dropped("refused by both")
            return
        if guilty is Blame.BOTH:
            self.errors_both += 1
        for row in rows:
            row[GREEN_FAILED] += guilty is Blame.GREEN
            row[BLUE_FAILED] += guilty is Blame.BLUE
        who = {Blame.GREEN: "green failed", Blame.BLUE: "blue failed", Blame.BOTH: "both failed"}[guilty]
        self._dropped(who)
        said = [f"{colour} {side.trouble}" for colour, side in (("blue", blue), ("green", green)) if side.trouble]
        if guilty is Blame.GREEN:
            _count(self.troubles, green.trouble.partition(":")[0])
        self.records.offer(observation, None, f"{who}: {', '.join(said)}")

    def _compare(
        self, observation: Observation, blue: Reading, green: Reading, again: Reading | None, rows: list[list[int]]
    ) -> None:
        """A pair that both arms served."""
        judged = self._judge(observation, blue.answer, green.answer)
        if isinstance(judged, Failure):
            self.own_failures += 1
            self.own_last = judged.reason
            self._dropped("own comparison failed")
            self.records.offer(observation, None, f"own comparison failed: {judged.reason}")
            return
        if judged.outcome is Compared.UNREADABLE:
            sides = [colour for colour, _ in judged.unreadable]
            self.unread.update("green" in sides, "blue" in sides)
            for colour, reason in judged.unreadable:
                _count(self.unreadable[colour], str(reason))
            self._dropped("unreadable")
            self.records.offer(observation, judged, judged.reason or "unreadable")
            return
        self.unread.update(False, False)
        agree = judged.agree
        self.agreement.update(agree)
        self.partial += judged.partial
        worse = better = False
        if again is not None:
            worse, better = self._against_noise(observation, blue, again, judged)
        for row in rows:
            row[AGREED if agree else DIFFERED] += 1
            row[WORSE] += worse
            row[BETTER] += better
        self._describe(observation, blue.answer, green.answer, judged)
        self.records.offer(observation, judged, None)

    def _judge(self, observation: Observation, blue: Decoded | Unreadable, green: Decoded | Unreadable) -> Comparison | Failure:
        """The comparison that decides: the operator's own where there is one."""
        if self._own is None:
            return compare(blue, green, self.options.compare)
        return self._own_judgement(observation, observation.green)

    def _own_judgement(self, observation: Observation, other: Any) -> Comparison | Failure:
        """The operator's comparison of blue's answer with another one to the same request."""
        assert self._own is not None
        decode = self.options.decode
        try:
            ours, theirs = answer_of(wire(observation, observation.blue), decode), answer_of(wire(observation, other), decode)
        except Unreadable as refusal:
            return compare(refusal, refusal)
        self.own_n += 1
        return compare_with(self._own, ours, theirs, self.options.compare.similarity_floor)

    def _against_noise(self, observation: Observation, blue: Reading, again: Reading, judged: Comparison) -> tuple[bool, bool]:
        """Judges green against blue's second answer. Returns (green alone differs, blue alone differs)."""
        second: Comparison | Failure | None = None
        if again.served:
            if self._own is None:
                second = compare(blue.answer, again.answer, self.options.compare)
            else:
                second = self._own_judgement(observation, observation.again)
        if second is None or isinstance(second, Failure) or second.outcome is Compared.UNREADABLE:
            self.noise_lost += 1
            return False, False
        alike = judged.kind in _BY_DEGREES if self._own is None else True
        if alike and 0.0 <= judged.similarity <= 1.0 and 0.0 <= second.similarity <= 1.0:
            self.noise.update(not judged.agree, not second.agree, judged.similarity, second.similarity)
        else:
            self.noise.update(not judged.agree, not second.agree)
        return not judged.agree and second.agree, judged.agree and not second.agree

    def _describe(
        self, observation: Observation, blue: Decoded | Unreadable, green: Decoded | Unreadable, judged: Comparison
    ) -> None:
        """What else a pair tells: distributions, differences, measures, and how it was read."""
        described = judged
        if self._own is not None:
            self.measures.update(judged.measures, own=True)
            described = compare(blue, green, self.options.compare)
        if isinstance(blue, Unreadable) or isinstance(green, Unreadable):
            return
        key = (blue.protocol, blue.recognised, described.kind or "", blue.stream.dialect if blue.stream is not None else "")
        self.read_as[key] = self.read_as.get(key, 0) + 1
        if described.outcome is Compared.UNREADABLE:
            return
        self.drift.update(blue, green, described, observation.request_id)
        if described.differences:
            self.numbers.update(described.differences)
        if described.measures and self._own is None:
            self.measures.update(described.measures)

    def _dropped(self, reason: str, count: int = 1) -> None:
        _count(self.dropped_by, reason, count)

    # --- telling ---

    def take_records(self, now: float) -> list[Document]:
        """The pairs that came to be kept since the last call, each the fields of a stored pair: `release`, `when`,
        `request_id`, `agree`, `disagreement`, `content`. Delete the rows whose ids are in `forget`, and tell `kept` the ids of
        the new rows; without that the samples still hold, but old rows stay until they are pruned.
        """
        del now  # each pair has the time of its exchange
        return self.records.take()

    @property
    def forget(self) -> list[int]:
        """Ids of stored pairs whose places in the samples the last records taken have now."""
        return self.records.forget

    def kept(self, ids: Sequence[int]) -> None:
        """The ids of the records of the last `take_records`, in its order."""
        self.records.kept(ids)

    def snapshot(self, now: float) -> Document:
        """The evidence as JSON values, with no NaN or infinity (docs/evidence.md says what each key means)."""
        options, alpha = self.options, self.options.alpha
        measures = self.measures.snapshot(alpha)
        text = {name: measures.pop(name) for name in TEXT if name in measures}
        document: Document = {
            "release": self.release,
            "alpha": alpha,
            "as_of": now,
            "pairs": self.pairs,
            "received": self.received,
            "dropped": self.dropped,
            "dropped_by": dict(self.dropped_by),
            "retries": self.retries,
            **pair_sections(self),
            "latency": self.latency.snapshot(alpha),
            "drift": self.drift.snapshot(alpha),
            "confusion": self.drift.confusion.snapshot(),
            "numbers": self.numbers.snapshot(alpha),
            "text": {"n": text["exact"]["n"] if "exact" in text else 0, **text},
            "measures": measures,
            "slices": self.slices.snapshot(alpha, options.slice_floor),
            "slices_total": self.slices.total,
            "protocols": self._read_as(0),
            "recognised": self._read_as(1),
            "kinds": self._read_as(2),
            "stream_dialects": self._read_as(3),
            "compared_in_part": self.partial,
            "custom": None if options.python is None else self._own_section(),
            "records": self.records.snapshot(),
            "internal_failures": {"n": self.internal_failures, "last": self.internal_last},
        }
        written: Document = finite(document)
        written["summary"] = summary(written, alpha)
        return written

    def _read_as(self, part: int) -> dict[str, int]:
        found: dict[str, int] = {}
        for key, pairs in self.read_as.items():
            if key[part]:
                found[str(key[part])] = found.get(str(key[part]), 0) + pairs
        return found

    def _own_section(self) -> Document:
        return {"name": self.options.python, "n": self.own_n, "failures": self.own_failures, "last": self.own_last}

    # --- state ---

    def state(self) -> Document:
        """Everything, as JSON values: an `Evidence` made with it goes on exactly. Under 1 MB whatever the traffic."""
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        parts = {name: getattr(self, name).to_dict() for name in _PARTS}
        return {
            "version": STATE_VERSION,
            **numbers,
            **parts,
            "dropped_by": dict(self.dropped_by),
            "unreadable": {side: dict(reasons) for side, reasons in self.unreadable.items()},
            "troubles": dict(self.troubles),
            "read_as": [[*map(str, key), pairs] for key, pairs in self.read_as.items()],
            "own_last": self.own_last,
            "internal_last": self.internal_last,
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        if state["version"] != STATE_VERSION:
            raise ValueError(
                f"a state of version {state['version']!r}, not {STATE_VERSION}: it is from another release of bluegreen"
            )
        for name in _NUMBERS:
            setattr(self, name, int(state[name]))
        options = self.options
        self.unread, self.errors = McNemar.from_dict(state["unread"]), McNemar.from_dict(state["errors"])
        self.agreement = Bernoulli.from_dict(state["agreement"])
        noise = NoiseComparison.from_dict(state["noise"])
        if (noise.margin, noise.alpha) == (self.noise.margin, self.noise.alpha):
            self.noise = noise
        else:
            # The bets were placed at another margin; the counts of yes and no hold at any.
            self.noise.pairs, self.noise.blue = noise.pairs, noise.blue
        self.latency = Latency.from_dict(state["latency"], options.warm_up, options.objective_ms)
        self.drift = Drift.from_dict(state["drift"])
        self.numbers, self.measures = Numbers.from_dict(state["numbers"]), Measures.from_dict(state["measures"])
        self.slices = Slices.from_dict(state["slices"], options.slices)
        self.records.restore(state["records"])
        self.dropped_by = {reason: int(count) for reason, count in state["dropped_by"].items()}
        self.unreadable = {side: dict(state["unreadable"][side]) for side in ("blue", "green")}
        self.troubles = dict(state["troubles"])
        self.read_as = {(str(p), str(r), str(k), str(d)): int(pairs) for p, r, k, d, pairs in state["read_as"]}
        self.own_last, self.internal_last = state["own_last"], str(state["internal_last"])


_NUMBERS: Final = (
    "received", "retries", "noise_lost", "errors_both", "refused", "fell_back", "partial", "own_n", "own_failures",
    "internal_failures",
)  # fmt: skip
_PARTS: Final = (
    "agreement", "unread", "noise", "errors", "latency", "drift", "numbers", "measures", "slices", "records",
)  # fmt: skip


def _own_comparison(options: EvidenceOptions) -> OwnComparison | None:
    """The operator's comparison; where it cannot be loaded, one that fails on every pair and says why."""
    if options.python is None:
        return None
    try:
        return load_comparison(options.python, options.python_directory)
    except UnusableComparison as error:
        return _always_failing(str(error))


def _always_failing(why: str) -> Callable[[Any, Any], object]:
    def fail(blue: Any, green: Any) -> object:
        raise UnusableComparison(why)

    return fail


def _tokens(answer: Decoded | Unreadable) -> int | None:
    """How many tokens an answer has: as the server counted them, else the pieces of the stream."""
    if isinstance(answer, Unreadable) or answer.stream is None:
        return None
    return answer.tokens if answer.tokens is not None else answer.stream.chunks


def _count(tally: dict[str, int], key: str, count: int = 1) -> None:
    if key not in tally and len(tally) >= MAX_REASONS:
        key = "(other)"
    tally[key] = tally.get(key, 0) + count
