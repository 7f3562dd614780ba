"""The option --column: what the files of a MEDS dataset call a column."""

from __future__ import annotations

from typing import Annotated

import typer

from concordant.core.errors import ConfigError

Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="NAME=NAME",
        help="What the files call a MEDS column: time=when. Repeatable.",
    ),
]


def renamed_columns(given: list[str] | None) -> dict[str, str]:
    """Read the values of --column.

    The name in the files of each MEDS column that is called otherwise there.

    Raises:
        ConfigError: A value that is no pair of names.
    """
    pairs = [one.partition("=") for one in given or ()]
    for name, equals, stored in pairs:
        if not (name and equals and stored):
            raise ConfigError(
                f"--column: given {name + equals + stored!r}, expected MEDS_NAME=NAME_IN_THE_FILE, "
                "such as numeric_value=value"
            )
    return {name: stored for name, _, stored in pairs}
