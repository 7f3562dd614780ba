"""Time and event of an exam, and the proof that the file's unit and its censoring flag mean what
we take them for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import polars as pl

from concordant.core.errors import CohortError
from concordant.data.inspect.tables import CENSORED

TimeUnit = Literal["minutes", "seconds", "hours", "days"]
_PER_DAY: dict[str, float] = {"minutes": 1440.0, "seconds": 86400.0, "hours": 24.0, "days": 1.0}
_MONTHS = (1, 6, 12)
_TOLERATED = 0.01
"""Share of the exams whose window label may contradict their time; such exams are left out.

More is a misunderstanding of the file.
"""


def window_names(outcome: str) -> tuple[str, ...]:
    """Return the names of the labels that say whether the event came within 1, 6 and 12 months."""
    return tuple(f"{months}_month_{outcome}" for months in _MONTHS)


def with_outcome(
    labels: pl.DataFrame, outcome: str, path: Path, *, unit: TimeUnit | None = None
) -> pl.DataFrame:
    """Add `time_days` f64, `event` i8 (1 = observed) and `contradicts` bool to the labels.

    The windows are the proof: where one is TRUE the event lies within it and is not censored, where
    one is FALSE the time reaches beyond it.

    Args:
        labels: As `read_labels` gives them.
        outcome: Name of the outcome.
        path: The label file, for messages.
        unit: Unit of the stated times; None = the one unit under which the windows agree with the
            times.

    Raises:
        CohortError: The censoring flag is inverted, no unit or several agree with the windows, or
            the given unit does not.
    """
    windows = [name for name in window_names(outcome) if name in labels.columns]
    _check_flag(labels, windows, outcome, path)
    units = get_args(TimeUnit) if unit is None else (unit,)
    agreeing = [one for one in units if _share_against(labels, windows, one) <= _TOLERATED]
    if len(agreeing) != 1:
        shares = ", ".join(f"{one} {_share_against(labels, windows, one):.1%}" for one in units)
        raise CohortError(
            f"{path}: tte_{outcome} must agree with {', '.join(windows)} in one unit, but the "
            f"share of exams against it is: {shares}; at most {_TOLERATED:.0%} is tolerated. "
            "Correct the file, or give the unit"
        )
    return labels.with_columns(
        time_days=pl.col("stated_time") / _PER_DAY[agreeing[0]],
        event=pl.when(pl.col("censored")).then(0).otherwise(1).cast(pl.Int8),
        contradicts=_contradicts(windows, agreeing[0]).fill_null(False),
    )


def _check_flag(labels: pl.DataFrame, windows: list[str], outcome: str, path: Path) -> None:
    observed = labels.filter(pl.any_horizontal(pl.col(name) == 1 for name in windows))
    if observed.is_empty():
        raise CohortError(
            f"{path}: none of {', '.join(windows)} is TRUE in any row, so the meaning of the times "
            "cannot be checked"
        )
    n_censored = int(observed["censored"].sum())
    if n_censored > _TOLERATED * observed.height:
        raise CohortError(
            f"{path}: is_censored_{outcome} says censored in {n_censored} of the {observed.height} "
            f"exams whose {outcome} was observed within a window; the flag looks inverted (TRUE "
            "must mean censored)"
        )


def _share_against(labels: pl.DataFrame, windows: list[str], unit: str) -> float:
    """Return the share of the exams with a telling label whose time contradicts it, the greater
    of that of TRUE and that of FALSE.
    """
    shares = []
    for told in (1, 0):
        telling = labels.filter(
            pl.any_horizontal(pl.col(name) == told for name in windows)
            & pl.col("stated_time").is_not_null()
        )
        if telling.height:
            against = pl.any_horizontal(_against(name, told, unit) for name in windows)
            shares.append(telling.select(against.fill_null(False).mean()).item())
    return max(shares, default=1.0)


def _contradicts(windows: list[str], unit: str) -> pl.Expr:
    timed = pl.any_horizontal(_against(name, told, unit) for name in windows for told in (1, 0))
    censored = pl.any_horizontal((pl.col(name) == 1) & pl.col("censored") for name in windows)
    early = pl.any_horizontal((pl.col(name) == CENSORED) & ~pl.col("censored") for name in windows)
    return timed | censored | early


def _against(window: str, told: int, unit: str) -> pl.Expr:
    """Tell where a window's label contradicts the time.

    A month is 30 to 31 days, and a day is granted at either end.
    """
    months = int(window.partition("_")[0])
    days = pl.col("stated_time") / _PER_DAY[unit]
    beyond = days > 31 * months + 1 if told else days < 30 * months - 1
    return (pl.col(window) == told) & beyond
