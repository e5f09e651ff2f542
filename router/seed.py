"""How a plan page gets its first plan, and what becomes of the configuration's at every later start.

The file seeds only the first plan. From then on the stored plan wins, since it holds what people decided after they wrote the
file; who wants the file's again says so (`bluegreen serve --reseed`).
"""

from __future__ import annotations

from dataclasses import replace

from router.page import PlanPage
from router.plan import Change, Plan, read_plan, replaced, written

SEEDER = "configuration"


def seed(page: PlanPage, first: Plan, *, reseed: bool, now: float) -> tuple[Plan, str]:
    """Make sure that the page holds a plan: the stored one, or `first` when there is none or `reseed` asks for it.

    `now` in seconds since the epoch. Returns the plan that holds, and a line for the start-up log. Raises PlanError when the
    stored plan cannot be read.
    """
    _, stored = page.read()
    if not stored:
        # With a page that was lost, control must know whether the file's plan or the history's was asked for.
        change = Change(SEEDER, now, "reseed" if reseed else "start", "first plan, from the configuration file")
        plan = written(replace(first, release=1), None, change)
        page.write(plan.revision, plan.to_json())
        return plan, "took the first plan from the configuration file"
    present = read_plan(stored)
    if reseed:
        plan = written(replaced(present, first), present, Change(SEEDER, now, "reseed", "serve --reseed"))
        plan = replace(plan, revision=page.revision + 1)
        page.write(plan.revision, plan.to_json())
        return plan, f"took the plan from the configuration file again, as revision {plan.revision}"
    line = f"the stored plan holds (revision {present.revision}, green {present.split.green_percent:g} %)"
    if _content(present) != _content(first):
        line += "; it differs from the configuration file's, which `bluegreen serve --reseed` would take"
    return present, line


def _content(plan: Plan) -> Plan:
    """What of a plan a configuration file can say."""
    return replace(plan, revision=0, release=0, change=Change())
