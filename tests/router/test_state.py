from __future__ import annotations

from pathlib import Path

import pytest

from router.errors import StartError
from router.state import StateDir


def test_names_lie_in_the_directory_and_differ(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    names = [state.plan_page, state.counters(0), state.counters(11), state.store, state.lock, state.settings_json, state.tap]
    names += [state.nudge(0), state.nudge(11)]
    assert len(set(names)) == len(names)
    assert all(name.is_relative_to(state.path) for name in names)
    assert state.counters(3) == tmp_path / "state/counters/3.page"
    assert state.nudge(3) == tmp_path / "state/run/worker-3.nudge"


def test_the_directories_are_their_owners_alone(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "deep" / "state")
    state.create()
    state.path.chmod(0o755)
    state.create()
    for folder in (state.path, state.counters_dir, state.run):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_a_file_in_the_way_is_a_clear_refusal(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    with pytest.raises(StartError, match=r"cannot use the state directory .*state: .*; set `state` to another"):
        StateDir(tmp_path / "state").create()
