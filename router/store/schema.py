"""The store's tables, as the present version reads and writes them.

How a file comes to have them is `migrations`' business; a test holds the two together. Times are seconds since the epoch.
"""

from __future__ import annotations

from sqlalchemy import JSON, Boolean, Column, Float, Index, Integer, MetaData, Table, Text, text

metadata = MetaData()

# Every change of the plan (kind "plan", with its revision and both plans), and what else happened (`detail`).
history = Table(
    "history",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("revision", Integer, unique=True),
    Column("at", Float, nullable=False),
    Column("kind", Text, nullable=False),
    Column("who", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("old_plan", JSON(none_as_null=True)),
    Column("new_plan", JSON(none_as_null=True)),
    Column("detail", JSON(none_as_null=True)),
    sqlite_autoincrement=True,
)

# Which blue and which green a release compares.
releases = Table(
    "releases",
    metadata,
    Column("release", Integer, primary_key=True, autoincrement=False),
    Column("began", Float, nullable=False),
    Column("blue_name", Text, nullable=False),
    Column("blue_servers", JSON, nullable=False),
    Column("green_name", Text),
    Column("green_servers", JSON(none_as_null=True)),
)

# The newest snapshot of what the shadow knows about a release, and the state from which it can go on.
evidence = Table(
    "evidence",
    metadata,
    Column("release", Integer, primary_key=True, autoincrement=False),
    Column("updated", Float, nullable=False),
    Column("snapshot", JSON, nullable=False),
    Column("state", JSON(none_as_null=True)),
)

# Compared pairs that are kept whole.
pairs = Table(
    "pairs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("release", Integer, nullable=False),
    Column("at", Float, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("agree", Boolean, nullable=False),
    Column("disagreement", Text),
    Column("content", JSON, nullable=False),
    Index("pairs_by_release", "release", "agree", "id"),
    Index("pairs_by_age", "at"),
    sqlite_autoincrement=True,
)

# The prediction log: live exchanges. `share` is green's share (0 to 1) under the plan revision that routed the request, `arm`
# the arm that it gave the request to, `unit` the (hashed) split key, `flags` those of `router.store.exposures`, `at` when it
# came. `blue` and `green` are what each arm decided, as far as it is known, in the words of `shadow.decisions`.
exposures = Table(
    "exposures",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("request_id", Text, nullable=False, unique=True),
    Column("release", Integer, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("share", Float, nullable=False),
    Column("unit", Text),
    Column("arm", Text, nullable=False),
    Column("flags", Integer, nullable=False),
    Column("status", Integer, nullable=False),
    Column("error", Boolean, nullable=False),
    Column("latency_ms", Float, nullable=False),
    Column("at", Float, nullable=False),
    Column("prediction", JSON(none_as_null=True)),
    Column("blue", Text),
    Column("green", Text),
    Index("exposures_by_unit", "unit", "id", sqlite_where=text("unit IS NOT NULL")),
    sqlite_autoincrement=True,
)

# Ground truth that came late, one row for each value (`kind` is label or reward) of an exposure. `unit` is set where the
# feedback named a unit, not a request; `unit_at` is then the time it named, 0 for none. Ids only grow: they are the order of
# arrival.
feedback = Table(
    "feedback",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("exposure", Integer, nullable=False),
    Column("release", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("unit", Text),
    Column("unit_at", Float, nullable=False),
    Column("label", Text),
    Column("reward", Float),
    Column("joined", Float, nullable=False),
    Column("corrections", Integer, nullable=False),
    Index("feedback_by_exposure", "exposure", "kind", unique=True, sqlite_where=text("unit IS NULL")),
    Index("feedback_by_unit", "unit", "kind", "unit_at", "release", unique=True, sqlite_where=text("unit IS NOT NULL")),
    sqlite_autoincrement=True,
)

# Feedback whose request or unit is not in the log yet.
pending_feedback = Table(
    "pending_feedback",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("request_id", Text),
    Column("unit", Text),
    Column("unit_at", Float, nullable=False),
    Column("label", Text),
    Column("reward", Float),
    Column("arrived", Float, nullable=False),
    Index("pending_by_request", "request_id", unique=True, sqlite_where=text("request_id IS NOT NULL")),
    Index("pending_by_unit", "unit", "unit_at", unique=True, sqlite_where=text("unit IS NOT NULL")),
    sqlite_autoincrement=True,
)

# How far the analysis of a release has read the two tables, and the state to go on from; `corrections` counts values that
# feedback changed after they were joined.
experiments = Table(
    "experiments",
    metadata,
    Column("release", Integer, primary_key=True, autoincrement=False),
    Column("corrections", Integer, nullable=False),
    Column("updated", Float, nullable=False),
    Column("state", JSON(none_as_null=True)),
)

# Rollouts: one row each, the newest is the present one (router/rollout/rollout.py says what the columns mean).
rollouts = Table(
    "rollouts",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("release", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("step", Integer, nullable=False),
    Column("green_percent", Float, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("who", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("began", Float, nullable=False),
    Column("entered", Float, nullable=False),
    Column("clock", Float, nullable=False),
    Column("ended", Float),
    Column("policy", JSON, nullable=False),
    Column("paused_from", Text),
    Column("by_hand", Boolean, nullable=False),
    Column("shadow_before", JSON(none_as_null=True)),
    Column("base", JSON, nullable=False),
    Column("settled", Boolean, nullable=False),
    Column("intent", JSON(none_as_null=True)),
    sqlite_autoincrement=True,
)

# Every transition of a rollout, with the evidence on which it was made.
rollout_moves = Table(
    "rollout_moves",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("rollout", Integer, nullable=False),
    Column("at", Float, nullable=False),
    Column("event", Text, nullable=False),
    Column("from_state", Text, nullable=False),
    Column("to_state", Text, nullable=False),
    Column("step", Integer, nullable=False),
    Column("green_percent", Float, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("who", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("verdict", JSON(none_as_null=True)),
    Column("evidence", JSON(none_as_null=True)),
    Column("live", JSON(none_as_null=True)),
    Index("rollout_moves_by_rollout", "rollout", "id"),
    sqlite_autoincrement=True,
)

# What each ended rollout leaves; `hash` covers `previous` and `document` (router/rollout/records.py).
rollout_records = Table(
    "rollout_records",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", Float, nullable=False),
    Column("previous", Text, nullable=False),
    Column("hash", Text, nullable=False),
    Column("document", Text, nullable=False),
)

# Who may act: the process that wrote this row last. One row, id 1.
rollout_controller = Table(
    "rollout_controller",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("epoch", Integer, nullable=False),
    Column("holder", Text, nullable=False),
    Column("since", Float, nullable=False),
)
