"""Names of units: equal for equal keys, untellable without the secret, plain only where asked for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

import pytest

from router.errors import StartError
from router.unit_names import UnitNames, unit_names


def test_names_are_a_keyed_hash_that_anyone_with_the_secret_can_recompute(tmp_path: Path) -> None:
    path = tmp_path / "unit.secret"
    name = unit_names(path, plain=False).name(b"ann@example.com")
    assert name == blake2b(b"ann@example.com", digest_size=8, key=path.read_bytes()).hexdigest()
    assert name == unit_names(path, plain=False).name(b"ann@example.com")
    assert name != unit_names(tmp_path / "another", plain=False).name(b"ann@example.com")
    assert path.stat().st_mode & 0o777 == 0o600


def test_plain_names_are_the_keys_unless_they_are_endless() -> None:
    names = UnitNames(b"s" * 32, plain=True)
    assert names.name("Zoë".encode()) == "Zoë"
    assert names.name(b"\xff") == "\\xff"
    assert len(names.name(b"x" * 5000)) == 16


def test_processes_that_start_at_once_agree_on_one_secret(tmp_path: Path) -> None:
    path = tmp_path / "unit.secret"
    with ThreadPoolExecutor(8) as pool:
        names = set(pool.map(lambda _: unit_names(path, plain=False).name(b"a"), range(32)))
    assert len(names) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["unit.secret"]


def test_a_damaged_secret_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "unit.secret"
    path.write_bytes(b"short")
    with pytest.raises(StartError, match="move it away"):
        unit_names(path, plain=False)
    with pytest.raises(StartError, match="cannot use"):
        unit_names(tmp_path / "no" / "such" / "folder", plain=False)
