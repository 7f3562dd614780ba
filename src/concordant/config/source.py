"""The YAML of a study file, its values overridden by dotted path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from concordant.core.errors import ConfigError
from concordant.core.strict_yaml import parse_yaml, read_mapping


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a study file as a mapping.

    Raises:
        ConfigError: No such file, not YAML (with line and column), a key given twice, or something
            other than a mapping.
    """
    return read_mapping(
        path, kind="study", keys="name: ..., task: ..., cohorts: ..., encoders: ..."
    )


def overridden(given: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a study's values with overrides such as "train.lr=3e-4" put in, in order.

    A value is read as YAML. A list is entered by position (`cohorts.external.0.table`), a component
    given by its name alone takes options (`encoders.ehr.values=last`), and what follows `grid.` is
    one key of the grid.

    Raises:
        ConfigError: An override without "=", or one that leads through something other than a
            mapping or a list.
    """
    result: Any = dict(given)
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path.strip():
            raise ConfigError(
                f"override {override!r}: expected KEY=VALUE, for example train.lr=3e-4"
            )
        keys = (
            path.strip().split(".", 1)
            if path.strip().startswith("grid.")
            else path.strip().split(".")
        )
        result = _with(result, keys, parse_yaml(text, f"override {override!r}"), override)
    return dict(result)


def _with(holder: Any, keys: list[str], value: Any, override: str) -> Any:
    """Return a copy of `holder` in which the value stands at the path `keys`."""
    if not keys:
        return value
    first, rest = keys[0], keys[1:]
    if isinstance(holder, list):
        if not first.isdecimal() or int(first) >= len(holder):
            raise ConfigError(
                f"override {override!r}: {first!r} is no position in a list of {len(holder)}; "
                "count from 0"
            )
        place = int(first)
        return [*holder[:place], _with(holder[place], rest, value, override), *holder[place + 1 :]]
    if isinstance(holder, str):
        holder = {"name": holder}
    if not isinstance(holder, dict | None):
        raise ConfigError(
            f"override {override!r}: {first!r} would lie inside {holder!r}, which is neither a "
            "mapping nor a list"
        )
    inner = {} if holder is None else holder
    return {**inner, first: _with(inner.get(first), rest, value, override)}
