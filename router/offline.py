"""The verdict before any deployment: recorded exchanges, a candidate, and the same comparison and gates as in the router.

    from router.offline import backtest
    found = backtest("exchanges.jsonl", "http://127.0.0.1:9002", config="bluegreen.yaml")
    found.verdict["verdict"], found.evidence["agreement"]

The recorded answers are blue's. With a `blue` to ask once more, its noise and latencies that are comparable are measured as
well; without it the gates that need them stay undecided. Labels, if there are any, are joined by request id as feedback is.
Nothing is written anywhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import time
from typing import Any, Final

from models.predictions.prediction import Decoded
from router.recording import Recorded, read_recording
from router.replay import RELEASE, ReplayError, Sent, arm_at, replay_options, send
from router.rollout.asked import asked
from router.rollout.gates import judge
from router.rollout.own_gate import OwnGateError, OwnGateRunner, load_gate
from router.rollout.policy import Policy
from router.rollout.policy_settings import lacks_of, parse_policy
from router.rollout.verdict import NO_TRAFFIC
from router.settings import load_settings
from shadow.decisions import decision_words, label_words
from shadow.draws import Drawn
from shadow.evidence import Evidence, EvidenceOptions
from shadow.experiment import Experiment
from shadow.observation import Observation

Document = dict[str, Any]
Progress = Callable[[int], None]

# A label of a recorded request tells of both arms' answers; no split is involved.
_NOT_SPLIT: Final = Drawn(None, False, 0.0, 0)


@dataclass(frozen=True, slots=True)
class Backtest:
    """`evidence` as `GET /v1/evidence` gives it; `verdict` of the policy, with its gates; `skipped` counts
    exchanges that could not be used, by reason; `seconds` is what it took.
    """

    evidence: Document
    verdict: Document
    skipped: dict[str, int]
    seconds: float

    def to_dict(self) -> Document:
        """Plain JSON values."""
        return {"evidence": self.evidence, "verdict": self.verdict, "skipped": self.skipped, "seconds": round(self.seconds, 3)}


@dataclass(slots=True)
class Replayed:
    """What came of sending exchanges to one server: statuses and failures by count, against those recorded, and times in ms."""

    sent: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    recorded: Counter[str] = field(default_factory=Counter)
    same_status: int = 0
    milliseconds: list[float] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def to_dict(self) -> Document:
        """Plain JSON values; quantiles of the answers that were whole."""
        times = sorted(self.milliseconds)
        levels = (0.5, 0.95, 0.99)
        quantiles = {f"p{round(100 * p)}": times[min(int(p * len(times)), len(times) - 1)] if times else None for p in levels}
        return {
            "sent": self.sent,
            "statuses": dict(self.statuses),
            "recorded": dict(self.recorded),
            "same_status": self.same_status,
            "latency_ms": quantiles,
            "per_second": self.sent / self.seconds if self.seconds else None,
            "skipped": self.skipped,
            "seconds": round(self.seconds, 3),
        }


def backtest(
    recording: str | Path | Iterable[Recorded],
    green: str,
    *,
    config: str | Path | Mapping[str, Any] | None = None,
    blue: str | None = None,
    labels: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
    rate: float | None = None,
    in_flight: int = 16,
    progress: Progress | None = None,
) -> Backtest:
    """Send every recorded request to `green` (a server's URL), compare, and judge by the policy in `config`.

    `config` is a configuration file or a mapping of its sections (`{"rollout": {"gates": …}, "compare": …}`); without a
    `rollout` in it the default policy judges. `blue` is a URL at which the old model can be asked once more. `labels` gives
    what was true by request id. `headers` are set on every request, since credentials are not recorded. Raises ReplayError,
    RecordingError, SettingsError and PolicyError.
    """
    settings = _settings(config)
    policy = _checked_policy(settings)
    verdict_of = _judge_by(policy, settings)
    # With the gates that hold where the settings name none: what is shown of the evidence rests on them.
    options = EvidenceOptions.from_settings({**settings, "rollout": policy.to_dict()})
    evidence, experiment = Evidence(RELEASE, options), Experiment(options.alpha)
    truth = {str(request): label_words(label) for request, label in (labels or {}).items()}

    def observed(observation: Observation) -> None:
        evidence.observe(observation)
        label = truth.get(observation.request_id)
        if label is not None and evidence.readings is not None:
            answers = [side.answer if side.served else None for side in evidence.readings]
            words = [decision_words(answer) if isinstance(answer, Decoded) else None for answer in answers]
            experiment.label(_NOT_SPLIT, label, words[0], words[1], answer=None, keyed=False)

    exchanges = _Answered(recording)
    sent = send(
        exchanges,
        arm_at(green, "green", headers),
        observed,
        blue=arm_at(blue, "blue", headers) if blue is not None else None,
        options=replay_options(settings, rate=rate, in_flight=in_flight),
        progress=progress,
    )
    if not sent.exchanges:
        why = ", ".join(f"{count} {reason}" for reason, count in (exchanges.skipped + sent.let_go).items()) or "it is empty"
        raise ReplayError(f"there is no exchange in the recording to compare: {why}")
    now = time()
    document = {**evidence.snapshot(now), **({"feedback": experiment.sections()["feedback"]} if truth else {})}
    return Backtest(document, verdict_of(document, evidence.state(), now), dict(exchanges.skipped + sent.let_go), sent.seconds)


def replay(
    recording: str | Path | Iterable[Recorded],
    to: str,
    *,
    headers: Mapping[str, str] | None = None,
    rate: float | None = None,
    in_flight: int = 16,
    progress: Progress | None = None,
) -> Replayed:
    """Send every recorded request to a server, whichever arm answered it then. Raises ReplayError and RecordingError."""
    found = Replayed()

    def observed(observation: Observation) -> None:
        outcome = observation.green
        found.sent += 1
        found.statuses[outcome.failure or str(outcome.status)] += 1
        found.recorded[str(observation.blue.status)] += 1
        found.same_status += outcome.failure is None and outcome.status == observation.blue.status
        if outcome.failure is None:
            found.milliseconds.append(outcome.total_ms)

    exchanges = read_recording(recording) if isinstance(recording, str | Path) else recording
    options = replay_options({}, rate=rate, in_flight=in_flight)
    sent: Sent = send(exchanges, arm_at(to, "candidate", headers), observed, options=options, progress=progress)
    found.skipped, found.seconds = dict(sent.let_go), sent.seconds
    return found


class _Answered:
    """The exchanges of a recording whose answer is blue's; the others are counted in `skipped`."""

    def __init__(self, recording: str | Path | Iterable[Recorded]) -> None:
        self._recording = recording
        self.skipped: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Recorded]:
        recording = self._recording
        for recorded in read_recording(recording) if isinstance(recording, str | Path) else recording:
            if recorded.colour == "blue":
                yield recorded
            else:
                self.skipped["answered by green then"] += 1


def _settings(config: str | Path | Mapping[str, Any] | None) -> Mapping[str, Any]:
    if config is None or isinstance(config, Mapping):
        return config or {}
    path = Path(config)
    return {**load_settings(path).to_json(), "directory": str(path.absolute().parent)}


def _checked_policy(settings: Mapping[str, Any]) -> Policy:
    """The settings' policy, or the one that holds where they name none. Raises PolicyError, ReplayError."""
    policy = parse_policy(settings.get("rollout") or {})
    if (lack := lacks_of(policy, settings)) is not None:
        raise ReplayError(lack)
    return policy


def _judge_by(policy: Policy, settings: Mapping[str, Any]) -> Callable[[Document, Document, float], Document]:
    """Judges evidence and its state, and says what they were held against. Raises ReplayError."""
    own = None
    if policy.gates.python is not None:
        directory = settings.get("directory")
        try:
            own = OwnGateRunner(load_gate(policy.gates.python, Path(directory) if directory else None))
        except OwnGateError as error:
            raise ReplayError(str(error)) from None
    held_against = asked(policy)
    return lambda document, state, now: {
        **judge(document, NO_TRAFFIC, policy, now, state=state, own=own).to_dict(),
        "asked": held_against,
    }
