"""Labels at fixed horizons in the label form of MEDS.

Subject, prediction time, whether the outcome had happened by then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from concordant.core.errors import CohortError, ConfigError
from concordant.core.files import atomic_path


@dataclass(frozen=True, slots=True)
class HorizonLabels:
    """Labels at one horizon.

    Attributes:
        horizon_days: Days from the prediction time.
        table: `subject_id` i64, `prediction_time` datetime[us], `boolean_value`: whether the
            outcome happened within the horizon.
        n_true: Samples to whom it did.
        n_censored: Left out: follow-up ended before the horizon and nothing had happened, so the
            answer is not known.
    """

    horizon_days: float
    table: pl.DataFrame
    n_true: int
    n_censored: int


def horizon_labels(
    cohort: pl.DataFrame, horizons_days: Sequence[float], *, followed_days: float | None = None
) -> tuple[HorizonLabels, ...]:
    """Turn a cohort into labels at horizons.

    The outcome at or before the horizon is true. Who is followed up to the horizon without it, or
    has a competing event before, is false.

    Args:
        cohort: `subject_id`, `prediction_time`, `time_days`, `event` (1 = outcome, 0 = censored).
        horizons_days: The horizons.
        followed_days: Where the task ends all follow-up (its `horizon_days`); no label can lie
            beyond.

    Raises:
        ConfigError: A horizon is not > 0 or beyond the end of follow-up, or is given twice.
        CohortError: Two samples are one subject at one time, which the label form of MEDS cannot
            tell apart.
    """
    if len(set(horizons_days)) < len(horizons_days) or not all(days > 0 for days in horizons_days):
        raise ConfigError(
            f"labels are asked for at {list(horizons_days)} days; expected different days > 0"
        )
    beyond = [days for days in horizons_days if followed_days is not None and days > followed_days]
    if beyond:
        raise ConfigError(
            f"labels are asked for at {beyond[0]:g} days, but the task ends follow-up at "
            f"{followed_days:g} (horizon_days): nobody's answer is known there; raise "
            "horizon_days, or ask for earlier labels"
        )
    if cohort.select("subject_id", "prediction_time").is_duplicated().any():
        raise CohortError(
            "two samples are one subject at one time; MEDS labels name a sample by these two, so "
            "they cannot be written"
        )
    return tuple(_at(cohort, days) for days in horizons_days)


def _at(cohort: pl.DataFrame, days: float) -> HorizonLabels:
    happened = (pl.col("event") == 1) & (pl.col("time_days") <= days)
    known = happened | (pl.col("event") != 0) | (pl.col("time_days") >= days)
    table = (
        cohort.filter(known)
        .select("subject_id", "prediction_time", boolean_value=happened)
        .sort("subject_id", "prediction_time")
    )
    return HorizonLabels(
        days, table, int(table["boolean_value"].sum()), cohort.height - table.height
    )


def write_labels(labels: Sequence[HorizonLabels], folder: Path, name: str) -> tuple[Path, ...]:
    """Write each horizon's labels as `folder/NAME_DAYSd.parquet`, and return where they lie."""
    paths = []
    for one in labels:
        path = folder / f"{name}_{one.horizon_days:g}d.parquet"
        with atomic_path(path) as temporary:
            one.table.write_parquet(temporary)
        paths.append(path)
    return tuple(paths)
