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
from concordant.data.tasks.tables import read_table

SAMPLE = ("sample_id", "subject_id", "prediction_time")
"""What makes a sample; further columns of an index table take no part in the work."""


def shard_samples(
    task: Task,
    records: ShardRecords,
    table: pl.DataFrame | None,
    periods: pl.DataFrame | None,
    flow: FlowCounter,
) -> pl.DataFrame:
    """Return the samples of one shard that take part.

    `sample_id`, `subject_id`, `prediction_time`, `time_days`, `event`.

    Args:
        task: The task.
        records: The shard.
        table: The index table of all shards, or None where the index is an event.
        periods: `subject_id`, `start`, `end` of observation periods from a file, or None.
        flow: Notes what remains after each step.
    """
    given = index_events(task.index, records) if table is None else table
    samples = given.select(SAMPLE).join(
        records.subjects, on="subject_id", how="inner", maintain_order="left"
    )
    samples = samples.with_columns(index=pl.col("prediction_time").dt.epoch("us"))
    samples = flow.passed(first_step(task, table), samples)
    samples = flow.passed(
        "alive at the index", samples.filter((pl.col("death") > pl.col("index")).fill_null(True))
    )
    samples = _eligible(task, samples, records, flow)
    samples = _followed(task, samples, records, periods, flow)
    result = follow(task, samples, records)
    return samples.select(
        *SAMPLE,
        time_days=pl.Series(result.time_days, dtype=pl.Float64),
        event=pl.Series(result.event, dtype=pl.Int8),
    )


def first_step(task: Task, table: pl.DataFrame | None) -> str:
    """Name the step at which the samples of a shard come in."""
    if table is not None:
        return "with a record in the dataset"
    return f"index: {task.index}"


def _eligible(
    task: Task, samples: pl.DataFrame, records: ShardRecords, flow: FlowCounter
) -> pl.DataFrame:
    for criterion in task.include:
        samples = _counted(criterion.age_years is not None, samples, flow)
        samples = flow.passed(
            f"include: {criterion}",
            samples.filter(meets(criterion, samples, records, task.look_back_days)),
        )
    for criterion in task.exclude:
        samples = _counted(criterion.age_years is not None, samples, flow)
        samples = flow.passed(
            f"exclude: {criterion}",
            samples.filter(~meets(criterion, samples, records, task.look_back_days)),
        )
    return samples


def _counted(asks_age: bool, samples: pl.DataFrame, flow: FlowCounter) -> pl.DataFrame:
    if asks_age:
        flow.counts["samples of unknown age at an age criterion"] += samples["birth"].null_count()
    return samples


def _followed(
    task: Task,
    samples: pl.DataFrame,
    records: ShardRecords,
    periods: pl.DataFrame | None,
    flow: FlowCounter,
) -> pl.DataFrame:
    """Keep who is followed after the index, and add `end`."""
    if task.censoring.require_event:
        samples = flow.passed(
            "with an event after the index",
            samples.filter((pl.col("last") > pl.col("index")).fill_null(False)),
        )
    samples = samples.with_columns(end=end_of_follow_up(task, samples, records, periods))
    if task.censoring.at == "observation_end":
        samples = flow.passed("index in an observation period", samples.drop_nulls("end"))
    if task.censoring.at != "last_event":
        samples = flow.passed(
            "follow-up ends after the index", samples.filter(pl.col("end") > pl.col("index"))
        )
    return samples


def read_periods(path: Path) -> pl.DataFrame:
    """Read observation periods: `subject_id`, `start` and `end` in microseconds.

    Raises:
        RecordError: The file cannot be read, or a column is missing or no time.
    """
    table = read_table(path, ("start", "end"))
    for name in ("start", "end"):
        kind = table[name].dtype
        if kind != pl.Date and not (isinstance(kind, pl.Datetime) and kind.time_zone is None):
            raise RecordError(
                f"{path}: column {name} is {kind}; expected a date or a timestamp without time "
                "zone, as MEDS times are"
            )
    times = [pl.col(name).cast(pl.Datetime("us")).dt.epoch("us") for name in ("start", "end")]
    return table.select("subject_id", *times).drop_nulls()
