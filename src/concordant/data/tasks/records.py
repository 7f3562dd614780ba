"""What a task needs of one shard: a line per subject, and the events it looks for."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from concordant.core.errors import RecordError
from concordant.data.meds import Shard
from concordant.data.meds.shards import is_nested, unreadable
from concordant.data.tasks.codes import CodeMatcher, TaskCodes
from concordant.data.tasks.visits import VisitTable, visits_of

_PERIOD_CODES = pl.Series("code", ["OBSERVATION_PERIOD_START", "OBSERVATION_PERIOD_END"])


@dataclass(frozen=True, slots=True)
class ShardRecords:
    """One shard as a task sees it; times are microseconds since 1970.

    Attributes:
        subjects: `subject_id`, `birth`, `first` (event other than birth), `last`, `death` (null
            where there is none): each subject once.
        events: `subject_id`, `time` (null = static), `code`, `visit_id`, `end` of the events that
            the task looks for.
        sets: By name, the codes of the shard that belong to a code set.
        causes: By name of a code set, the codes of death that state such a cause, or belong to it
            themselves.
        death: The codes of death.
        visits: By kind, the visits.
        periods: `subject_id`, `start`, `end` of the observation periods.
        codes: `code` and the number of its events (`len`).
        n_deaths_with_cause: Events of death that state a cause.
    """

    subjects: pl.DataFrame
    events: pl.DataFrame
    sets: dict[str, pl.Series]
    causes: dict[str, pl.Series]
    death: pl.Series
    visits: dict[str, VisitTable]
    periods: pl.DataFrame
    codes: pl.DataFrame
    n_deaths_with_cause: int

    def of_sets(
        self, names: tuple[str, ...], within: tuple[str, ...] | None = None
    ) -> pl.DataFrame:
        """Return the events of code sets, only those within a visit of one of the kinds."""
        found = self._with_codes([self.sets[name] for name in names])
        if within is None:
            return found
        return pl.concat([self.visits[kind].part_of(found) for kind in within]).unique()

    def who_died_of(self, names: tuple[str, ...]) -> pl.DataFrame:
        """Return `subject_id` of those of whom a death states a cause in the code sets."""
        died = self._with_codes([self.causes[name] for name in names])
        return died.select("subject_id").unique()

    def _with_codes(self, codes: list[pl.Series]) -> pl.DataFrame:
        return self.events.filter(pl.col("code").is_in(pl.concat(codes).unique().implode()))


def read_shard(shard: Shard, wanted: TaskCodes, *, periods: bool) -> ShardRecords:
    """Read what a task needs of a shard; the shard itself streams through.

    Args:
        shard: The shard.
        wanted: What the task looks for.
        periods: Whether events of observation periods are wanted too.

    Raises:
        RecordError: The shard cannot be read, or an event has no subject or no code.
    """
    try:
        codes = (
            shard.frame.group_by("code")
            .agg(pl.len(), no_subject=pl.col("subject_id").null_count())
            .collect(engine="streaming")
        )
        _check_complete(codes, shard)
        present = codes["code"]
        birth, death = wanted.birth.among(present), wanted.death.among(present)
        sets = {name: one.among(present) for name, one in wanted.sets.items()}
        starts = {kind: one.among(present) for kind, one in wanted.starts.items()}
        ends = {kind: _ending(wanted.starts[kind], wanted.ends[kind], present) for kind in starts}
        marks = _PERIOD_CODES if periods else _PERIOD_CODES.clear()
        several = [death, marks, *sets.values(), *starts.values(), *ends.values()]
        looked_for = pl.concat(several).unique()
        subjects, events = _collected(shard, birth, death, looked_for, with_visits=bool(starts))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise unreadable(shard.path, error) from None
    stated = wanted.causes(death).drop_nulls("cause")
    with_cause = codes.join(stated, on="code", how="semi")["len"].sum()
    return ShardRecords(
        subjects=subjects,
        events=events,
        sets=sets,
        causes={name: _with_cause(stated, one, death) for name, one in wanted.sets.items()},
        death=death,
        visits={kind: visits_of(events, starts[kind], ends[kind]) for kind in starts},
        periods=visits_of(events, _PERIOD_CODES[:1], _PERIOD_CODES[1:]).intervals,
        codes=codes.select("code", "len"),
        n_deaths_with_cause=int(with_cause),
    )


def _ending(starts: CodeMatcher, ends: CodeMatcher, present: pl.Series) -> pl.Series:
    """Return the codes that end a visit; a starting one with `/end` after it does too."""
    code = pl.col("code")
    named = code.str.ends_with("/end") & starts.matches(code.str.strip_suffix("/end"))
    return present.to_frame("code").filter(ends.matches(code) | named)["code"]


def _with_cause(stated: pl.DataFrame, wanted: CodeMatcher, death: pl.Series) -> pl.Series:
    """Return the codes of death whose cause belongs to a code set, or which belong to it whole."""
    by_cause = stated.filter(wanted.matches(pl.col("cause")))["code"]
    return pl.concat([by_cause, wanted.among(death)]).unique()


def _check_complete(codes: pl.DataFrame, shard: Shard) -> None:
    without_subject = int(codes["no_subject"].sum())
    without_code = int(codes.filter(pl.col("code").is_null())["len"].sum())
    for name, count in (("subject_id", without_subject), ("code", without_code)):
        if count:
            raise RecordError(
                f"{shard.path}: {count} event(s) have no {name}; every MEDS event needs one"
            )


def _collected(
    shard: Shard, birth: pl.Series, death: pl.Series, looked_for: pl.Series, *, with_visits: bool
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read the line per subject and the events that are looked for."""
    time, code = pl.col("time").dt.epoch("us"), pl.col("code")
    frame = _with_visit_columns(shard, with_visits)
    subjects = shard.frame.group_by("subject_id").agg(
        birth=time.filter(code.is_in(birth.implode())).min(),
        first=time.filter(~code.is_in(birth.implode())).min(),
        last=time.max(),
        death=time.filter(code.is_in(death.implode())).min(),
    )
    events = frame.filter(code.is_in(looked_for.implode())).with_columns(time=time).unique()
    both = pl.collect_all([subjects, events], engine="streaming")
    return both[0], both[1]


def _with_visit_columns(shard: Shard, wanted: bool) -> pl.LazyFrame:
    """Add `visit_id` (text) and `end` (microseconds); null in the many datasets without them."""
    frame = shard.frame.select("subject_id", "time", "code")
    absent = {"visit_id": pl.lit(None, pl.String), "end": pl.lit(None, pl.Int64)}
    if not wanted:
        return frame.with_columns(**absent)
    stored = pl.scan_parquet(shard.path, hive_partitioning=False)
    schema = stored.collect_schema()
    found = {}
    if not is_nested(schema) and "visit_id" in schema:
        number = pl.col("visit_id")
        number = number.fill_nan(None) if schema["visit_id"].is_float() else number
        found["visit_id"] = number.cast(pl.String)
    if not is_nested(schema) and isinstance(schema.get("end"), pl.Datetime):
        found["end"] = pl.col("end").dt.epoch("us")
    if found:
        frame = pl.concat([frame, stored.select(**found)], how="horizontal")
    return frame.with_columns(**{name: absent[name] for name in absent if name not in found})
