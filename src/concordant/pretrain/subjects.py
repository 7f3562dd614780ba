"""Which subjects an encoder may be pretrained on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from concordant.core.errors import RecordError
from concordant.core.files import DigestCache
from concordant.data.cohort import SPLITS
from concordant.data.meds import scan_shards
from concordant.data.pretraining import PretrainingSubjects, dataset_identity
from concordant.data.tasks.labels import SplitDraw, drawn_splits
from concordant.data.tasks.tables import read_splits, split_table

_LOG = logging.getLogger(__name__)
_DRAWN = (0.8, 0.1, 0.1)


@dataclass(frozen=True, slots=True)
class Subjects:
    """Subjects by their split.

    Attributes:
        train: Whose records are learned from, sorted.
        tuning: Whose records say when to stop, sorted.
        n_held_out: Whose records are not read.
        source: Where the splits come from, for the record.
    """

    train: pl.Series
    tuning: pl.Series
    n_held_out: int
    source: str


def choose_subjects(
    meds: Path, splits: Path | None, *, seed: int, columns: Mapping[str, str] | None
) -> Subjects:
    """Tell train and tuning subjects from those whose records must not be seen.

    Args:
        meds: A MEDS dataset.
        splits: A parquet file with `subject_id` and `split`, such as a study's cohort table: only
            its subjects are used, so that nobody whom the study tests is learned from. None takes
            the dataset's own `metadata/subject_splits.parquet`, or, where there is none, draws.
        seed: Of the draw.
        columns: What the files call a column, by its name in MEDS.

    Raises:
        RecordError: The file breaks its format, or leaves train or tuning empty.
    """
    table, source = (
        (split_table(splits), splits.name)
        if splits is not None
        else (read_splits(meds), "metadata/subject_splits.parquet")
    )
    if table is None:
        everyone = _with_records(meds, columns)["subject_id"].to_list()
        table = drawn_splits(everyone, SplitDraw(_DRAWN, seed))
        source = f"drawn, {_DRAWN}, seed {seed}"
        _LOG.warning(
            "%s has no metadata/subject_splits.parquet, and no splits are given: train subjects "
            "are drawn from everyone, also from those whom a study may hold out; give its cohort "
            "table as splits",
            meds,
        )
    by_split = {name: table.filter(pl.col("split") == name)["subject_id"].sort() for name in SPLITS}
    for name in ("train", "tuning"):
        if by_split[name].is_empty():
            raise RecordError(
                f"{source}: no subject has split {name}; pretraining needs train and tuning "
                "subjects"
            )
    return Subjects(by_split["train"], by_split["tuning"], len(by_split["held_out"]), source)


def listed_subjects(
    subjects: Subjects, meds: Path, *, columns: Mapping[str, str] | None, digests: DigestCache
) -> PretrainingSubjects:
    """List, to be left beside the weights, whom of train and tuning the dataset has."""
    uses = {"train": subjects.train, "tuning": subjects.tuning}
    table = pl.concat(
        pl.DataFrame({"subject_id": ids}).with_columns(used_for=pl.lit(use))
        for use, ids in uses.items()
    )
    known = _with_records(meds, columns)
    read = table.join(known, on="subject_id", how="semi", maintain_order="left")
    return PretrainingSubjects(dataset_identity(meds, columns, digests), read)


def _with_records(meds: Path, columns: Mapping[str, str] | None) -> pl.DataFrame:
    shards = scan_shards(meds, columns=columns)
    ids = pl.concat([shard.frame.select("subject_id").unique() for shard in shards])
    return ids.unique().drop_nulls().collect()
