"""Who takes part: the criteria of a task, held against samples."""

from __future__ import annotations

import polars as pl

from concordant.data.tasks.definition import Criterion
from concordant.data.tasks.records import ShardRecords
from concordant.data.tasks.times import DAY, EVER, YEAR, first_from, is_among, microseconds


def meets(
    criterion: Criterion, samples: pl.DataFrame, records: ShardRecords, look_back_days: float | None
) -> pl.Series:
    """Tell for each sample whether it meets a criterion.

    One of whom the age or the history is not known does not.

    Args:
        criterion: The criterion.
        samples: `subject_id`, `index` (prediction time), `birth` and `first` (event other than
            birth), in microseconds.
        records: The records of the samples' subjects.
        look_back_days: Codes longer ago than this are not seen; None = all are.
    """
    if criterion.age_years is not None:
        return _has_age(criterion.age_years, samples)
    if criterion.history_days is not None:
        history = samples["index"] - samples["first"]
        return (history >= criterion.history_days * DAY).fill_null(False)
    return _has_codes(criterion, samples, records, look_back_days)


def _has_age(years: tuple[float | None, float | None], samples: pl.DataFrame) -> pl.Series:
    age = samples["index"] - samples["birth"]
    low, high = years
    old_enough = age >= (EVER if low is None else low * YEAR)
    return (old_enough if high is None else old_enough & (age <= high * YEAR)).fill_null(False)


def _has_codes(
    criterion: Criterion, samples: pl.DataFrame, records: ShardRecords, look_back_days: float | None
) -> pl.Series:
    """Look for an event in the window, ends inclusive.

    A static fact lies in every window that is open to the past.
    """
    events = records.of_sets(criterion.codes or (), criterion.within)
    low, high = criterion.window_days
    bounds = [-days for days in (look_back_days,) if days is not None] + [
        days for days in (low,) if days is not None
    ]
    start = pl.col("index") + microseconds(max(bounds)) if bounds else pl.lit(EVER)
    found = first_from(events, samples, start)
    inside = found.is_not_null()
    if high is not None:
        inside &= (found <= samples["index"] + microseconds(high)).fill_null(False)
    return (
        inside | is_among(samples, events.filter(pl.col("time").is_null()))
        if low is None
        else inside
    )
