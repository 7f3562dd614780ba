"""Which subject is in which split: as the dataset says, or drawn by subject."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from concordant.core.errors import CohortError, ConfigError, RecordError, did_you_mean
from concordant.data.cohort import SPLITS
from concordant.data.tasks.tables import read_table


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
        if (
            len(self.shares) != len(SPLITS)
            or min(self.shares) <= 0
            or abs(sum(self.shares) - 1) > 1e-9
        ):
            raise ConfigError(
                f"split is {list(self.shares)}; expected three shares > 0 for {', '.join(SPLITS)} "
                "that add up to 1: 0.7,0.15,0.15"
            )
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}; expected 0 or more")


def read_splits(meds: Path) -> pl.DataFrame | None:
    """Read `subject_id` and `split` from `metadata/subject_splits.parquet`, None where there is no
    such file.

    Raises:
        RecordError: The file breaks its format.
    """
    path = meds / "metadata" / "subject_splits.parquet"
    return split_table(path) if path.is_file() else None


def split_table(path: Path) -> pl.DataFrame:
    """Read `subject_id` and `split` from a parquet file.

    A subject may stand in several rows, and rows without a split count for nothing.

    Raises:
        RecordError: The file cannot be read, lacks a column, or gives an unknown split, or one
            subject two.
    """
    table = (
        read_table(path, ("split",))
        .with_columns(pl.col("split").cast(pl.String))
        .drop_nulls()
        .unique()
    )
    unknown = table.filter(~pl.col("split").is_in(SPLITS))["split"].unique().sort()
    if len(unknown):
        raise RecordError(
            f"{path}: split is {unknown[0]!r}; MEDS has "
            f"{', '.join(SPLITS)}.{did_you_mean(unknown[0], SPLITS)}"
        )
    if table["subject_id"].is_duplicated().any():
        raise RecordError(
            f"{path}: {int(table['subject_id'].is_duplicated().sum())} rows give a subject more "
            "than one split"
        )
    return table


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
