"""What a cohort is turned into for others: splits by subject, and labels at fixed horizons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from concordant.core.errors import CohortError, ConfigError
from concordant.core.files import atomic_path
from concordant.data.cohort import SPLITS


@dataclass(frozen=True, slots=True)
class SplitDraw:
    """Splits to be drawn.

    Attributes:
        shares: Of the subjects, for train, tuning and held_out; they add up to 1.
        seed: Seed of the draw.

    Raises:
        ConfigError: There are not three shares > 0 that add up to 1, or the seed is negative.
    """

    shares: tuple[float, ...]
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the shares."""
        three = len(self.shares) == len(SPLITS)
        if not three or min(self.shares) <= 0 or abs(sum(self.shares) - 1) > 1e-9:
            raise ConfigError(
                f"split is {list(self.shares)}; expected three shares > 0 for {', '.join(SPLITS)} "
                "that add up to 1: 0.7,0.15,0.15"
            )
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}; expected 0 or more")


def drawn_splits(subjects: Sequence[int], draw: SplitDraw) -> pl.DataFrame:
    """Draw a split for every subject: `subject_id`, `split`.

    The same subjects and seed give the same splits, whatever their order.

    Raises:
        CohortError: There are too few subjects to give each split one.
    """
    ids = np.unique(np.asarray(subjects, np.int64))
    bounds = np.round(np.cumsum(draw.shares) * len(ids)).astype(int)
    sizes = np.diff(bounds, prepend=0)
    if sizes.min() < 1:
        raise CohortError(
            f"{len(ids)} subjects cannot be split into {', '.join(SPLITS)} by {list(draw.shares)}: "
            "one would have none"
        )
    shuffled = np.random.default_rng(draw.seed).permutation(ids)
    return pl.DataFrame({"subject_id": shuffled, "split": np.repeat(np.array(SPLITS), sizes)})


@dataclass(frozen=True, slots=True)
class HorizonLabels:
    """Labels at one horizon, in the label form of MEDS.

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
    table = cohort.filter(known).select("subject_id", "prediction_time", boolean_value=happened)
    return HorizonLabels(
        days,
        table.sort("subject_id", "prediction_time"),
        int(table["boolean_value"].sum()),
        cohort.height - table.height,
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
