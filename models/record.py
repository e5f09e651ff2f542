"""Records that are made for every exchange.

A frozen dataclass sets each field through `object.__setattr__`, so that making one takes five times as long as one that is not
frozen, and the shadow makes about fifteen for a pair. A `record` is frozen for the type checker, which reads every line here,
and when it runs a dataclass with slots: equality, hash, repr and `dataclasses.replace` are those of a frozen one. Only for what
is made in a hot path; everything else is `@dataclass(frozen=True, slots=True)`, which Python itself watches over.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

_T = TypeVar("_T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: type[_T]) -> type[_T]:
    """A dataclass with slots and a hash, whose fields the type checker lets nobody assign."""
    return dataclass(slots=True, unsafe_hash=True)(cls)
