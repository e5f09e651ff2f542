"""The analysis of split traffic and feedback: what it counts, how seldom it is wrong, and that it sees what is there."""

import json
import math
from functools import cache

import numpy as np
import pytest

from shadow.draws import BUCKETS, Drawn
from shadow.experiment import SAMPLE_RATIO_ALPHA, Experiment
from shadow.experiment_steps import MAX_STEPS, Steps
from shadow.experiment_words import words
from shadow.sequential import log_threshold

ALPHA = 0.05


def drawn(unit, green, share=0.5, revision=1):
    return Drawn(unit, green, share, revision)


def exposed(experiment, one, *, error=False, latency_ms=5.0, keyed=False, retry=False):
    experiment.expose(one, error=error, latency_ms=latency_ms, at=1000.0, keyed=keyed, retry=retry)


# --- what is counted --------------------------------------------------------------------------------------------------


def test_requests_of_a_user_are_one_unit_and_one_observation():
    experiment = Experiment()
    for _ in range(5):
        exposed(experiment, drawn("ann", True), keyed=True)
        exposed(experiment, drawn("bob", False), error=True, keyed=True)
    told = experiment.sections()["experiment"]
    assert told["units"] == {"blue": 1, "green": 1}
    assert told["exposures"] == {"blue": 5, "green": 5}
    assert told["sample_ratio"]["n"] == 2
    assert told["errors"]["n"] == 2
    # Ann's five requests and bob's first, with which he had failed: after that he tells nothing new.
    assert told["errors"]["events"] == {"n": 1, "blue": 1, "green": 0, "requests": 6, "by_chance": [[0.5, 6, 0, 1]]}
    assert told["latency"]["n"] == 1


def test_without_a_key_every_request_is_a_unit():
    experiment = Experiment()
    for n in range(10):
        exposed(experiment, drawn(None, n % 2 == 0), error=n < 4)
    told = experiment.sections()["experiment"]
    assert told["units"] == told["exposures"] == {"blue": 5, "green": 5}
    assert told["errors"]["events"] == {"n": 4, "blue": 2, "green": 2, "requests": 10, "by_chance": [[0.5, 10, 2, 2]]}


def test_first_failures_are_counted_at_the_chance_that_was_left():
    """Who failed as blue's at 5 % is drawn again at 20 %; who had not failed is drawn for the first time."""
    experiment = Experiment()
    exposed(experiment, drawn("ann", False, 0.05, 1), error=True, keyed=True)
    exposed(experiment, drawn("bob", False, 0.05, 1), keyed=True)
    for one in ("ann", "bob"):
        exposed(experiment, drawn(one, True, 0.2, 2), error=True, keyed=True)
        exposed(experiment, drawn(one, True, 0.2, 2), error=True, keyed=True)
    events = experiment.sections()["experiment"]["errors"]["events"]
    assert events["by_chance"] == [[0.05, 2, 0, 1], [pytest.approx(0.15 / 0.95), 1, 1, 0], [0.2, 1, 1, 0]]


def test_who_was_not_drawn_and_who_tries_again_count_for_nothing():
    experiment = Experiment()
    exposed(experiment, drawn(None, False), keyed=True)
    exposed(experiment, drawn("ann", True), keyed=True, retry=True)
    told = experiment.sections()["experiment"]
    assert (told["without_unit"], told["retries"]) == (1, 1)
    assert told["exposures"] == {"blue": 0, "green": 0}
    assert told["sample_ratio"] == {
        "n": 0, "green": None, "expected": None, "revision": None, "log_e": None, "alpha": SAMPLE_RATIO_ALPHA, "mismatch": False,
    }  # fmt: skip


def test_labels_of_pairs_fill_the_four_fields():
    experiment = Experiment()
    for blue, green, times in (("1", "1", 5), ("1", "2", 3), ("2", "1", 2), ("2", "2", 1)):
        for _ in range(times):
            experiment.label(drawn(None, False, 0.0), "1", blue, green, answer=blue, keyed=False)
    accuracy = experiment.sections()["feedback"]["accuracy"]
    fields = ("n", "both_right", "blue_only_right", "green_only_right", "both_wrong")
    assert [accuracy[name] for name in fields] == [11, 5, 3, 2, 1]
    assert accuracy["rate"] == {"blue": 8 / 11, "green": 7 / 11}
    assert accuracy["difference"]["estimate"] == pytest.approx(-1 / 11)
    low, high = accuracy["difference"]["ci"]
    assert low < -1 / 11 < high
    assert accuracy["split"]["n"] == 0


def test_labels_of_single_answers_compare_users():
    experiment = Experiment()
    for n in range(400):
        green = n % 2 == 0
        answer = "1" if green or n % 8 == 1 else "2"
        known = (None, answer) if green else (answer, None)
        experiment.label(drawn(f"u{n}", green), "1", *known, answer=answer, keyed=True)
        experiment.label(drawn(f"u{n}", green), "2", *known, answer=answer, keyed=True)  # later labels of a user
    accuracy = experiment.sections()["feedback"]["accuracy"]
    assert (accuracy["n"], accuracy["split"]["n"]) == (0, 400)
    low, high = accuracy["split"]["difference"]["ci"]
    assert 0.2 < low < 0.75 < high


def test_of_two_numbers_the_nearer_is_right():
    experiment = Experiment()
    experiment.label(drawn(None, False, 0.0), "10", "~9.0", "~10.5", answer="~9.0", keyed=False)
    experiment.label(drawn(None, False, 0.0), "10", "~9.0", None, answer="~9.0", keyed=False)
    told = experiment.sections()["feedback"]
    assert (told["accuracy"]["n"], told["accuracy"]["green_only_right"], told["unjudged"]) == (1, 1, 1)


def test_rewards_lie_in_the_declared_bounds_or_are_cut():
    experiment = Experiment(ALPHA, (0.0, 10.0))
    for n in range(2000):
        green = n % 2 == 0
        experiment.earn(drawn(None, green), 12.0 if green else 6.0, keyed=False)
    experiment.earn(drawn(None, True, 0.0), 3.0, keyed=False)
    reward = experiment.sections()["feedback"]["reward"]
    assert (reward["n"], reward["clipped"], reward["unsplit"], reward["bounds"]) == (2000, 1000, 1, [0.0, 10.0])
    low, high = reward["difference"]["ci"]
    assert 3.0 < low < 4.0 < high


def test_scores_test_any_threshold():
    """What a gate computes from `scores` is what the sequence itself says at that threshold."""
    rng = np.random.default_rng(3)
    experiment = Experiment(ALPHA, (-2.0, 6.0))
    for _ in range(500):
        green = bool(rng.random() < 0.3)
        experiment.earn(drawn(None, green, 0.3), float(rng.normal(1.0 + green, 1.0)), keyed=False)
    scores = experiment.sections()["feedback"]["reward"]["scores"]
    for threshold in (-1.0, 0.0, 0.7):
        above = scores["weighted"] - threshold * scores["weight"] - scores["penalty"]
        below = threshold * scores["weight"] - scores["weighted"] - scores["penalty"]
        assert above == pytest.approx(experiment.reward.log_e_above(threshold))
        assert below == pytest.approx(experiment.reward.log_e_below(threshold))


def test_latency_is_a_ratio_that_no_outlier_decides():
    rng = np.random.default_rng(4)
    experiment = Experiment()
    for n in range(6000):
        green = n % 2 == 0
        slow = 90_000.0 if n % 1000 == 0 else float(np.exp(rng.normal(math.log(20 if green else 10), 0.3)))
        exposed(experiment, drawn(None, green), latency_ms=slow)
    low, high = experiment.sections()["experiment"]["latency"]["ratio"]["ci"]
    assert 1.5 < low < 2.0 < high < 2.7


def test_steps_stand_beside_each_other():
    experiment = Experiment()
    for revision, share in ((4, 0.1), (7, 0.5)):
        for n in range(100):
            exposed(experiment, drawn(None, n < 100 * share, share, revision), error=n % 10 == 0, latency_ms=8.0)
            experiment.earn(drawn(None, n < 100 * share, share, revision), 0.25, keyed=False)
    first, second = experiment.sections()["experiment"]["steps"]
    assert (first["green_percent"], second["green_percent"], second["revision"]) == (10, 50, 7)
    assert (first["green"]["requests"], first["blue"]["errors"], second["green"]["reward"]) == (10, 9, 0.25)
    assert second["blue"]["latency_ms"]["p95"] == pytest.approx(8.0, rel=0.026)


def test_old_steps_leave_only_their_sums():
    experiment = Experiment()
    for revision in range(100):
        exposed(experiment, drawn(None, revision % 2 == 0, 0.5, revision + 1))
    told = experiment.sections()["experiment"]
    assert (len(told["steps"]), told["exposures"]) == (64, {"blue": 50, "green": 50})


def test_a_state_goes_on_exactly_and_is_json():
    rng = np.random.default_rng(5)
    whole = Experiment(ALPHA, (0.0, 2.0))
    halves = Experiment(ALPHA, (0.0, 2.0))
    for n in range(600):
        if n == 300:
            halves = Experiment.from_dict(json.loads(json.dumps(halves.to_dict(), allow_nan=False)))
        one = drawn(f"{int(rng.integers(90)):016x}", bool(rng.random() < 0.5), 0.5, 1 + n // 200)
        error, latency, reward, label = (
            bool(rng.random() < 0.1),
            float(rng.gamma(2.0, 5.0)),
            float(rng.random()),
            rng.random() < 0.5,
        )
        for experiment in (whole, halves):
            exposed(experiment, one, error=error, latency_ms=latency, keyed=True)
            experiment.earn(one, reward, keyed=True)
            experiment.label(one, "1", "1", "1" if label else "2", answer="1", keyed=True)
    assert halves.sections() == whole.sections()
    with pytest.raises(ValueError, match="version"):
        Experiment.from_dict({**whole.to_dict(), "version": 99})


def test_empty_sections_are_json_and_say_nothing():
    sections = Experiment().sections()
    json.dumps(sections, allow_nan=False)
    assert words(sections, ALPHA) == []


# --- the split itself -------------------------------------------------------------------------------------------------


@cache
def buckets(seed, users):
    return np.random.default_rng(seed).integers(0, BUCKETS, users)


def test_a_lost_range_of_buckets_is_a_mismatch_within_twenty_thousand_requests():
    """One bucket range in twenty never arrives: green's share of the users that do is wrong by a few hundredths."""
    rng = np.random.default_rng(6)
    places = buckets(6, 8_000)
    found = None
    experiment = Experiment()
    for n in range(20_000):
        user = int(rng.integers(len(places)))
        if 1_000 <= places[user] < 1_500:
            continue
        exposed(experiment, drawn(f"{user:016x}", bool(places[user] < 2_000), 0.2), keyed=True)
        if n % 500 == 0 and experiment.sections()["experiment"]["sample_ratio"]["mismatch"]:
            found = n
            break
    assert found is not None
    told = experiment.sections()
    assert told["experiment"]["sample_ratio"]["expected"] == 0.2
    assert words(told, ALPHA)[0].startswith("Sample ratio mismatch")


def test_an_honest_split_is_no_mismatch_however_long_one_looks():
    wrong = 0
    for run in range(40):
        rng = np.random.default_rng([7, run])
        experiment = Experiment()
        for green in (rng.random(1500) < 0.2).tolist():
            exposed(experiment, drawn(None, green, 0.2))
            if experiment.ratio.n % 50 == 0 and experiment.ratio.log_e() >= log_threshold(SAMPLE_RATIO_ALPHA):
                wrong += 1
                break
    assert wrong <= 3  # nominally 0.4


# --- how seldom it is wrong -------------------------------------------------------------------------------------------


def looked_at(experiment):
    """Which questions are decided, either way, at this moment."""
    bar = log_threshold(ALPHA)
    decided = {"errors"} if experiment.events.n and experiment.events.log_e_above(1.0) >= bar else set()
    for name in ("reward", "accuracy", "latency"):
        found = getattr(experiment, name)
        if found.n and max(found.log_e_above(0.0), found.log_e_below(0.0)) >= bar + math.log(2.0):
            decided.add(name)
    return decided


def aa_test(seed, *, sticky, requests=600, users=40):
    """Green is blue, behind a ramp 5, 20, 50 % and a base rate that drifts. Returns what was called different at any time."""
    rng = np.random.default_rng([*seed, sticky])
    experiment, wrong = Experiment(ALPHA), set()
    place, clumsy, taste = rng.integers(0, BUCKETS, users), rng.beta(0.3, 1.0, users), rng.random(users)
    for n in range(requests):
        step = 3 * n // requests
        share, drift = (0.05, 0.2, 0.5)[step], n / requests
        user = int(rng.integers(users))
        if sticky:
            one = drawn(f"{user:016x}", bool(place[user] < round(share * BUCKETS)), share, step + 1)
            bad, good, speed = clumsy[user], taste[user], 2.0 + 2.0 * taste[user]
        else:
            one = drawn(None, bool(rng.random() < share), share, step + 1)
            bad, good, speed = 0.05 + 0.3 * drift, 0.2 + 0.6 * drift, 2.0 + drift
        exposed(experiment, one, error=bool(rng.random() < bad), latency_ms=float(np.exp(rng.normal(speed, 0.2))), keyed=sticky)
        reward = float(rng.random() < good)
        experiment.earn(one, reward, keyed=sticky)
        answer = str(int(reward))
        experiment.label(one, "1", None if one.green else answer, answer if one.green else None, answer=answer, keyed=sticky)
        if n % 10 == 9:
            wrong |= looked_at(experiment)
    return wrong


@pytest.mark.parametrize("sticky", [False, True])
def test_alike_arms_are_seldom_called_different_under_a_ramp_and_a_drift(sticky):
    runs = 60
    wrong = [aa_test((8, run), sticky=sticky) for run in range(runs)]
    for question in ("errors", "reward", "accuracy", "latency"):
        # 5 % of 60 runs are 3; more than 8 would be a chance of 0.5 % at exactly the nominal rate, which the methods stay below.
        assert sum(question in found for found in wrong) <= 8, question


def test_forty_users_counted_by_request_are_called_different():
    """The negative control: the same experiments with every request taken for a unit."""
    wrong = 0
    for run in range(30):
        rng = np.random.default_rng([9, run])
        experiment = Experiment(ALPHA)
        place, taste = rng.integers(0, BUCKETS, 40), rng.beta(0.3, 0.3, 40)
        for _ in range(1500):
            user = int(rng.integers(40))
            experiment.earn(drawn(None, bool(place[user] < 5_000)), float(rng.random() < taste[user]), keyed=False)
        low, high = experiment.reward.interval(ALPHA).low, experiment.reward.interval(ALPHA).high
        wrong += not low <= 0.0 <= high
    assert wrong >= 8


def test_what_is_there_is_found():
    """Green fails three times as often, earns less and is slower: found in one ramp of 6,000 users who come back."""
    rng = np.random.default_rng(10)
    place = buckets(10, 6_000)
    experiment = Experiment(ALPHA)
    for n in range(24_000):
        step = 3 * n // 24_000
        share = (0.05, 0.2, 0.5)[step]
        user = int(rng.integers(len(place)))
        one = drawn(f"{user:016x}", bool(place[user] < round(share * BUCKETS)), share, step + 1)
        latency = float(np.exp(rng.normal(2.0 + 0.4 * one.green, 0.3)))
        exposed(experiment, one, error=bool(rng.random() < (0.03 if one.green else 0.01)), latency_ms=latency, keyed=True)
        experiment.earn(one, float(rng.random() < (0.4 if one.green else 0.6)), keyed=True)
    told = experiment.sections()
    assert told["experiment"]["errors"]["worse"]
    assert told["experiment"]["errors"]["ratio"]["ci"][0] > 1.2
    assert told["experiment"]["latency"]["ratio"]["ci"][0] > 1.1
    low, high = told["feedback"]["reward"]["difference"]["ci"]
    assert low < -0.2 < high < -0.05
    # Users who come back in a later step are drawn again: more observations than users.
    assert told["experiment"]["errors"]["n"] > len(place)
    assert not told["experiment"]["sample_ratio"]["mismatch"]
    assert any("fails more often" in sentence for sentence in words(told, ALPHA))


def test_a_late_exchange_of_a_step_that_is_gone_still_counts():
    steps = Steps()
    for revision in range(2, MAX_STEPS + 2):
        steps.expose(revision, 0.5, True, error=False, latency_ms=1.0, at=1.0, new_unit=True)
    steps.expose(1, 0.5, True, error=False, latency_ms=1.0, at=1.0, new_unit=True)
    assert sum(steps.totals("requests").values()) == MAX_STEPS + 1
