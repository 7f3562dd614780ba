"""Task files: YAML to a task, and those that come with the package."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from concordant.core.errors import ConfigError, did_you_mean
from concordant.core.messages import config_error
from concordant.core.strict_yaml import read_mapping
from concordant.data.tasks.definition import Task

_KEYS = "name: ..., index: ..., outcome: ..."


def shipped_tasks() -> dict[str, Path]:
    """Return the task files that come with the package, by name."""
    folder = Path(str(files("concordant.data.tasks"))) / "library"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def read_task(source: Path | str) -> Task:
    """Read a task file.

    Args:
        source: A YAML file, against whose folder relative paths resolve, or the name of a shipped
            task (`mace`).

    Raises:
        ConfigError: Anything wrong with the file: the message names the file, the key, what was
            given and what is expected.
    """
    path = Path(source)
    if not path.is_file():
        shipped, name = shipped_tasks(), str(source)
        if name not in shipped:
            raise ConfigError(
                f"{name}: no such task file, and no shipped task of that name."
                f"{did_you_mean(name, shipped)}"
            )
        path = shipped[name]
    try:
        return parse_task(read_mapping(path, kind="task", keys=_KEYS), folder=path.parent)
    except ConfigError as error:
        told = str(error)
        raise ConfigError(told if told.startswith(str(path)) else f"{path}: {told}") from None


def parse_task(given: Mapping[str, Any], *, folder: Path | None = None) -> Task:
    """Check a task that is given as a mapping.

    Args:
        given: The content of a task file.
        folder: The folder against which relative paths resolve; None = the working directory.

    Raises:
        ConfigError: The message names the key, what was given and what is expected.
    """
    try:
        task = Task.model_validate(dict(given))
    except ValidationError as error:
        raise config_error(error, given, Task) from None
    folder = (folder or Path()).absolute()
    table, periods = task.index.table, task.censoring.periods
    index = task.index.model_copy(update={"table": table and folder / table})
    censoring = task.censoring.model_copy(update={"periods": periods and folder / periods})
    return task.model_copy(update={"index": index, "censoring": censoring})
