"""Whom weights were pretrained on: a list that stays at home, for a study to check against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from concordant.core.errors import WeightsError
from concordant.core.files import DigestCache, atomic_path, fingerprint
from concordant.data.meds import shard_paths

SUBJECTS = "subjects.parquet"
"""The list, in the folder of the weights. It names patients and is no part of the weights.

Whatever reads these passes it over.
"""

USES = ("train", "tuning")

_DATASET = "meds_dataset"


@dataclass(frozen=True, slots=True)
class PretrainingSubjects:
    """Whom an encoder's weights were pretrained on.

    Attributes:
        dataset: Of which MEDS dataset the ids are (`dataset_identity`): the same number may be
            another person elsewhere.
        table: `subject_id` i64, `used_for` ("train": learned from; "tuning": said when to stop).
    """

    dataset: str
    table: pl.DataFrame


def dataset_identity(meds: Path, columns: Mapping[str, str] | None, digests: DigestCache) -> str:
    """Identify a MEDS dataset by its shards' bytes and what its files call the subject.

    Args:
        meds: A MEDS dataset.
        columns: What its files call a column, by its name in MEDS.
        digests: Remembers the digests of large files.

    Raises:
        RecordError: There is no shard.
    """
    shards = sorted(digests.digest(path) for path in shard_paths(meds))
    return fingerprint({"shards": shards, "subject_id": (columns or {}).get("subject_id")})


def write_subjects(folder: Path, subjects: PretrainingSubjects) -> None:
    """Write the list into the folder of the weights."""
    with atomic_path(folder / SUBJECTS) as path:
        subjects.table.write_parquet(path, metadata={_DATASET: subjects.dataset})


def read_subjects(folder: Path) -> PretrainingSubjects | None:
    """Read the list beside weights; None where there is none.

    Raises:
        WeightsError: The file is not one that pretraining leaves.
    """
    path = folder / SUBJECTS
    if not path.is_file():
        return None
    try:
        table = pl.read_parquet(path, hive_partitioning=False).select(
            pl.col("subject_id").cast(pl.Int64), pl.col("used_for").cast(pl.String)
        )
        dataset = pl.read_parquet_metadata(path).get(_DATASET)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _unreadable(
            path, f"not readable, {type(error).__name__}"
        ) from None  # no more of it: polars may quote a value
    if (
        dataset is None
        or any(column.null_count() for column in table)
        or not table["used_for"].is_in(USES).all()
    ):
        raise _unreadable(
            path,
            f"no {_DATASET} in its metadata, a null, or a used_for other than {', '.join(USES)}",
        )
    return PretrainingSubjects(dataset, table)


def _unreadable(path: Path, reason: str) -> WeightsError:
    return WeightsError(
        f"{path}: {reason}; expected the list that `concordant pretrain` leaves beside its "
        "weights. The same pretraining again writes it anew and keeps the weights; without the "
        "file the weights work, and the audit says that it could not check"
    )
