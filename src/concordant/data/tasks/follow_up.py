"""What happened to each sample, and when.

The earliest of outcome, competing events, death, end of follow-up and horizon.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from concordant.data.tasks.definition import Causes, Endpoint, Task
from concordant.data.tasks.records import ShardRecords
from concordant.data.tasks.times import DAY, first_from, is_among, microseconds

_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class FollowUp:
    """What happened.

    Attributes:
        time_days: Days from the prediction time, > 0.
        event: 0 censored, 1 the outcome, 2, 3, ... the competing events in their order.
    """

    time_days: np.ndarray
    event: np.ndarray


def follow(task: Task, samples: pl.DataFrame, records: ShardRecords) -> FollowUp:
    """Find what happens first to each sample.

    At the same instant the outcome goes first, then competing events, then censoring.

    Args:
        task: The task.
        samples: `subject_id`, `index`, `death` and `end` (of follow-up) in microseconds; nobody is
            dead at the index, every end is later.
        records: The records of the samples' subjects.
    """
    index = samples["index"].to_numpy()
    endings = [first_time(one, samples, records) for one in (task.outcome, *task.competing)]
    censorings = [samples["death"], samples["end"]]
    times = [series.fill_null(_NEVER).to_numpy() for series in (*endings, *censorings)]
    if task.censoring.horizon_days is not None:
        times.append(index + microseconds(task.censoring.horizon_days))
    stacked = np.stack(times, axis=1)
    which = stacked.argmin(axis=1)  # the first of equals
    earliest = stacked[np.arange(len(index)), which]
    return FollowUp(
        (earliest - index) / DAY, np.where(which < len(endings), which + 1, 0).astype(np.int8)
    )


def first_time(endpoint: Endpoint, samples: pl.DataFrame, records: ShardRecords) -> pl.Series:
    """Return when an endpoint is first met strictly after the prediction time, null where it is
    not.
    """
    found = []
    for _, part in endpoint.parts(""):
        if part.codes is not None:
            events = records.of_sets(part.codes, part.within)
            found.append(first_from(events, samples, pl.col("index"), strictly_after=True))
        if isinstance(part.death, Causes):
            died_so = is_among(samples, records.who_died_of(part.death.causes))
            found.append(samples.select(pl.when(died_so).then("death"))["death"])
        elif part.death:
            found.append(samples["death"])
    return (
        pl.DataFrame([one.alias(str(number)) for number, one in enumerate(found)])
        .select(pl.min_horizontal(pl.all()))
        .to_series()
    )


def end_of_follow_up(
    task: Task, samples: pl.DataFrame, records: ShardRecords, periods: pl.DataFrame | None
) -> pl.Series:
    """Return when each sample's follow-up ends if nothing happens, null where the index lies in no
    observation period.

    Args:
        task: The task.
        samples: `subject_id`, `index` and `last` in microseconds.
        records: The records of the samples' subjects.
        periods: `subject_id`, `start`, `end` from a file in place of the records, or None.
    """
    at = task.censoring.at
    if at == "last_event":
        return samples["last"]
    if at != "observation_end":
        instant = pl.Series("end", [at], pl.Datetime("us")).dt.epoch("us")
        return instant.new_from_index(0, samples.height)
    bounded = records.periods if periods is None else periods
    numbered = samples.select("subject_id", "index").with_row_index("row")
    holding = numbered.join(bounded, on="subject_id").filter(
        (pl.col("start") <= pl.col("index")) & (pl.col("index") <= pl.col("end"))
    )
    return numbered.join(
        holding.group_by("row").agg(pl.col("end").max()), on="row", how="left"
    ).sort("row")["end"]
