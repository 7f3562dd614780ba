"""What reading records met, and by which rule it was handled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

import polars as pl


@dataclass(frozen=True, slots=True)
class RecordCounts:
    """What reading the records of a cohort met.

    One event of a subject counts once for each of the subject's samples.

    Attributes:
        n_events_read: Events of the cohort's subjects, before anything is left out.
        n_duplicates: Left out: the same subject, time, code, value and text once more, among those
            not left out already.
        n_after_prediction: Left out: later than the sample's prediction time.
        n_before_look_back: Left out: longer ago than the look-back.
        n_null_time: Kept: static events.
        n_subjects_without_record: Subjects of the cohort with no event in the dataset.
        latest_days_before: Days from the latest event kept in any sample to its prediction time, >=
            0; None where none has a time.
        n_out_of_order: Sorted: rows earlier than the one before of the same subject, or in a second
            run of rows of that subject.
        n_after_death: Of the events read, those later than the subject's first dated death; kept
            where not after the prediction time.
        n_without_birth: Samples with a record but no birth in what is kept, so that there is no
            age.
    """

    n_events_read: int
    n_duplicates: int
    n_after_prediction: int
    n_before_look_back: int
    n_null_time: int
    n_subjects_without_record: int
    latest_days_before: float | None
    n_out_of_order: int = 0
    n_after_death: int = 0
    n_without_birth: int = 0


_RULES = {
    "n_events_read": "events of the cohort's subjects, once per sample",
    "n_duplicates": "same subject, time, code, value and text once more: left out",
    "n_after_prediction": "later than the prediction time: left out",
    "n_before_look_back": "longer ago than the look-back: left out, but for static events and the "
    "birth",
    "n_null_time": "no time: a static event, kept, part of every record of its subject",
    "n_out_of_order": "row earlier than the one before it, or apart from its subject's others: "
    "sorted by time, kept",
    "n_after_death": "later than the subject's first dated death: kept if not after the prediction "
    "time",
    "n_without_birth": "sample with a record and no birth: kept, without an age",
    "n_subjects_without_record": "subject without any event: its samples have the record missing",
}


def quality_table(records: Mapping[str, RecordCounts]) -> pl.DataFrame:
    """Return the data-quality table.

    Args:
        records: Per cohort what was met.

    Returns:
        `cohort`, `finding`, `n`, `rule`: one row per cohort and finding.
    """
    rows = [
        (cohort, name, getattr(counts, name), rule)
        for cohort, counts in records.items()
        for name, rule in _RULES.items()
    ]
    return pl.DataFrame(
        rows,
        schema={"cohort": pl.String, "finding": pl.String, "n": pl.Int64, "rule": pl.String},
        orient="row",
    )


def quality_in_words(counts: RecordCounts) -> str:
    """Return what was met in one line, without what was not."""
    met = [
        f"{getattr(counts, name):,} {name.removeprefix('n_').replace('_', ' ')}"
        for name in _RULES
        if getattr(counts, name)
    ]
    return ", ".join(met) or "no event"


def total(parts: Iterable[RecordCounts]) -> RecordCounts:
    """Add up the counts of parts whose subjects differ."""
    counts = list(parts)
    latest = [one.latest_days_before for one in counts if one.latest_days_before is not None]
    names = [one.name for one in fields(RecordCounts) if one.name != "latest_days_before"]
    sums = {name: sum(getattr(one, name) for one in counts) for name in names}
    return RecordCounts(**sums, latest_days_before=min(latest, default=None))
