"""The names in a state directory: which file holds what.

Every process finds the others' files here and nowhere else. What must outlive a restart (the plan page, the counter pages, the
store) lies at the top; `run/` holds what means something only while the router runs (the settings as they were understood at
the start, and the sockets and pipes between processes).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from router.errors import StartError


@dataclass(frozen=True, slots=True)
class StateDir:
    """A state directory. `create` makes it; the rest are names."""

    path: Path

    @property
    def plan_page(self) -> Path:
        """The plan page (router/page.py)."""
        return self.path / "plan.page"

    @property
    def counters_dir(self) -> Path:
        """The folder of the counter pages."""
        return self.path / "counters"

    def counters(self, slot: int) -> Path:
        """The counter page of the worker in a slot, 0 to 63 (router/counters.py)."""
        return self.counters_dir / f"{slot}.page"

    @property
    def store(self) -> Path:
        """The SQLite file (router/store)."""
        return self.path / "bluegreen.sqlite"

    @property
    def unit_secret(self) -> Path:
        """The secret under which the prediction log names units (router/unit_names.py)."""
        return self.path / "unit.secret"

    @property
    def recordings(self) -> Path:
        """The folder of recordings under way (router/recordings.py)."""
        return self.run / "recordings"

    @property
    def lock(self) -> Path:
        """The file whose lock the one router on this directory holds."""
        return self.path / "lock"

    @property
    def run(self) -> Path:
        """The folder of what lives only as long as the router runs."""
        return self.path / "run"

    @property
    def settings_json(self) -> Path:
        """The settings as plain JSON, for the processes that do without pydantic."""
        return self.run / "settings.json"

    def nudge(self, slot: int) -> Path:
        """The FIFO that tells the worker in a slot to look at the plan page now."""
        return self.run / f"worker-{slot}.nudge"

    @property
    def tap(self) -> Path:
        """The shadow's Unix socket."""
        return self.run / "tap.sock"

    def create(self) -> None:
        """Make the directories, for their owner alone (0700). Raises StartError."""
        try:
            for folder in (self.path, self.counters_dir, self.run):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                folder.chmod(0o700)
        except OSError as error:
            raise StartError(f"cannot use the state directory {self.path}: {error.strerror}; set `state` to another") from None
