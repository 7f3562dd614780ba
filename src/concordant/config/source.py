"""YAML as a study file needs it: no duplicate keys, numbers and booleans as in YAML 1.2, values overridden by dotted path."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from concordant.core.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """Safe YAML with the plain scalars of YAML 1.2's core schema: `no` and dates are text, `3e-4` is a number; `<<` merges nothing."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  # the base class's own way to hold them

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping, refusing what plain YAML lets pass: a key given twice, a key that is no text."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                raise yaml.constructor.ConstructorError(problem="a key is not text; quote it", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(problem=f"key {key.value!r} is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    (
        "float",
        r"[-+]?((\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+0123456789.",
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), [c if c != "\0" else "" for c in _first])


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        ConfigError: No such file, not YAML (with line and column), a key given twice, or something other than a mapping.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such study file")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file in UTF-8; expected a study in YAML") from None
    value = _parse(text, str(path))
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected a mapping (name: ..., task: ..., cohorts: ..., encoders: ...), found {_kind(value)}")
    return value


def _parse(text: str, place: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # noqa: S506  # a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
        raise ConfigError(f"{place}: not valid YAML: {getattr(error, 'problem', None) or 'unreadable'}{where}") from None


def _kind(value: Any) -> str:
    return "nothing" if value is None else "a list" if isinstance(value, list) else f"{value!r}"


def overridden(given: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a study's values with overrides such as "train.lr=3e-4" put in, in order.

    A value is read as YAML. A list is entered by position (`cohorts.external.0.table`), a component given by its name alone takes
    options (`encoders.ehr.values=last`), and what follows `grid.` is one key of the grid.

    Raises:
        ConfigError: An override without "=", or one that leads through something other than a mapping or a list.
    """
    result: Any = dict(given)
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path.strip():
            raise ConfigError(f"override {override!r}: expected KEY=VALUE, for example train.lr=3e-4")
        keys = path.strip().split(".", 1) if path.strip().startswith("grid.") else path.strip().split(".")
        result = _with(result, keys, _parse(text, f"override {override!r}"), override)
    return dict(result)


def _with(holder: Any, keys: list[str], value: Any, override: str) -> Any:
    """Return a copy of `holder` in which the value stands at the path `keys`."""
    if not keys:
        return value
    first, rest = keys[0], keys[1:]
    if isinstance(holder, list):
        if not first.isdecimal() or int(first) >= len(holder):
            raise ConfigError(f"override {override!r}: {first!r} is no position in a list of {len(holder)}; count from 0")
        place = int(first)
        return [*holder[:place], _with(holder[place], rest, value, override), *holder[place + 1 :]]
    if isinstance(holder, str):
        holder = {"name": holder}
    if not isinstance(holder, dict | None):
        raise ConfigError(f"override {override!r}: {first!r} would lie inside {holder!r}, which is neither a mapping nor a list")
    inner = {} if holder is None else holder
    return {**inner, first: _with(inner.get(first), rest, value, override)}
