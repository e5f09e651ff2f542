"""The store's tables, as the present version reads and writes them.

How a file comes to have them is `migrations`' business; a test holds the two together. Times are seconds since the epoch.
"""

from __future__ import annotations

from sqlalchemy import JSON, Boolean, Column, Float, Index, Integer, MetaData, Table, Text

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
