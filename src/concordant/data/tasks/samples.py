"""The samples of one shard: who of them takes part, and what happened to each."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from concordant.core.errors import RecordError
from concordant.data.flow import FlowCounter
from concordant.data.tasks.criteria import meets
from concordant.data.tasks.definition import Task
from concordant.data.tasks.follow_up import end_of_follow_up, follow
from concordant.data.tasks.index import index_events
from concordant.data.tasks.records import ShardRecords

_WORKED_WITH = ("index", "birth", "first", "last", "death", "end")


def shard_samples(
    task: Task, records: ShardRecords, table: pl.DataFrame | None, periods: pl.DataFrame | None, flow: FlowCounter
) -> pl.DataFrame:
    """Return the samples of one shard that take part, with `time_days` and `event`.

    Args:
        task: The task.
        records: The shard.
        table: The index table of all shards, or None where the index is an event.
        periods: `subject_id`, `start`, `end` of observation periods from a file, or None.
        flow: Notes what remains after each step.
    """
    given = index_events(task.index, records) if table is None else table
    lines = records.subjects.rename({name: f"_{name}" for name in ("birth", "first", "last", "death")})
    samples = given.join(lines, on="subject_id", how="inner", maintain_order="left")
    samples = samples.with_columns(_index=pl.col("prediction_time").dt.epoch("us"))
    kept = _WORKED_WITH  # under names of their own, for the index table may have columns called so
    samples = flow.passed(first_step(task, table), samples)
    samples = flow.passed("alive at the index", samples.filter((pl.col("_death") > pl.col("_index")).fill_null(True)))
    samples = _eligible(task, samples, records, flow)
    samples = _followed(task, samples, records, periods, flow)
    result = follow(task, _plain(samples), records)
    made = samples.with_columns(time_days=pl.Series(result.time_days, dtype=pl.Float64), event=pl.Series(result.event, dtype=pl.Int8))
    return made.drop([f"_{name}" for name in kept])


def first_step(task: Task, table: pl.DataFrame | None) -> str:
    """Name the step at which the samples of a shard come in."""
    if table is not None:
        return "with a record in the dataset"
    return f"index: {task.index}"


def _plain(samples: pl.DataFrame) -> pl.DataFrame:
    """Return what the rules work with, under plain names."""
    present = [name for name in _WORKED_WITH if f"_{name}" in samples.columns]
    return samples.select("subject_id", **{name: f"_{name}" for name in present})


def _eligible(task: Task, samples: pl.DataFrame, records: ShardRecords, flow: FlowCounter) -> pl.DataFrame:
    for criterion in task.include:
        samples = _counted(criterion.age_years is not None, samples, flow)
        samples = flow.passed(f"include: {criterion}", samples.filter(meets(criterion, _plain(samples), records, task.look_back_days)))
    for criterion in task.exclude:
        samples = _counted(criterion.age_years is not None, samples, flow)
        samples = flow.passed(f"exclude: {criterion}", samples.filter(~meets(criterion, _plain(samples), records, task.look_back_days)))
    return samples


def _counted(asks_age: bool, samples: pl.DataFrame, flow: FlowCounter) -> pl.DataFrame:
    if asks_age:
        flow.counts["samples of unknown age at an age criterion"] += samples["_birth"].null_count()
    return samples


def _followed(task: Task, samples: pl.DataFrame, records: ShardRecords, periods: pl.DataFrame | None, flow: FlowCounter) -> pl.DataFrame:
    """Keep who is followed after the index, and add `_end`."""
    if task.censoring.require_event:
        samples = flow.passed("with an event after the index", samples.filter((pl.col("_last") > pl.col("_index")).fill_null(False)))
    samples = samples.with_columns(_end=end_of_follow_up(task, _plain(samples), records, periods))
    if task.censoring.at == "observation_end":
        samples = flow.passed("index in an observation period", samples.drop_nulls("_end"))
    if task.censoring.at != "last_event":
        samples = flow.passed("follow-up ends after the index", samples.filter(pl.col("_end") > pl.col("_index")))
    return samples


def read_periods(path: Path) -> pl.DataFrame:
    """Read observation periods: `subject_id`, `start` and `end` in microseconds.

    Raises:
        RecordError: The file cannot be read, or a column is missing or no time.
    """
    try:
        table = pl.read_parquet(path, hive_partitioning=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise RecordError(f"{path}: not readable as parquet ({str(error).partition(chr(10))[0]})") from None
    absent = [name for name in ("subject_id", "start", "end") if name not in table.columns]
    if absent:
        raise RecordError(f"{path}: missing column(s) {', '.join(absent)}; found {', '.join(table.columns)}")
    for name in ("start", "end"):
        kind = table[name].dtype
        if kind != pl.Date and not (isinstance(kind, pl.Datetime) and kind.time_zone is None):
            raise RecordError(f"{path}: column {name} is {kind}; expected a date or a timestamp without time zone, as MEDS times are")
    if not table["subject_id"].dtype.is_integer():
        raise RecordError(f"{path}: column subject_id is {table['subject_id'].dtype}; expected an integer, as in the MEDS dataset")
    times = [pl.col(name).cast(pl.Datetime("us")).dt.epoch("us") for name in ("start", "end")]
    return table.select(pl.col("subject_id").cast(pl.Int64), *times).drop_nulls()
