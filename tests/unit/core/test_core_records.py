"""The record of a run: written and read whole, and what cannot be read says so."""

from __future__ import annotations

import pytest

from concordant.core.artifacts import RunFolder
from concordant.core.errors import ConcordantError, StoreError
from concordant.core.files import write_json
from concordant.core.records import (
    CohortRecord,
    RunRecord,
    StrategyRecord,
    TaskRecord,
    read_audit_record,
    read_run_record,
    refuse_earlier_layout,
    write_record,
)

RECORD = RunRecord(
    name="pe",
    task=TaskRecord(event="death", horizons_days=(30.0, 365.0)),
    train={"lr": 0.001, "betas": [0.9, 0.99]},
    cohorts=(CohortRecord(label="held_out", role="internal", n=3, sites={"a": 3}),),
    strategies=(
        StrategyRecord(folder="concat", fusion="concat", seeds=(0, 1), tuning_concordance=0.7),
        StrategyRecord(folder="late", fusion="late", status="failed", reason="NaN loss"),
    ),
)


def test_a_record_is_read_as_it_was_written(tmp_path):
    run = RunFolder(tmp_path)
    write_record(run, RECORD)
    assert run.record.name == "run.json"
    assert read_run_record(run) == RECORD


def test_a_record_may_hold_more_than_is_known_and_less_than_is_hoped(tmp_path):
    run = RunFolder(tmp_path)
    write_json(run.record, {"name": "pe", "later": 1, "strategies": []})
    assert read_run_record(run) == RunRecord(name="pe")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"run\.json is damaged \(no JSON"),
        ("[]", r"run\.json is damaged \(at its top"),
        (
            '{"name": "pe", "strategies": [{"folder": "a", "fusion": "b", "status": "perhaps"}]}',
            r"damaged \(at strategies\.0\.status",
        ),
    ],
)
def test_a_damaged_record_says_where(tmp_path, content, message):
    run = RunFolder(tmp_path)
    run.record.write_text(content)
    with pytest.raises(ConcordantError, match=message):
        read_run_record(run)


def test_an_absent_record_or_audit_says_what_to_do(tmp_path):
    run = RunFolder(tmp_path)
    for read in (read_run_record, read_audit_record):
        with pytest.raises(ConcordantError, match=r"is missing; .*run `concordant run`"):
            read(run)


def test_only_a_folder_that_has_the_old_record_alone_is_refused(tmp_path):
    run = RunFolder(tmp_path)
    refuse_earlier_layout(run)
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(StoreError, match=r"earlier version .* move it away and run"):
        refuse_earlier_layout(run)
    write_record(run, RECORD)
    refuse_earlier_layout(run)
