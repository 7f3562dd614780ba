"""MEDS records, cut at each sample's prediction time (MEDS 0.4: https://github.com/Medical-Event-Data-Standard/meds)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Int

from concordant.core.errors import RecordError
from concordant.core.events import BIRTH_CODES, Events

_DAY_US = 86_400_000_000


@dataclass(frozen=True, slots=True)
class RecordCounts:
    """What reading the records of a cohort met; one event of a subject counts once for each of the subject's samples.

    Attributes:
        n_events_read: Events of the cohort's subjects, before anything is left out.
        n_duplicates: Left out: the same subject, time, code and value once more.
        n_after_prediction: Left out: later than the sample's prediction time.
        n_before_look_back: Left out: longer ago than the look-back.
        n_null_time: Kept: static events.
        n_subjects_without_record: Subjects of the cohort with no event in the dataset.
        latest_days_before: Days from the latest event kept in any sample to its prediction time, >= 0; None where none has a time.
    """

    n_events_read: int
    n_duplicates: int
    n_after_prediction: int
    n_before_look_back: int
    n_null_time: int
    n_subjects_without_record: int
    latest_days_before: float | None


@dataclass(frozen=True)
class RecordSet:
    """The records of a cohort's samples, packed; iterate over it to get the sample ids.

    Attributes:
        sample_ids: The samples, in the order they were asked for.
        table: `days_before` f64, `code` str, `numeric_value` f64: sample after sample, each static first, then oldest first.
        offsets: Sample i owns rows offsets[i] to offsets[i + 1].
        counts: What reading met.
    """

    sample_ids: tuple[str, ...]
    table: pl.DataFrame
    offsets: Int[np.ndarray, " sample_plus_one"]
    counts: RecordCounts

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.sample_ids)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the sample ids."""
        return iter(self.sample_ids)

    def events(self, sample_id: str) -> Events:
        """Return a sample's record; one without any event is empty.

        Raises:
            KeyError: A sample that was not asked for.
        """
        place = self._places[sample_id]
        start, end = int(self.offsets[place]), int(self.offsets[place + 1])
        part = self.table.slice(start, end - start)
        return Events(part["days_before"].to_numpy(), tuple(part["code"].to_list()), part["numeric_value"].to_numpy())

    @cached_property
    def _places(self) -> dict[str, int]:
        return {sample_id: place for place, sample_id in enumerate(self.sample_ids)}


def read_events(meds: Path, samples: pl.DataFrame, *, look_back_days: float | None = None) -> RecordSet:
    """Read each sample's events up to and at its prediction time.

    Args:
        meds: A MEDS dataset (`data/**/*.parquet`), a folder of parquet shards, or one parquet file.
        samples: `sample_id` (unique), `subject_id` and `prediction_time` (datetime[us]).
        look_back_days: Leave out events longer ago than this; static events and the birth stay. None = the whole history.

    Returns:
        The records. An event exactly at the prediction time is history, a later one is cut and counted. The same event stated twice
        (subject, time, code and value) is one event.

    Raises:
        RecordError: No parquet file, a missing or ill-typed column, or an event without a code.
    """
    if look_back_days is not None and not look_back_days > 0:
        raise RecordError(f"look_back_days is {look_back_days}; expected days > 0, or None for the whole history")
    samples = samples.select("sample_id", "subject_id", "prediction_time").with_row_index("place")
    shards = [_read_shard(path, samples, look_back_days) for path in shard_paths(meds)]
    stated = pl.concat([shard.kept for shard in shards])
    kept = stated.unique(maintain_order=True).sort("place", "elapsed", descending=[False, True], nulls_last=False, maintain_order=True)
    kept = kept.with_columns(days_before=pl.col("elapsed") / _DAY_US)
    counts = RecordCounts(
        n_events_read=sum(shard.n_read for shard in shards),
        n_duplicates=stated.height - kept.height,
        n_after_prediction=sum(shard.n_after for shard in shards),
        n_before_look_back=sum(shard.n_before for shard in shards),
        n_null_time=kept["elapsed"].null_count(),
        n_subjects_without_record=len(set(samples["subject_id"]).difference(*(shard.subjects for shard in shards))),
        latest_days_before=_least(kept["days_before"]),
    )
    lengths = np.bincount(kept["place"].to_numpy(), minlength=samples.height)
    table = kept.select(pl.col("days_before", "numeric_value").fill_null(np.nan), "code").select("days_before", "code", "numeric_value")
    return RecordSet(tuple(samples["sample_id"].to_list()), table, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), counts)


def _least(days: pl.Series) -> float | None:
    least = days.min()
    return float(least) if isinstance(least, float) else None


def shard_paths(meds: Path) -> list[Path]:
    """List a dataset's parquet shards, sorted.

    Raises:
        RecordError: There is none.
    """
    if meds.is_file():
        return [meds]
    root = meds / "data" if (meds / "data").is_dir() else meds
    shards = sorted(path for path in root.rglob("*.parquet") if not _is_aside(path.relative_to(root)))
    if not shards:
        raise RecordError(
            f"{meds}: no parquet file found; expected a MEDS dataset (data/**/*.parquet), a folder of parquet shards or one file"
        )
    return shards


def _is_aside(path: Path) -> bool:
    """Tell metadata and hidden or half-written files from shards."""
    return path.parts[0] == "metadata" or any(part.startswith(".") for part in path.parts)


@dataclass(frozen=True, slots=True)
class _Shard:
    """What one shard holds of the samples' records: `kept` has place, elapsed (microseconds before prediction), code, numeric_value."""

    kept: pl.DataFrame
    n_read: int
    n_after: int
    n_before: int
    subjects: set[int]


def _read_shard(path: Path, samples: pl.DataFrame, look_back_days: float | None) -> _Shard:
    try:
        events = _scan(path).join(samples.lazy(), on="subject_id", how="inner", maintain_order="left").collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise RecordError(f"{path}: not readable as a MEDS shard ({str(error).partition(chr(10))[0]})") from None
    if events["code"].null_count():
        raise RecordError(f"{path}: {events['code'].null_count()} event(s) have no code; every MEDS event needs one")
    elapsed = (pl.col("prediction_time") - pl.col("time")).dt.total_microseconds()
    events = events.with_columns(elapsed=elapsed).with_columns(after=_is_after(), before=_is_before(look_back_days))
    return _Shard(
        kept=events.filter(~pl.col("after") & ~pl.col("before")).select("place", "elapsed", "code", "numeric_value"),
        n_read=events.height,
        n_after=int(events["after"].sum()),
        n_before=int(events["before"].sum()),
        subjects=set(events["subject_id"]),
    )


def _is_after() -> pl.Expr:
    return (pl.col("elapsed") < 0).fill_null(False)


def _is_before(look_back_days: float | None) -> pl.Expr:
    if look_back_days is None:
        return pl.lit(False)
    return (pl.col("elapsed") > look_back_days * _DAY_US).fill_null(False) & ~pl.col("code").is_in(BIRTH_CODES)


def _scan(path: Path) -> pl.LazyFrame:
    """Open a shard lazily with the columns `subject_id`, `time`, `code` and `numeric_value` in our types."""
    frame = pl.scan_parquet(path, hive_partitioning=False)
    schema = frame.collect_schema()
    absent = [name for name in ("subject_id", "time", "code") if name not in schema]
    if absent:
        raise RecordError(
            f"{path}: missing column(s) {', '.join(absent)}; found {', '.join(schema)}. "
            "A MEDS shard has subject_id, time, code and optionally numeric_value"
        )
    _check_types(path, schema)
    value = pl.col("numeric_value") if "numeric_value" in schema else pl.lit(None).alias("numeric_value")
    return frame.select(
        pl.col("subject_id").cast(pl.Int64),
        pl.col("time").cast(pl.Datetime("us")),
        pl.col("code").cast(pl.String),
        value.cast(pl.Float64).fill_nan(None),
    )


def _check_types(path: Path, schema: pl.Schema) -> None:
    time, value = schema["time"], schema.get("numeric_value", pl.Null())
    expected = {
        "subject_id": (schema["subject_id"].is_integer(), "an integer"),
        "time": (time in (pl.Date, pl.Null) or (isinstance(time, pl.Datetime) and time.time_zone is None), "a timestamp without time zone"),
        "code": (schema["code"] in (pl.String, pl.Categorical, pl.Enum), "text"),
        "numeric_value": (value.is_numeric() or value == pl.Null, "a number"),
    }
    for name, (right, wanted) in expected.items():
        if not right:
            raise RecordError(f"{path}: column {name} is {schema[name]}; MEDS has {wanted} there")
