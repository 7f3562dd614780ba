"""The samples of one shard: their index, who takes part, and what happens first to each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from concordant.data.flow import FlowCounter
from concordant.data.tasks.definition import Causes, Criterion, Endpoint, Index, Task
from concordant.data.tasks.records import ShardRecords
from concordant.data.tasks.tables import with_sample_ids

DAY = 86_400_000_000
"""Times are microseconds since 1970."""
_YEAR = 365.25 * DAY
_EVER = -(2**62)
"""Before every time."""
_NEVER = np.iinfo(np.int64).max
_SAMPLE = ("sample_id", "subject_id", "prediction_time")
"""What makes a sample; further columns of an index table take no part in the work."""


@dataclass(frozen=True, slots=True)
class SampleMaker:
    """Makes the samples of a shard.

    Attributes:
        task: The task.
        table: The index table of all shards, or None where the index is an event.
        periods: `subject_id`, `start`, `end` of observation periods from a file, or None.
        flow: Notes what remains after each step.
    """

    task: Task
    table: pl.DataFrame | None
    periods: pl.DataFrame | None
    flow: FlowCounter

    def samples(self, records: ShardRecords) -> pl.DataFrame:
        """Return the samples of one shard that take part.

        `sample_id`, `subject_id`, `prediction_time`, `time_days` > 0, `event`: 0 censored, 1 the
        outcome, 2, 3, ... the competing events in their order.
        """
        index, flow = pl.col("index"), self.flow
        first_step = f"index: {self.task.index}"
        if self.table is None:
            given = _index_events(self.task.index, records)
        else:
            given, first_step = self.table, "with a record in the dataset"
        samples = given.select(_SAMPLE).join(
            records.subjects, on="subject_id", how="inner", maintain_order="left"
        )
        samples = samples.with_columns(index=pl.col("prediction_time").dt.epoch("us"))
        samples = flow.passed(first_step, samples)
        samples = flow.passed(
            "alive at the index", samples.filter((pl.col("death") > index).fill_null(True))
        )
        samples = self._followed(self._eligible(samples, records), records)
        return samples.select(*_SAMPLE, *_what_happened(self.task, samples, records))

    def _eligible(self, samples: pl.DataFrame, records: ShardRecords) -> pl.DataFrame:
        parts = (("include", self.task.include), ("exclude", self.task.exclude))
        for part, criterion in ((part, one) for part, criteria in parts for one in criteria):
            if criterion.age_years is not None:
                unknown = samples["birth"].null_count()
                self.flow.counts["samples of unknown age at an age criterion"] += unknown
            met = _meets(criterion, samples, records, self.task.look_back_days)
            kept = samples.filter(met if part == "include" else ~met)
            samples = self.flow.passed(f"{part}: {criterion}", kept)
        return samples

    def _followed(self, samples: pl.DataFrame, records: ShardRecords) -> pl.DataFrame:
        """Keep who is followed after the index, and add `end`."""
        censoring, flow, index = self.task.censoring, self.flow, pl.col("index")
        if censoring.require_event:
            later = (pl.col("last") > index).fill_null(False)
            samples = flow.passed("with an event after the index", samples.filter(later))
        samples = samples.with_columns(end=self._end_of_follow_up(samples, records))
        if censoring.at == "observation_end":
            samples = flow.passed("index in an observation period", samples.drop_nulls("end"))
        if censoring.at != "last_event":
            later = pl.col("end") > index
            samples = flow.passed("follow-up ends after the index", samples.filter(later))
        return samples

    def _end_of_follow_up(self, samples: pl.DataFrame, records: ShardRecords) -> pl.Series:
        """Return when follow-up ends if nothing happens, null outside of observation."""
        at = self.task.censoring.at
        if at == "last_event":
            return samples["last"]
        if at != "observation_end":
            instant = pl.Series("end", [at], pl.Datetime("us")).dt.epoch("us")
            return instant.new_from_index(0, samples.height)
        bounded = records.periods if self.periods is None else self.periods
        numbered = samples.select("subject_id", "index").with_row_index("row")
        holding = numbered.join(bounded, on="subject_id").filter(
            pl.col("index").is_between("start", "end")
        )
        ends = holding.group_by("row").agg(pl.col("end").max())
        return numbered.join(ends, on="row", how="left").sort("row")["end"]


def _index_events(index: Index, records: ShardRecords) -> pl.DataFrame:
    """Return a shard's samples whose index is an event; one per subject and instant."""
    events = records.of_sets(index.codes or (), index.within)
    events = events.drop_nulls("time").select("subject_id", "time").unique()
    events = events.with_columns(pl.col("time") + _microseconds(index.offset_days))
    events = events.sort("subject_id", "time")
    if index.occurrence != "all":
        events = events.unique("subject_id", keep=index.occurrence, maintain_order=True)
    time = pl.from_epoch("time", time_unit="us").cast(pl.Datetime("us"))
    return with_sample_ids(events.select("subject_id", prediction_time=time))


def _meets(
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
        age = samples["index"] - samples["birth"]
        low, high = criterion.age_years
        old_enough = age >= (_EVER if low is None else low * _YEAR)
        met = old_enough if high is None else old_enough & (age <= high * _YEAR)
    elif criterion.history_days is not None:
        met = samples["index"] - samples["first"] >= criterion.history_days * DAY
    else:
        met = _has_codes(criterion, samples, records, look_back_days)
    return met.fill_null(False)


def _has_codes(
    criterion: Criterion, samples: pl.DataFrame, records: ShardRecords, look_back_days: float | None
) -> pl.Series:
    """Look for an event in the window, ends included; one open to the past has static facts."""
    events = records.of_sets(criterion.codes or (), criterion.within)
    low, high = criterion.window_days
    bounds = [low] if low is not None else []
    if look_back_days is not None:
        bounds.append(-look_back_days)
    start = pl.col("index") + _microseconds(max(bounds)) if bounds else pl.lit(_EVER)
    found = _first_from(events, samples, start)
    inside = found.is_not_null()
    if high is not None:
        inside &= (found <= samples["index"] + _microseconds(high)).fill_null(False)
    if low is None:
        inside |= _is_among(samples, events.filter(pl.col("time").is_null()))
    return inside


def _what_happened(task: Task, samples: pl.DataFrame, records: ShardRecords) -> list[pl.Series]:
    """Return `time_days` and `event`: what happens first to each sample.

    At the same instant the outcome goes first, then competing events, then censoring. Nobody is
    dead at the index, every end of follow-up is later.
    """
    index = samples["index"].to_numpy()
    endings = [_first_time(one, samples, records) for one in (task.outcome, *task.competing)]
    times = [
        one.fill_null(_NEVER).to_numpy() for one in (*endings, samples["death"], samples["end"])
    ]
    if task.censoring.horizon_days is not None:
        times.append(index + _microseconds(task.censoring.horizon_days))
    stacked = np.stack(times, axis=1)
    which = stacked.argmin(axis=1)  # the first of equals
    event = np.where(which < len(endings), which + 1, 0)
    return [
        pl.Series("time_days", (stacked.min(axis=1) - index) / DAY, pl.Float64),
        pl.Series("event", event, pl.Int8),
    ]


def _first_time(endpoint: Endpoint, samples: pl.DataFrame, records: ShardRecords) -> pl.Series:
    """Return when an endpoint is first met after the prediction time, null where it is not."""
    found = []
    for _, part in endpoint.parts(""):
        if part.codes is not None:
            events = records.of_sets(part.codes, part.within)
            found.append(_first_from(events, samples, pl.col("index"), strictly_after=True))
        if isinstance(part.death, Causes):
            died_so = _is_among(samples, records.who_died_of(part.death.causes))
            found.append(samples.select(pl.when(died_so).then("death"))["death"])
        elif part.death:
            found.append(samples["death"])
    numbered = pl.DataFrame([one.alias(str(number)) for number, one in enumerate(found)])
    return numbered.select(pl.min_horizontal(pl.all())).to_series()


def _first_from(
    events: pl.DataFrame, samples: pl.DataFrame, start: pl.Expr, *, strictly_after: bool = False
) -> pl.Series:
    """Return the time of each sample's first event at or after a start, null where there is none.

    Args:
        events: `subject_id` and `time`; static events (null) are passed over.
        samples: `subject_id`, and what `start` needs.
        start: From when on.
        strictly_after: Whether an event at the start is passed over too.
    """
    asked = samples.select("subject_id", start=start.cast(pl.Int64)).with_row_index("row")
    times = events.select("subject_id", "time").drop_nulls("time").sort("time")
    found = asked.sort("start").join_asof(
        times.with_columns(found="time"),
        left_on="start",
        right_on="time",
        by="subject_id",
        strategy="forward",
        allow_exact_matches=not strictly_after,
        check_sortedness=False,
    )
    return found.sort("row")["found"]


def _is_among(samples: pl.DataFrame, subjects: pl.DataFrame) -> pl.Series:
    return samples["subject_id"].is_in(subjects["subject_id"].unique().implode())


def _microseconds(days: float) -> int:
    return round(days * DAY)
