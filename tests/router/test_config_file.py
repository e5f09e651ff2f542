from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.config_file import read_yaml
from router.errors import SettingsError


def read(folder: Path, text: str | bytes) -> dict[str, object]:
    path = folder / "bluegreen.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_yaml(path)


@pytest.mark.parametrize(
    ("yaml", "value"),
    [
        ("on", "on"),
        ("yes", "yes"),
        ("true", True),
        ("1e-5", 1e-5),
        ("1.0e-5", 1e-5),
        (".5", 0.5),
        ("12:30", "12:30"),
        ("127.0.0.1:8000", "127.0.0.1:8000"),
        ("5xx", "5xx"),
        ("-7", -7),
        ("0x10", 16),
        ("007", "007"),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        ("", None),
        ("~", None),
        ("null", None),
        ("'true'", "true"),
    ],
)
def test_scalars_follow_yaml_1_2_core_schema(tmp_path: Path, yaml: str, value: object) -> None:
    found = read(tmp_path, f"key: {yaml}\n")["key"]
    assert found == value
    assert type(found) is type(value)


def test_the_key_on_stays_a_text(tmp_path: Path) -> None:
    assert read(tmp_path, "fallback: {on: [connect, 5xx]}") == {"fallback": {"on": ["connect", "5xx"]}}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3, column 1: the key 'a' stands here twice (first in line 1)"),
        ("s: {x: 1, x: 2}", "line 1, column 11: the key 'x' stands here twice"),
        ("a: [1", "line 1, column 6"),
        ("a:\n\t- b", "line 2, column 1"),
        ("1: a", "line 1, column 1: a key must be text"),
        ("? [a]\n: b", "line 1, column 3: a key must be text"),
        ("- a", "must be a mapping of settings"),
        ("", "must be a mapping of settings"),
        ("just text", "must be a mapping of settings"),
        ("a: !!python/object/apply:os.system [id]", "could not determine a constructor"),
        ("a: *nowhere", "line 1, column 4"),
        ("--- {a: 1}\n--- {a: 2}", "single document"),
        ("a: " + "[" * 3000, "is nested too deeply"),
        (b"a: \xff", "is not UTF-8 text (byte 3)"),
        (b"a: \x00", "is not YAML"),
    ],
)
def test_bad_files_get_one_line_with_the_file_and_the_place(tmp_path: Path, text: str | bytes, complaint: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, text)
    line = str(caught.value)
    assert line.startswith(str(tmp_path / "bluegreen.yaml"))
    assert complaint in line
    assert "\n" not in line


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.yaml: cannot read the configuration: No such file"):
        read_yaml(tmp_path / "nowhere.yaml")
    with pytest.raises(SettingsError, match="cannot read the configuration: Is a directory"):
        read_yaml(tmp_path)


@settings(max_examples=200, deadline=None)
@given(content=st.one_of(st.binary(max_size=80), st.text(alphabet="ab:{}[]-&*!?|>'\"# \n\t%@,1", max_size=60).map(str.encode)))
def test_whatever_the_bytes_reading_ends_in_a_mapping_or_a_settings_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    path.write_bytes(content)
    with contextlib.suppress(SettingsError):
        assert isinstance(read_yaml(path), dict)
