from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from models.arm import Arm
from router.page import PlanPage
from router.plan import Change, Plan, Split, read_plan, split_at, written
from router.seed import seed

V1, V2, V3 = (Arm(f"v{n}", (f"http://127.0.0.1:900{n}",)) for n in (1, 2, 3))
FIRST = Plan(0, 1, V1, V2, Split(0.0, "header:x-user-id", "iris"))


@pytest.fixture
def page(tmp_path: Path) -> PlanPage:
    return PlanPage(tmp_path / "plan.page", writable=True)


def stored(page: PlanPage) -> Plan:
    return read_plan(page.read()[1])


def test_an_empty_page_gets_the_files_plan(page: PlanPage) -> None:
    plan, line = seed(page, FIRST, reseed=False, now=5.0)
    assert plan == stored(page) == replace(FIRST, revision=1, change=plan.change)
    assert plan.change == Change("configuration", 5.0, "start", "first plan, from the configuration file")
    assert line == "took the first plan from the configuration file"


def test_the_stored_plan_wins_and_the_log_says_so(page: PlanPage) -> None:
    plan, _ = seed(page, FIRST, reseed=False, now=5.0)
    assert seed(page, FIRST, reseed=False, now=6.0) == (plan, "the stored plan holds (revision 1, green 0 %)")
    later = written(split_at(plan, 25), plan, Change("ann", 7.0, "split 25", ""))
    page.write(2, later.to_json())
    found, line = seed(page, FIRST, reseed=False, now=8.0)
    assert found == stored(page) == later
    assert line.startswith("the stored plan holds (revision 2, green 25 %); it differs from the configuration file's")
    assert "--reseed" in line


def test_reseeding_takes_the_files_plan_as_the_next_revision(page: PlanPage) -> None:
    plan, _ = seed(page, FIRST, reseed=False, now=5.0)
    page.write(2, written(split_at(plan, 25), plan, Change()).to_json())
    again, line = seed(page, FIRST, reseed=True, now=9.0)
    assert again == stored(page)
    assert (again.revision, again.release, again.split.green_percent) == (3, 1, 0)
    assert again.change.action == "reseed"
    assert line == "took the plan from the configuration file again, as revision 3"
    other, _ = seed(page, replace(FIRST, green=V3), reseed=True, now=10.0)
    assert (other.revision, other.release, other.green) == (4, 2, V3)
