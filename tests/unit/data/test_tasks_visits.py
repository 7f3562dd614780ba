"""Visits: how long one lasts, and what is part of it."""

from __future__ import annotations

from datetime import datetime

import polars as pl
import pytest

from concordant.data.tasks import build_cohort
from concordant.data.tasks.samples import DAY
from concordant.data.tasks.visits import visits_of
from meds_tasks_fixture import day, index_table, write_meds

TASK = {
    "name": "t",
    "code_sets": {"hf": {"codes": ["HF"]}},
    "index": {"table": "index.parquet"},
    "outcome": {"codes": ["hf"], "within": ["inpatient"]},
}


def intervals(*rows):
    """Return the intervals, in days, of rows (day, code, visit_id, end)."""
    filled = [
        (1, None if time is None else time * DAY, code, *more, *[None] * (2 - len(more)))
        for time, code, *more in rows
    ]
    schema = {
        "subject_id": pl.Int64,
        "time": pl.Int64,
        "code": pl.String,
        "visit_id": pl.String,
        "end": pl.Int64,
    }
    found = visits_of(
        pl.DataFrame(filled, schema=schema, orient="row"),
        pl.Series(["IN", "STAY"]),
        pl.Series(["OUT"]),
    )
    return sorted(
        (start // DAY, end // DAY) for _, start, end in found.intervals.iter_rows()
    ), found.n_without_end


def test_a_visit_lasts_to_the_next_ending_event():
    assert intervals((1, "IN"), (4, "OUT"), (9, "IN"), (12, "OUT"), (13, "OUT")) == (
        [(1, 4), (9, 12)],
        0,
    )


def test_where_two_visits_meet_each_has_its_own_end():
    assert intervals((1, "IN"), (4, "OUT"), (4, "IN"), (7, "OUT")) == ([(1, 4), (4, 7)], 0)


def test_a_visit_of_an_instant_does_not_run_on():
    assert intervals((1, "IN"), (1, "OUT"), (90, "IN"), (92, "OUT")) == ([(1, 1), (90, 92)], 0)


def test_a_start_within_a_visit_belongs_to_it():
    assert intervals((1, "IN"), (2, "STAY"), (4, "OUT"), (9, "OUT")) == ([(1, 4), (2, 4)], 0)


def test_a_visit_without_an_end_is_an_instant_and_counted():
    assert intervals((1, "IN"), (4, "OUT"), (6, "IN")) == ([(1, 4), (6, 6)], 1)


def test_an_identifier_pairs_start_and_end():
    assert intervals((1, "IN", "a"), (2, "IN", "b"), (3, "OUT", "b"), (8, "OUT", "a")) == (
        [(1, 8), (2, 3)],
        0,
    )


def test_the_row_itself_may_state_the_end():
    assert intervals((1, "IN", "a", 6 * DAY), (9, "IN"), (11, "OUT")) == ([(1, 6), (9, 11)], 0)


def outcome(meds):
    return (
        build_cohort(TASK, meds, index=index_table((1, day(0)), (2, day(0))))
        .table.select("time_days", "event")
        .rows()
    )


CONTROL = [(2, day(1), "Visit/IP"), (2, day(2), "HF"), (2, day(3), "Visit/IP/end")]


@pytest.mark.parametrize(
    ("time", "counts"), [(1.99, False), (2, True), (3, True), (5, True), (5.01, False)]
)
def test_both_ends_of_a_visit_belong_to_it(tmp_path, time, counts):
    rows = [
        (1, day(2), "Visit/IP"),
        (1, day(5), "Visit/IP/end"),
        (1, day(time), "HF"),
        (1, day(9), "X"),
        *CONTROL,
    ]
    assert outcome(write_meds(tmp_path, rows))[0] == (
        pytest.approx(time) if counts else 9.0,
        int(counts),
    )


def test_the_latest_end_of_overlapping_visits_counts(tmp_path):
    rows = [
        (1, day(1), "Visit/IP", "a"),
        (1, day(2), "Visit/IP", "b"),
        (1, day(3), "Visit/IP/end", "b"),
        (1, day(8), "Visit/IP/end", "a"),
    ]
    rows += [(1, day(6), "HF", None), (1, day(9), "X", None), *((*row, None) for row in CONTROL)]
    assert outcome(write_meds(tmp_path, rows, visit_id=pl.String))[0] == (6.0, 1)


def test_an_event_with_the_identifier_of_another_visit_is_not_part_of_this_one(tmp_path):
    rows = [
        (1, day(1), "Visit/IP", 7),
        (1, day(5), "Visit/IP/end", 7),
        (1, day(3), "Visit/OP", 8),
        (1, day(3), "HF", 8),
        (1, day(4), "HF", 7),
    ]
    rows += [(1, day(9), "X", None), *((*row, None) for row in CONTROL)]
    assert outcome(write_meds(tmp_path, rows, visit_id=pl.Int64))[0] == (4.0, 1)


@pytest.mark.parametrize("identifier", [pl.Int64, pl.Float64, pl.String])
def test_identifiers_hold_where_the_code_has_another_name_and_no_number_is_none(
    tmp_path, identifier
):
    none = float("nan") if identifier == pl.Float64 else None
    rows = [
        (1, day(1), "Visit/IP", 7),
        (1, day(3), "HF", 8),
        (1, day(4), "HF", none),
        (1, day(5), "Visit/IP/end", 7),
        (1, day(9), "X", none),
    ]
    meds = write_meds(
        tmp_path,
        [(*row[:3], str(row[3]) if identifier == pl.String and row[3] else row[3]) for row in rows],
        visit_id=identifier,
    )
    path = meds / "data" / "0.parquet"
    pl.read_parquet(path).rename({"code": "concept"}).write_parquet(path)
    cohort = build_cohort(TASK, meds, index=index_table((1, day(0))), columns={"code": "concept"})
    assert cohort.table.select("time_days", "event").row(0) == (4.0, 1)


def test_an_event_with_the_identifier_counts_though_it_is_stamped_later(tmp_path):
    rows = [
        (1, day(1), "Visit/IP", 7),
        (1, day(5), "Visit/IP/end", 7),
        (1, day(6), "HF", 7),
        (1, day(9), "X", None),
    ]
    assert outcome(
        write_meds(tmp_path, [*rows, *((*row, None) for row in CONTROL)], visit_id=pl.Int64)
    )[0] == (6.0, 1)


def test_the_end_stated_beside_the_start_is_used(tmp_path):
    none: datetime | None = None
    rows = [
        (1, day(1), "Visit/IP", day(4)),
        (1, day(3), "HF", none),
        (1, day(9), "X", none),
        *((*row, none) for row in CONTROL),
    ]
    assert outcome(write_meds(tmp_path, rows, end=pl.Datetime("us")))[0] == (3.0, 1)


def test_visits_of_ones_own_kind(tmp_path):
    rows = [
        (1, day(1), "ICU_ADMISSION//A"),
        (1, day(3), "HF"),
        (1, day(4), "ICU_DISCHARGE//A"),
        (1, day(9), "X"),
    ]
    task = {
        **TASK,
        "visits": {"icu": {"start": ["ICU_ADMISSION//*"], "end": ["ICU_DISCHARGE//*"]}},
        "outcome": {"codes": ["hf"], "within": ["icu"]},
    }
    cohort = build_cohort(task, write_meds(tmp_path, rows), index=index_table((1, day(0))))
    assert cohort.table.select("time_days", "event").row(0) == (3.0, 1)
    assert cohort.flow.counts["visits: icu"] == 1


@pytest.mark.parametrize("kind", ["stay", "inpatient"])
def test_a_code_set_may_stand_for_a_kind_of_visit(tmp_path, kind):
    rows = [(1, day(1), "STAY/A"), (1, day(2), "HF"), (1, day(3), "STAY/A/end"), (1, day(4), "HF")]
    rows += [(2, day(1), "STAY/A"), (2, day(3), "STAY/A/end"), (2, day(4), "HF")]
    sets = TASK["code_sets"] | {kind: {"codes": ["STAY/*"]}}
    task = TASK | {"code_sets": sets, "outcome": {"codes": ["hf"], "within": [kind]}}
    cohort = build_cohort(
        task, write_meds(tmp_path, rows), index=index_table((1, day(0)), (2, day(0)))
    )
    assert cohort.table.select("time_days", "event").rows() == [(2.0, 1), (4.0, 0)]
    assert cohort.flow.counts[f"visits: {kind}"] == 2
    assert cohort.flow.code_sets[kind] == {"codes": 2, "events": 4}


def test_an_admission_called_inpatient_ends_as_admissions_do(tmp_path):
    rows = [
        (1, day(1), "HOSPITAL_ADMISSION//EW"),
        (1, day(2), "HF"),
        (1, day(3), "HOSPITAL_DISCHARGE//HOME"),
    ]
    task = TASK | {
        "code_sets": TASK["code_sets"] | {"inpatient": {"codes": ["HOSPITAL_ADMISSION//*"]}}
    }
    cohort = build_cohort(task, write_meds(tmp_path, rows), index=index_table((1, day(0))))
    assert cohort.table.select("time_days", "event").rows() == [(2.0, 1)]
