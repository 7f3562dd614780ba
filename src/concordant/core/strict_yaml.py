"""Strict YAML: plain values, no duplicate keys, numbers and booleans as in YAML 1.2."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from concordant.core.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """Safe YAML by the 1.2 core schema: `no` and dates are text, `3e-4` a number; no `<<`."""

    # the base class's own way to hold them
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping, refusing a key that is given twice or is no text."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                raise yaml.constructor.ConstructorError(
                    problem="a key is not text; quote it", problem_mark=key.start_mark
                )
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"key {key.value!r} is given twice", problem_mark=key.start_mark
                )
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
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}",
        re.compile(f"^(?:{_pattern})$"),
        [c if c != "\0" else "" for c in _first],
    )


def read_mapping(path: Path, *, kind: str, keys: str) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Args:
        path: The file.
        kind: What it is, for messages ("study").
        keys: The keys one expects at the top, for messages.

    Raises:
        ConfigError: No such file, not YAML (with line and column), a key given twice, or something
            other than a mapping.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such {kind} file")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file in UTF-8; expected a {kind} in YAML") from None
    value = parse_yaml(text, str(path))
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected a mapping ({keys}), found {_kind(value)}")
    return value


def parse_yaml(text: str, place: str) -> Any:
    """Return what a YAML text holds.

    Args:
        text: The text.
        place: Where it comes from, for messages.

    Raises:
        ConfigError: It is not YAML, or a key is given twice.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506  # a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
        raise ConfigError(
            f"{place}: not valid YAML: {getattr(error, 'problem', None) or 'unreadable'}{where}"
        ) from None


def _kind(value: Any) -> str:
    return "nothing" if value is None else "a list" if isinstance(value, list) else f"{value!r}"
