"""Visits: from when to when one lasted, and which events are part of it."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

_VISIT = ["subject_id", "visit_id"]


@dataclass(frozen=True, slots=True)
class VisitTable:
    """The visits of one kind.

    Attributes:
        intervals: `subject_id`, `start` and `end` (microseconds); a visit whose end is not known
            covers the instant of its start alone.
        identifiers: `subject_id` and `visit_id` of the visits that have one.
        n_visits: Number of visits.
        n_without_end: Visits whose end is not known.
    """

    intervals: pl.DataFrame
    identifiers: pl.DataFrame
    n_visits: int
    n_without_end: int

    def part_of(self, events: pl.DataFrame) -> pl.DataFrame:
        """Keep the events of a visit: by identifier where both have one, else by time."""
        rows = events.drop_nulls("time")
        if self.identifiers.height:
            named = rows.filter(pl.col("visit_id").is_not_null()).join(
                self.identifiers, on=_VISIT, how="semi"
            )
            rows = rows.filter(pl.col("visit_id").is_null())
            return pl.concat([named, self._covered(rows)])
        return self._covered(rows)

    def _covered(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Keep what lies in an interval, by the latest end of all that began before."""
        visits = self.intervals.sort("start").with_columns(
            until=pl.col("end").cum_max().over("subject_id")
        )
        joined = rows.sort("time").join_asof(
            visits.select("subject_id", "start", "until"),
            left_on="time",
            right_on="start",
            by="subject_id",
            strategy="backward",
            check_sortedness=False,
        )
        return joined.filter(pl.col("until") >= pl.col("time")).select(rows.columns)


def visits_of(events: pl.DataFrame, starts: pl.Series, ends: pl.Series) -> VisitTable:
    """Find the visits of one kind.

    A visit ends where its own row says so (column `end`), else at the ending event with its
    `visit_id`, else at the next ending event: a start while a visit is under way belongs to that
    visit, and where an ending and a starting event share an instant, the ending one closes the
    visit under way, if there is one.

    Args:
        events: `subject_id`, `time` (microseconds or null), `code`, `visit_id` (null where there is
            none), `end` (microseconds or null).
        starts: Codes that begin a visit.
        ends: Codes that end one, also where they are among `starts`.
    """
    timed = events.drop_nulls("time").unique(["subject_id", "time", "code", "visit_id"])
    closing = timed.filter(pl.col("code").is_in(ends.implode()))
    opening = timed.filter(
        pl.col("code").is_in(starts.implode()) & ~pl.col("code").is_in(ends.implode())
    )
    opening = _ended_by_identifier(opening, closing)
    known = opening.drop_nulls("end").select("subject_id", start="time", end="end")
    opened = opening.filter(pl.col("end").is_null())
    open_ended = _ended_by_next(
        opened, closing.join(opening.drop_nulls("visit_id"), on=_VISIT, how="anti")
    )
    intervals = pl.concat([known, open_ended])
    return VisitTable(
        intervals=intervals.with_columns(
            end=pl.max_horizontal("start", pl.col("end").fill_null(pl.col("start")))
        ),
        identifiers=opening.select(_VISIT).drop_nulls().unique(),
        n_visits=intervals.height,
        n_without_end=intervals["end"].null_count(),
    )


def _ended_by_identifier(opening: pl.DataFrame, closing: pl.DataFrame) -> pl.DataFrame:
    """Fill in the end of visits whose ending event has their identifier."""
    ends = closing.drop_nulls("visit_id").group_by(_VISIT).agg(stated=pl.col("time").max())
    return (
        opening.join(ends, on=_VISIT, how="left")
        .with_columns(end=pl.coalesce("end", "stated"))
        .drop("stated")
    )


def _ended_by_next(opening: pl.DataFrame, closing: pl.DataFrame) -> pl.DataFrame:
    """Give every start the end of its visit, null where none follows."""
    both = pl.concat(
        [
            opening.select("subject_id", "time", opens=True),
            closing.select("subject_id", "time", opens=False),
        ]
    )
    instants = (
        both.group_by("subject_id", "time")
        .agg(opens=pl.col("opens").any(), closes=(~pl.col("opens")).sum())
        .sort("subject_id", "time")
    )
    opens, closes = pl.col("opens"), pl.col("closes")
    under_way_after = (  # null: as before this instant, for one ending event meets one start
        pl.when(opens & (closes == 0)).then(True).when(~opens | (closes >= 2)).then(False)
    )
    instants = instants.with_columns(after=under_way_after).with_columns(
        under_way=pl.col("after").forward_fill().shift(1).over("subject_id").fill_null(False),
        next_end=pl.when(closes >= 1).then("time").shift(-1).backward_fill().over("subject_id"),
    )
    closed_at_once = (closes >= 2) | ((closes == 1) & ~pl.col("under_way"))
    return instants.filter(opens).select(
        "subject_id", start="time", end=pl.when(closed_at_once).then("time").otherwise("next_end")
    )
