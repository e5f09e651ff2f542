from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.arm import Arm, Colour, parse_arm
from router.errors import PlanError, Refused
from router.plan import (
    Change,
    Plan,
    ShadowShare,
    Split,
    check_key,
    parse_plan,
    percent,
    promoted,
    read_plan,
    replaced,
    shadowed_at,
    split_at,
    switched,
    with_candidate,
    written,
)

V1 = Arm("iris-v1", ("http://127.0.0.1:9001",))
V2 = Arm("iris-v2", ("http://127.0.0.1:9002", "http://127.0.0.1:9003"))
V3 = parse_arm(
    {"name": "v3", "servers": ["https://h"], "headers": {"x-a": "b"}, "path": {"from": "/a", "to": "/b"}, "model": "m"}, ""
)
ALONE = Plan(7, 2, V1, None)
BOTH = Plan(
    7, 2, V1, V2, Split(25.0, "header:x-user-id", "iris"), ShadowShare(50.0, 10.0, 8), Change("ann", 5.0, "split", "why")
)

shares = st.integers(0, 10_000).map(lambda hundredths: hundredths / 100)
arms = st.sampled_from([V1, V2, V3])
plans = st.builds(
    Plan,
    revision=st.integers(0, 2**63 - 1),
    release=st.integers(0, 2**63 - 1),
    blue=arms,
    green=arms,
    split=st.builds(
        Split, shares, st.sampled_from([None, "header:x-a", "cookie:b", "query:c", "json:/d/e"]), st.text(max_size=10)
    ),
    shadow=st.builds(ShadowShare, shares, shares, st.integers(1, 4096)),
    change=st.builds(Change, st.text(max_size=20), st.floats(0, 1e12), st.text(max_size=20), st.text(max_size=20)),
)


@given(plans)
def test_what_is_written_is_read_back(plan: Plan) -> None:
    assert read_plan(plan.to_json()) == plan


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 200) | st.floats(allow_nan=True) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()))
def test_reading_a_stored_plan_fails_only_with_a_plan_error(text: bytes) -> None:
    with pytest.raises(PlanError):
        read_plan(text)


@given(
    st.fixed_dictionaries({"blue": st.just(V1.to_dict()) | json_values}, optional={"green": json_values, "split": json_values})
)
def test_no_value_makes_a_plan_that_is_not_one(value: dict[str, Any]) -> None:
    try:
        plan = parse_plan(value)
    except PlanError:
        return
    assert read_plan(plan.to_json()) == plan
    assert 0 <= plan.split.green_percent <= 100


# --- transitions ----------------------------------------------------------------------------------------------------------


@given(plans)
def test_a_switch_is_absolute_and_changes_nothing_else(plan: Plan) -> None:
    for to, share in ((Colour.BLUE, 0.0), (Colour.GREEN, 100.0)):
        after = switched(plan, to)
        assert after.split == Split(share, plan.split.key, plan.split.salt)
        assert (after.blue, after.green, after.shadow, after.release) == (plan.blue, plan.green, plan.shadow, plan.release)


@given(plans, shares)
def test_a_split_keeps_key_and_salt(plan: Plan, share: float) -> None:
    after = split_at(plan, share)
    assert after.split == Split(share, plan.split.key, plan.split.salt)
    assert after.release == plan.release


def test_the_shadow_share_alone_changes() -> None:
    assert shadowed_at(BOTH, 100).shadow == ShadowShare(100.0, 10.0, 8)


def test_a_candidate_begins_a_release_without_live_traffic() -> None:
    after = with_candidate(BOTH, V3)
    assert after.green == V3
    assert after.blue == V1
    assert after.release == 3
    assert after.split == Split(0.0, "header:x-user-id", "iris")


def test_promotion_trades_places_and_begins_a_release() -> None:
    after = promoted(BOTH)
    assert (after.blue, after.green) == (V2, V1)
    assert after.release == 3
    assert after.split.green_percent == 0


def test_a_whole_plan_begins_a_release_only_with_other_servers() -> None:
    same = Plan(0, 0, V1, V2, Split(1.0), ShadowShare())
    assert replaced(BOTH, same).release == 2
    assert replaced(BOTH, same).revision == 7
    assert replaced(BOTH, same).split == Split(1.0)
    assert replaced(BOTH, Plan(0, 0, V1, V3)).release == 3
    assert replaced(BOTH, Plan(0, 0, V2, V2)).release == 3


def test_written_gives_the_next_revision_and_the_change() -> None:
    change = Change("ann", 1.0, "switch blue", "incident")
    assert written(BOTH, BOTH, change).revision == 8
    assert written(BOTH, None, change).revision == 1
    assert written(BOTH, BOTH, change).change == change


@pytest.mark.parametrize(
    "refused",
    [lambda: switched(ALONE, Colour.GREEN), lambda: split_at(ALONE, 1), lambda: promoted(ALONE)],
)
def test_without_green_nothing_can_go_there(refused: Any) -> None:
    with pytest.raises(Refused, match=r"there is no green to .*`bluegreen candidate URL`"):
        refused()


def test_without_green_blue_and_zero_are_fine() -> None:
    assert switched(ALONE, Colour.BLUE) == ALONE
    assert split_at(ALONE, 0) == ALONE


# --- checks ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-0.01, 100.01, 101, float("nan"), float("inf"), "10", None, True, [10]])
def test_what_is_no_percentage_is_refused_by_name(value: object) -> None:
    with pytest.raises(PlanError, match="green_percent: must be a number from 0 to 100"):
        split_at(BOTH, value)


@pytest.mark.parametrize("value", [0.001, 33.333, 99.999])
def test_a_split_goes_in_steps_of_a_hundredth(value: float) -> None:
    with pytest.raises(PlanError, match=r"multiple of 0\.01"):
        split_at(BOTH, value)
    assert shadowed_at(BOTH, value).shadow.percent == value


@given(shares)
def test_every_hundredth_is_a_percentage(share: float) -> None:
    assert percent(share, "x", step=True) == share


@pytest.mark.parametrize("key", [None, "header:x-user-id", "cookie:uid", "query:user[id]", "json:/parameters/user", "json:/"])
def test_keys(key: str | None) -> None:
    assert check_key(key) == key


@pytest.mark.parametrize(
    "key", ["", "user", "header:", "header:a b", "cookie:a;b", "query:a&b", "json:user", "ip:", 3, "header:" + "x" * 200]
)
def test_wrong_keys(key: object) -> None:
    with pytest.raises(PlanError, match=r"split\.key: must be header:NAME"):
        check_key(key)


def whole(**changes: object) -> dict[str, object]:
    return {**BOTH.to_dict(), **changes}


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ([], "a plan is a JSON object"),
        ({}, "blue: is missing"),
        (whole(blue=None), "blue: must be a mapping"),
        (whole(bleu={}), "unknown key 'bleu'"),
        (whole(blue={"name": "a", "servers": ["127.0.0.1:1"]}), "blue.servers: server '127.0.0.1:1' has no scheme"),
        (whole(green={"name": "a", "servers": ["ftp://h"]}), "green.servers: .* must be http, https or unix"),
        (whole(green=None), "split.green_percent: is above 0, but the plan has no green"),
        (whole(split=[1]), "split: must be an object"),
        (whole(split={"green": 1}), "split: unknown key 'green'"),
        (whole(split={"salt": 3}), "split.salt: must be text"),
        (whole(split={"salt": "x" * 65}), "split.salt: must be text of at most 64 bytes"),
        (whole(shadow={"max_in_flight": 0}), "shadow.max_in_flight: must be a whole number from 1 to 4096"),
        (whole(shadow={"max_in_flight": True}), "shadow.max_in_flight"),
        (whole(shadow={"percent": 200}), "shadow.percent: must be a number"),
        (whole(revision=-1), "revision: must be a whole number"),
        (whole(release="1"), "release: must be a whole number"),
    ],
)
def test_what_is_no_plan_is_refused_by_key(value: object, complaint: str) -> None:
    with pytest.raises(PlanError, match=complaint):
        parse_plan(value)


def test_what_is_left_out_gets_its_default() -> None:
    plan = parse_plan({"blue": V1.to_dict()})
    assert plan == Plan(0, 1, V1, None)


def test_whole_percentages_are_written_as_integers() -> None:
    assert json.loads(BOTH.to_json())["split"]["green_percent"] == 25
    assert b'"green_percent":25,' in BOTH.to_json()
    assert b'"green_percent":0.05,' in split_at(BOTH, 0.05).to_json()


def test_an_arm_is_asked_for_by_colour() -> None:
    assert BOTH.arm(Colour.BLUE) == V1
    assert BOTH.arm(Colour.GREEN) == V2
    assert ALONE.arm(Colour.GREEN) is None
