"""Reads a configuration file strictly, and turns what pydantic says about it into one clear line.

YAML is read by the rules of YAML 1.2's core schema (section 10.3.2) and not by those of 1.1 that PyYAML follows: under 1.1 the
key `on` of `fallback` is the boolean true, `1e-5` is a text and `12:30` is 750. A key given twice is refused, since one of the
two would be lost in silence; so are keys that are not text.
"""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError, WithJsonSchema
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from router.errors import SettingsError


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's scalars and without doubled keys."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  # PyYAML's own way

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if key.tag != "tag:yaml.org,2002:str":
                if key.tag == "tag:yaml.org,2002:merge":
                    continue
                raise yaml.constructor.ConstructorError(None, None, "a key must be text (put it in quotes)", key.start_mark)
            if key.value in seen:
                text = f"the key {key.value!r} stands here twice (first in line {seen[key.value]}); remove one"
                raise yaml.constructor.ConstructorError(None, None, text, key.start_mark)
            seen[key.value] = line
        return super().construct_mapping(node, deep=deep)


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+", "-+0123456789."),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})\\Z"), list(_first))


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds. Raises SettingsError, which names the file and, for bad YAML, line and column."""
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise SettingsError(f"{path}: cannot read the configuration: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506  # a subclass of SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        words = error.problem or "is not YAML"
        if words.startswith("but ") and error.context:
            words = f"{error.context}, {words}"
        raise SettingsError(f"{path}{where}: {words}") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}: is not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise SettingsError(f"{path}: is nested too deeply") from None
    if not isinstance(value, dict):
        raise SettingsError(f"{path}: must be a mapping of settings such as `listen: 127.0.0.1:8000`")
    return value


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """One line for what pydantic found: the dotted key, what is wrong with it, and how many more faults there are.

    An unknown key comes first, because the fault that follows from it (a required key is missing) would mislead.
    """
    faults = error.errors(include_url=False)
    fault = min(faults, key=lambda one: one["type"] not in ("extra_forbidden", "unknown_key"))
    loc = [str(part) for part in fault["loc"]]
    if fault["type"] in ("extra_forbidden", "unknown_key"):
        if fault["type"] == "unknown_key":
            loc.append(fault["ctx"]["key"])
        line = f"{'.'.join(loc)}: unknown key{_nearest(loc, key_paths(model))}"
    else:
        text = _what_is_wrong(fault, model)
        # A check over several settings, and the checks of an arm, name their key themselves.
        line = text if not loc or text.startswith((f"{loc[0]}.", f"{loc[0]}:")) else f"{'.'.join(loc)}: {text}"
    line = " ".join(line.split())
    return line if len(faults) == 1 else f"{line} (and {len(faults) - 1} more)"


_WORDS = {
    "bool_type": "must be true or false",
    "string_type": "must be text (put it in quotes)",
    "tuple_type": "must be a list such as [a, b]",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping of settings",
    "path_type": "must be a path",
}


def _what_is_wrong(fault: ErrorDetails, model: type[BaseModel]) -> str:
    kind, found = fault["type"], reprlib.repr(fault["input"])
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return str(fault["ctx"]["error"])
    if kind == "literal_error":
        return f"must be one of {fault['ctx']['expected']}, got {found}"
    if kind in ("int_type", "float_type", "finite_number", "greater_than_equal", "less_than_equal"):
        field = _field(model, fault["loc"])
        low, high = (next((getattr(m, end) for m in field.metadata if hasattr(m, end)), None) for end in ("ge", "le"))
        number = "a whole number" if field.annotation is int else "a number"
        return f"must be {number} from {low} to {high}, got {found}"
    return f"{_WORDS[kind]}, got {found}" if kind in _WORDS else f"{fault['msg']} (got {found})"


def _field(model: type[BaseModel], loc: Sequence[int | str]) -> FieldInfo:
    """The definition of the setting at a place in the file."""
    for part in loc:
        field = next(field for name, field in model.model_fields.items() if part in (name, field.alias))
        for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                model = kind
    return field


def _nearest(loc: list[str], paths: list[str]) -> str:
    """`; did you mean …?` for an unknown key: the same one elsewhere, one like it here or elsewhere, else all known ones."""
    prefix = "".join(f"{part}." for part in loc[:-1])
    beside = [path.removeprefix(prefix) for path in paths if path.startswith(prefix) and "." not in path.removeprefix(prefix)]
    last = {path.rpartition(".")[2]: path for path in reversed(paths)}
    if loc[-1] in last:
        return f"; did you mean {last[loc[-1]]}?"
    if close := difflib.get_close_matches(loc[-1], beside, n=1, cutoff=0.55):
        return f"; did you mean {prefix}{close[0]}?"
    if close := difflib.get_close_matches(loc[-1], last, n=1, cutoff=0.75):
        return f"; did you mean {last[close[0]]}?"
    return f"; known here are {', '.join(sorted(beside))}" if beside else ""


def key_paths(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Every dotted key of a settings model, parents before children, in the order of their definition."""
    out = []
    for attribute, field in model.model_fields.items():
        name = field.alias or attribute
        out.append(prefix + name)
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                out += key_paths(kind, f"{prefix}{name}.")
        for mark in field.metadata:
            schema = mark.json_schema if isinstance(mark, WithJsonSchema) else None
            for part in (schema, *schema.get("anyOf", ())) if schema else ():
                out += [f"{prefix}{name}.{key}" for key in part.get("properties", ())]
    return out
