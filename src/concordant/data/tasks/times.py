"""Questions about times that the rules of a task are made of; times are microseconds since 1970."""

from __future__ import annotations

import polars as pl

DAY = 86_400_000_000
YEAR = 365.25 * DAY
EVER = -(2**62)
"""Before every time."""


def microseconds(days: float) -> int:
    """Return days as whole microseconds."""
    return round(days * DAY)


def first_from(
    events: pl.DataFrame, samples: pl.DataFrame, start: pl.Expr, *, strictly_after: bool = False
) -> pl.Series:
    """Return for each sample, in order, the time of its subject's first event at or after a start,
    null where there is none.

    Args:
        events: `subject_id` and `time`; static events (null) are passed over.
        samples: `subject_id`, and what `start` needs.
        start: From when on.
        strictly_after: Whether an event at the start is passed over too.
    """
    asked = (
        samples.select("subject_id", start.cast(pl.Int64).alias("start"))
        .with_row_index("row")
        .sort("start")
    )
    times = events.select("subject_id", "time").drop_nulls("time").sort("time")
    found = asked.join_asof(
        times.with_columns(found="time"),
        left_on="start",
        right_on="time",
        by="subject_id",
        strategy="forward",
        allow_exact_matches=not strictly_after,
        check_sortedness=False,
    )
    return found.sort("row")["found"]


def is_among(samples: pl.DataFrame, subjects: pl.DataFrame) -> pl.Series:
    """Tell for each sample whether its subject is listed."""
    return samples["subject_id"].is_in(subjects["subject_id"].unique().implode())
