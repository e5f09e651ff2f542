"""The operator's own gate, `gates: {python: "module:function"}`: loaded once, and run where it can hold nothing up.

It gets the evidence as a plain dict and runs in a thread of its own. When it takes too long the gate is undecided, and it is
not started again before it has returned: a gate that hangs stops promotions, and nothing else.
"""

from __future__ import annotations

import copy
import importlib
import logging
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

PATIENCE_SECONDS: Final = 2.0

log = logging.getLogger("rollout")


class OwnGateError(ValueError):
    """The name in the configuration leads to nothing that can be called. The text says what to do."""


def load_gate(name: str, directory: Path | None = None) -> Callable[[Any], object]:
    """The function that `module:function` names; `directory` (the configuration file's) is searched first.

    Importing runs the module's code: the name comes from the operator's own configuration. Raises OwnGateError.
    """
    module_name, _, function_name = name.partition(":")
    if directory is not None and (place := str(directory.resolve())) not in sys.path:
        sys.path.insert(0, place)
    try:
        found: Any = getattr(importlib.import_module(module_name), function_name, None)
    except (Exception, SystemExit) as error:  # the module's own code runs, and may raise anything
        text = f"gates.python: cannot import {module_name!r}: {type(error).__name__}: {str(error)[:300]}"
        raise OwnGateError(text) from error
    if not callable(found):
        raise OwnGateError(f"gates.python: {module_name!r} has no function {function_name!r}")
    return found  # type: ignore[no-any-return]


class OwnGateRunner:
    """Calls the operator's gate; itself an `OwnGate`. Raises what the gate raises, and TimeoutError while it runs."""

    def __init__(self, gate: Callable[[Any], object], patience: float = PATIENCE_SECONDS) -> None:
        """`patience`: seconds that one call may take before the gate counts as undecided."""
        self._gate = gate
        self._patience = patience
        self._running: threading.Thread | None = None

    def __call__(self, evidence: Mapping[str, Any]) -> object:
        """What the gate says of the evidence, of which it gets a copy of its own."""
        if self._running is not None and self._running.is_alive():
            raise TimeoutError("it has not returned from an earlier call")
        answers: list[object] = []
        raised: list[BaseException] = []
        given = copy.deepcopy(dict(evidence))

        def call() -> None:
            try:
                answers.append(self._gate(given))
            except (Exception, SystemExit) as error:  # code that is not ours
                raised.append(error)

        self._running = threading.Thread(target=call, name="own gate", daemon=True)
        self._running.start()
        self._running.join(self._patience)
        if raised:
            raise RuntimeError(f"{type(raised[0]).__name__}: {raised[0]}")
        if not answers:
            raise TimeoutError(f"it did not return within {self._patience:g} s")
        return answers[0]
