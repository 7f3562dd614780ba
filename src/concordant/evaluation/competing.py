"""Competing events: which code is the event, and what has to be said of survival curves beside
others.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from concordant.core.errors import ConfigError, PredictionsError
from concordant.core.survival import Predictions
from concordant.metrics.inputs import event_code


def checked_cause(cause: int | None) -> int | None:
    """Return the cause.

    Raises:
        ConfigError: It is no code of an event.
    """
    if cause is not None and cause < 1:
        raise ConfigError(
            f"cause is {cause}; expected the code of an event, 1 or above (0 is censored)"
        )
    return cause


def refuse_absent_cause(predictions: Predictions, cause: int | None, path: Path) -> None:
    """Refuse a cause that no row of a file has.

    Raises:
        PredictionsError: The message lists the codes that occur.
    """
    codes = sorted(code for code in predictions.table["event"].unique() if code > 0)
    if checked_cause(cause) is not None and cause not in codes:
        listed = ", ".join(map(str, codes)) or "none: every row is censored"
        raise PredictionsError(
            f"{path}: no row has event {cause}, the cause asked for; codes above 0 in the file: "
            f"{listed}"
        )


def count_events(rows: pl.DataFrame, cause: int | None) -> int:
    """Count the rows that had the event of interest."""
    return int((rows["event"].cast(pl.Int64) == event_code(cause)).sum())


def incidence_remark(predictions: Predictions, cause: int | None) -> str:
    """Say what 1 - survival is taken for where other events compete with the cause.

    Empty where none does.
    """
    if cause is None or predictions.table["event"].cast(pl.Int64).is_in([0, cause]).all():
        return ""
    return (
        f"1 - survival is read as the cumulative incidence of event {cause}; survival by a model "
        "that censors competing events (a cause-specific Cox model) overstates it"
    )
