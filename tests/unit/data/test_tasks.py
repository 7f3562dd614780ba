"""Cohorts from tasks: each rule by hand, what is kept of the index table, splits, the flow, and
what is refused.
"""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from concordant.core.errors import CohortError, ConfigError, RecordError
from concordant.data.cohort import read_cohort
from concordant.data.omop import convert_omop
from concordant.data.tasks import SplitDraw, build_cohort
from meds_tasks_fixture import day, index_table, write_meds

DATA = Path(os.environ.get("CONCORDANT_DATA", Path(__file__).parents[4] / "shared" / "data"))
NAMES = {"a": {"codes": ["A"]}, "b": {"codes": ["B"]}, "start": {"codes": ["START"]}}
CONTROL = [(99, day(1), "A")]  # a cohort of nobody is refused


def task(**changed):
    return {
        "name": "t",
        "code_sets": NAMES,
        "index": {"table": "index.parquet"},
        "outcome": {"codes": ["a"]},
        **changed,
    }


def what_happens(folder, *rows, at=0.0, **changed):
    """Return (time_days, event) of subject 1, None where it is left out; rows are (day, code)."""
    events = [(1, None if when is None else day(when), code) for when, code in rows]
    cohort = build_cohort(
        task(**changed),
        write_meds(folder, [*events, *CONTROL]),
        index=index_table((1, day(at)), (99, day(0))),
    )
    found = cohort.table.filter(pl.col("subject_id") == 1).select("time_days", "event").rows()
    return found[0] if found else None


# The rules


def test_only_what_is_strictly_after_the_prediction_time_is_an_outcome(tmp_path):
    assert what_happens(tmp_path, (-1, "A"), (0, "A"), (5, "X")) == (5.0, 0)
    microsecond = 1e-6 / 86400
    assert what_happens(tmp_path, (0, "A"), (microsecond, "A")) == (pytest.approx(microsecond), 1)


def test_days_have_fractions(tmp_path):
    assert what_happens(tmp_path, (1.25, "A")) == (1.25, 1)


def test_the_earliest_decides(tmp_path):
    competing = {"competing": [{"codes": ["b"]}, {"death": True}]}
    assert what_happens(tmp_path, (4, "A"), (3, "B"), (9, "X"), **competing) == (3.0, 2)
    assert what_happens(tmp_path, (4, "B"), (3, "MEDS_DEATH"), (9, "X"), **competing) == (3.0, 3)
    assert what_happens(tmp_path, (4, "A"), (9, "X"), censoring={"horizon_days": 2.5}) == (2.5, 0)


def test_at_the_same_instant_outcome_goes_before_competing_before_censoring(tmp_path):
    competing = {"competing": [{"codes": ["b"]}, {"death": True}], "censoring": {"horizon_days": 3}}
    together = [(3, "MEDS_DEATH"), (3, "B"), (3, "A")]
    assert what_happens(tmp_path, *together, **competing) == (3.0, 1)
    assert what_happens(tmp_path, *together[:2], **competing) == (3.0, 2)
    assert what_happens(tmp_path, *together[:1], **competing) == (3.0, 3)


def test_death_ends_follow_up_though_the_task_does_not_name_it(tmp_path):
    assert what_happens(tmp_path, (3, "MEDS_DEATH"), (4, "A"), (5, "X")) == (3.0, 0)
    assert what_happens(tmp_path, (3, "MEDS_DEATH//ICD10CM/C34"), (4, "A")) == (3.0, 0)
    assert what_happens(tmp_path, (3, "SNOMED/419620001"), (4, "A")) == (3.0, 0)
    assert what_happens(tmp_path, (3, "DIED"), (4, "A"), death_codes=["DIED"]) == (3.0, 0)


def test_who_is_dead_at_the_index_or_has_no_event_after_it_is_left_out(tmp_path):
    assert what_happens(tmp_path, (0, "MEDS_DEATH"), (4, "A")) is None
    assert what_happens(tmp_path, (-4, "X"), (0, "X")) is None
    assert what_happens(tmp_path) is None
    assert what_happens(tmp_path, (-4, "X"), censoring={"at": "2020-02-01"}) is None
    assert what_happens(
        tmp_path, (-4, "X"), censoring={"at": "2020-02-01", "require_event": False}
    ) == (31.0, 0)


def test_the_first_death_counts_and_one_without_a_time_is_counted(tmp_path):
    assert what_happens(
        tmp_path, (5, "MEDS_DEATH"), (3, "MEDS_DEATH"), outcome={"death": True, "codes": ["a"]}
    ) == (3.0, 1)
    rows = [(1, None, "MEDS_DEATH"), (1, day(4), "X"), *CONTROL]
    cohort = build_cohort(
        task(), write_meds(tmp_path, rows), index=index_table((1, day(0)), (99, day(0)))
    )
    assert cohort.table["time_days"].to_list() == [4.0, 1.0]
    assert cohort.flow.counts["deaths without a time, passed over"] == 1


def test_death_by_cause(tmp_path):
    of_b = {"outcome": {"codes": ["a"], "death": {"causes": ["b"]}}, "competing": [{"death": True}]}
    assert what_happens(tmp_path, (3, "MEDS_DEATH"), (3, "MEDS_DEATH//B"), **of_b) == (3.0, 1)
    assert what_happens(tmp_path, (3, "MEDS_DEATH"), (3, "MEDS_DEATH//C"), **of_b) == (3.0, 2)
    assert what_happens(tmp_path, (3, "MEDS_DEATH"), (3, "B"), **of_b) == (3.0, 2)


def test_a_cause_may_be_a_whole_code_of_death(tmp_path):
    names = NAMES | {"cvd": {"codes": ["MEDS_DEATH//CVD*"]}}
    outcome = {"codes": ["a"], "death": {"causes": ["cvd"]}}
    for number, (code, event) in enumerate(
        (("MEDS_DEATH//CVD/1", 1), ("MEDS_DEATH//OTHER", 0), ("MEDS_DEATH", 0))
    ):
        assert what_happens(
            tmp_path / str(number), (4, code), code_sets=names, outcome=outcome
        ) == (4, event)


def test_follow_up_ends_at_a_date_or_with_the_observation_period(tmp_path):
    assert what_happens(tmp_path, (20, "X"), (12, "A"), censoring={"at": "2020-01-10"}) == (9.0, 0)
    period = [
        (-9, "OBSERVATION_PERIOD_START"),
        (8, "OBSERVATION_PERIOD_END"),
        (9, "OBSERVATION_PERIOD_START"),
        (30, "OBSERVATION_PERIOD_END"),
    ]
    control = [
        (99, day(0), "OBSERVATION_PERIOD_START"),
        (99, day(9), "OBSERVATION_PERIOD_END"),
        *CONTROL,
    ]
    index = index_table((1, day(0)), (1, day(8)), (1, day(8.5)), (1, day(9)), (99, day(0)))
    meds = write_meds(
        tmp_path,
        [
            *((1, day(when), code) for when, code in period),
            (1, day(12), "A"),
            (1, day(40), "X"),
            *control,
        ],
    )
    cohort = build_cohort(task(censoring={"at": "observation_end"}), meds, index=index)
    assert cohort.table.select("time_days", "event").rows() == [(8.0, 0), (3.0, 1), (1.0, 1)]
    removed = {step.name: step.removed_samples for step in cohort.flow.steps}
    assert (
        removed["index in an observation period"],
        removed["follow-up ends after the index"],
    ) == (1, 1)


def test_observation_periods_from_a_file(tmp_path):
    periods = pl.DataFrame(
        {"subject_id": [1, 99], "start": [day(-9), day(0)], "end": [day(5), day(9)]}
    )
    periods.write_parquet(tmp_path / "periods.parquet")
    censoring = {"at": "observation_end", "periods": str(tmp_path / "periods.parquet")}
    assert what_happens(tmp_path / "meds", (7, "A"), censoring=censoring) == (5.0, 0)
    periods.drop("end").write_parquet(tmp_path / "periods.parquet")
    with pytest.raises(RecordError, match=r"missing column\(s\) end"):
        what_happens(tmp_path / "meds", (7, "A"), censoring=censoring)


def test_window_ends_are_inclusive(tmp_path):
    for when, inside in ((-10.01, False), (-10, True), (-2, True), (-1.99, False)):
        excluded = what_happens(
            tmp_path, (when, "B"), (5, "X"), exclude=[{"codes": ["b"], "window_days": [-10, -2]}]
        )
        assert (excluded is None) == inside


def test_the_window_reaches_to_the_index_unless_told(tmp_path):
    include = [{"codes": ["b"]}]
    rows = [(2, day(0), "B"), (2, day(4), "A"), (3, day(1), "B"), (3, day(4), "A")]
    cohort = build_cohort(
        task(include=include),
        write_meds(tmp_path, rows),
        index=index_table((2, day(0)), (3, day(0))),
    )
    assert cohort.table["subject_id"].to_list() == [2]


def test_a_static_fact_lies_in_windows_open_to_the_past(tmp_path):
    assert what_happens(tmp_path, (None, "B"), (5, "X"), exclude=[{"codes": ["b"]}]) is None
    assert what_happens(
        tmp_path, (None, "B"), (5, "X"), exclude=[{"codes": ["b"], "window_days": [-900, 0]}]
    ) == (5.0, 0)


def test_no_criterion_looks_back_further_than_told(tmp_path):
    exclude = [{"codes": ["b"]}]
    assert what_happens(tmp_path, (-30, "B"), (5, "X"), exclude=exclude, look_back_days=30) is None
    assert what_happens(tmp_path, (-30.01, "B"), (5, "X"), exclude=exclude, look_back_days=30) == (
        5.0,
        0,
    )


def test_history_counts_from_the_first_event_other_than_birth(tmp_path):
    rows = [
        (1, day(-9000), "MEDS_BIRTH"),
        (1, day(-10), "X"),
        (1, day(4), "A"),
        (2, day(-9000), "MEDS_BIRTH"),
        (2, day(-9.99), "X"),
        (2, day(4), "A"),
    ]
    cohort = build_cohort(
        task(include=[{"history_days": 10}]),
        write_meds(tmp_path, rows),
        index=index_table((1, day(0)), (2, day(0))),
    )
    assert cohort.table["subject_id"].to_list() == [1]


def test_a_year_of_age_has_365_and_a_quarter_days(tmp_path):
    births = {1: -18 * 365.25, 2: -18 * 365.25 + 1e-4, 3: -80 * 365.25, 4: -80 * 365.25 - 1e-4}
    rows = [
        row
        for subject, birth in births.items()
        for row in ((subject, day(birth), "MEDS_BIRTH"), (subject, day(4), "A"))
    ]
    rows.append((5, day(4), "A"))
    cohort = build_cohort(
        task(include=[{"age_years": [18, 80]}]),
        write_meds(tmp_path, rows),
        index=index_table(*((one, day(0)) for one in range(1, 6))),
    )
    assert cohort.table["subject_id"].to_list() == [1, 3]
    assert cohort.flow.counts["samples of unknown age at an age criterion"] == 1


# The index


def test_first_last_or_all_events_are_the_index(tmp_path):
    rows = [(1, day(when), "START") for when in (0, 2, 2, 4)] + [
        (1, day(9), "A"),
        (2, day(1), "START"),
        (2, day(5), "X"),
        (3, None, "START"),
    ]
    meds = write_meds(tmp_path, rows)
    found = {}
    for occurrence in ("first", "last", "all"):
        cohort = build_cohort(task(index={"codes": ["start"], "occurrence": occurrence}), meds)
        found[occurrence] = cohort.table.filter(pl.col("subject_id") == 1)["time_days"].to_list()
        assert cohort.table["sample_id"].is_unique().all()
    assert found == {"first": [9.0], "last": [5.0], "all": [9.0, 7.0, 5.0]}
    assert (
        cohort.flow.counts["events of the task without a time, never an index or an outcome"] == 1
    )


def test_the_index_may_lie_after_an_event_of_a_stay(tmp_path):
    rows = [
        (1, day(0), "START"),
        (1, day(4), "Visit/IP"),
        (1, day(5), "START"),
        (1, day(6), "A"),
        (1, day(9), "Visit/IP/end"),
        (1, day(10), "A"),
    ]
    index = {"codes": ["start"], "within": ["inpatient"], "offset_days": 1.5}
    cohort = build_cohort(task(index=index), write_meds(tmp_path, rows))
    assert cohort.table.select("prediction_time", "time_days").rows() == [(day(6.5), 3.5)]
    assert (
        cohort.flow.steps[0].name == "index: first event of start within inpatient, 1.5 days later"
    )


def test_a_column_that_a_cohort_cannot_have_is_named_and_nothing_is_written(tmp_path):
    cohort = build_cohort(
        task(), write_meds(tmp_path, CONTROL), index=index_table((99, day(0)), split=["test"])
    )
    with pytest.raises(CohortError, match=r"out/cohort\.parquet: split is 'test'"):
        cohort.write(tmp_path / "out" / "cohort.parquet")
    assert not list((tmp_path / "out").iterdir())


def test_samples_of_one_subject_lie_in_one_split(tmp_path):
    rows = [(one, day(when), "START") for one in range(40) for when in range(3)] + [
        (one, day(9), "A") for one in range(40)
    ]
    meds = write_meds(tmp_path, rows)
    given = task(index={"codes": ["start"], "occurrence": "all"})
    cohort = build_cohort(given, meds, split=SplitDraw((0.5, 0.25, 0.25), seed=3))
    assert cohort.table.group_by("subject_id").agg(pl.col("split").n_unique())["split"].max() == 1
    assert cohort.table.unique("subject_id")["split"].value_counts().sort("split").rows() == [
        ("held_out", 10),
        ("train", 20),
        ("tuning", 10),
    ]
    again = build_cohort(given, meds, split=SplitDraw((0.5, 0.25, 0.25), seed=3))
    assert again.table.equals(cohort.table)
    assert not build_cohort(given, meds, split=SplitDraw((0.5, 0.25, 0.25), seed=4)).table.equals(
        cohort.table
    )
    read_cohort(cohort.write(tmp_path / "out" / "cohort.parquet").path, splits_required=True)


def test_further_columns_are_kept_and_scans_stay_where_they_are(tmp_path):
    (tmp_path / "index").mkdir()
    table = index_table(
        (1, day(0)),
        (99, day(0)),
        ct_path=["scans/1.nii.gz", None],
        site=["north", "south"],
        sample_id=["one", "two"],
        death=[7, 8],
    )
    table.write_parquet(tmp_path / "index" / "index.parquet")
    meds = write_meds(tmp_path / "meds", [(1, day(4), "A"), *CONTROL])
    cohort = build_cohort(task(), meds, index=tmp_path / "index" / "index.parquet").write(
        tmp_path / "cohorts" / "a" / "cohort.parquet"
    )
    assert cohort.table.columns == [
        "sample_id",
        "subject_id",
        "prediction_time",
        "time_days",
        "event",
        "site",
        "ct_path",
        "death",
        "split",
    ]
    assert cohort.sample_ids == ("one", "two")
    assert cohort.ct_path(0).resolve() == tmp_path / "index" / "scans" / "1.nii.gz"
    assert cohort.ct_path(1) is None


def test_columns_with_the_names_that_rules_use_are_kept_and_change_nothing(tmp_path):
    names = (
        "index",
        "birth",
        "first",
        "last",
        "death",
        "end",
        "_death",
        "_index",
        "start",
        "row",
        "time",
        "code",
    )
    table = index_table((1, day(0)), **{name: [0] for name in names})
    built = build_cohort(
        task(include=[{"history_days": 2}]),
        write_meds(tmp_path, [(1, day(-2), "B"), (1, day(3), "A")]),
        index=table,
    )
    assert built.table.select("time_days", "event", *names).rows() == [(3.0, 1, *[0] * len(names))]


def test_an_index_table_takes_the_place_of_index_events(tmp_path):
    meds = write_meds(tmp_path, [(1, day(1), "START"), (1, day(4), "A")])
    cohort = build_cohort(task(index={"codes": ["start"]}), meds, index=index_table((1, day(2))))
    assert cohort.table["time_days"].to_list() == [2.0]
    assert cohort.flow.steps[0].name == "rows of the index table"


def test_a_date_is_its_midnight(tmp_path):
    table = pl.DataFrame({"subject_id": [1], "prediction_time": [day(2).date()]})
    cohort = build_cohort(task(), write_meds(tmp_path, [(1, day(4.5), "A")]), index=table)
    assert cohort.table["time_days"].to_list() == [2.5]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"drop": "prediction_time"}, r"missing column\(s\) prediction_time"),
        ({"event": [1, 0]}, "column event is what the task works out"),
        ({"entry_days": [0, 1]}, "entry times \\(left truncation\\) are not supported"),
        (
            {"sample_id": ["a", "a"]},
            r"2 row\(s\) do not have a sample_id of their own, the first is row 1",
        ),
        (
            {"prediction_time": [None, day(0)]},
            r"prediction_time is null in 1 row\(s\), the first is row 1",
        ),
        ({"subject_id": ["1", "2"]}, "column subject_id is String; expected an integer"),
        (
            {"subject_id": [1, 2**63]},
            "column subject_id holds a number that int64, the type of MEDS, cannot hold",
        ),
        (
            {"prediction_time": ["2020", "2021"]},
            "column prediction_time is String; expected a date or a timestamp",
        ),
    ],
)
def test_a_wrong_index_table_is_refused(tmp_path, changed, message):
    table = index_table((1, day(0)), (2, day(0)))
    dropped = changed.pop("drop", None)
    table = (
        table.drop(dropped)
        if dropped
        else table.with_columns(**{name: pl.Series(values) for name, values in changed.items()})
    )
    with pytest.raises(CohortError, match=message):
        build_cohort(task(), write_meds(tmp_path, CONTROL), index=table)


def test_two_samples_at_one_time_need_identifiers(tmp_path):
    with pytest.raises(CohortError, match="two scans, need a column sample_id"):
        build_cohort(
            task(), write_meds(tmp_path, CONTROL), index=index_table((99, day(0)), (99, day(0)))
        )


# Splits


def write_splits(folder, **splits):
    (folder / "metadata").mkdir(parents=True)
    table = pl.DataFrame(
        {"subject_id": [int(name[1:]) for name in splits], "split": list(splits.values())}
    )
    table.write_parquet(folder / "metadata" / "subject_splits.parquet")


def test_splits_come_from_the_dataset(tmp_path):
    write_splits(tmp_path, s1="train", s2="held_out", s9="tuning")
    rows = [(one, day(4), "A") for one in (1, 2, 3)]
    cohort = build_cohort(
        task(), write_meds(tmp_path, rows), index=index_table(*((one, day(0)) for one in (1, 2, 3)))
    )
    assert cohort.table.select("subject_id", "split").rows() == [(1, "train"), (2, "held_out")]
    assert (cohort.flow.steps[-1].name, cohort.flow.steps[-1].removed_samples) == ("in a split", 1)
    assert "no sample in tuning has the outcome" in cohort.flow.warnings[-1]


def test_splits_are_not_drawn_over_those_there_are(tmp_path):
    write_splits(tmp_path, s99="train")
    with pytest.raises(ConfigError, match=r"subject_splits\.parquet has them"):
        build_cohort(
            task(),
            write_meds(tmp_path, CONTROL),
            index=index_table((99, day(0))),
            split=SplitDraw((0.8, 0.1, 0.1)),
        )


def test_who_is_held_out_here_but_not_by_the_dataset_is_said(tmp_path):
    write_splits(tmp_path, s1="train", s2="held_out", s3="tuning", s4="held_out")
    index = index_table((1, day(0)), (1, day(1)), (2, day(0)), (3, day(0)), (4, day(0)))
    index = index.with_columns(
        split=pl.Series(["held_out", "held_out", "held_out", "held_out", "train"])
    )
    cohort = build_cohort(
        task(), write_meds(tmp_path, [(one, day(4), "A") for one in (1, 2, 3, 4)]), index=index
    )
    assert (
        "2 subject(s) are held_out in the index table but train or tuning in "
        "metadata/subject_splits" in cohort.flow.warnings[-1]
    )
    agreeing = index.with_columns(
        split=pl.Series(["train", "train", "held_out", "tuning", "held_out"])
    )
    assert not any(
        "subject_splits" in one
        for one in build_cohort(task(), tmp_path, index=agreeing).flow.warnings
    )


def test_wrong_splits_are_refused(tmp_path):
    (tmp_path / "large" / "metadata").mkdir(parents=True)
    table = pl.DataFrame({"subject_id": pl.Series([2**63], dtype=pl.UInt64), "split": ["train"]})
    table.write_parquet(tmp_path / "large" / "metadata" / "subject_splits.parquet")
    with pytest.raises(RecordError, match="column subject_id holds a number that int64"):
        build_cohort(
            task(), write_meds(tmp_path / "large", CONTROL), index=index_table((99, day(0)))
        )
    write_splits(tmp_path, s99="test")
    with pytest.raises(RecordError, match=r"split is 'test'; MEDS has train, tuning, held_out"):
        build_cohort(task(), write_meds(tmp_path, CONTROL), index=index_table((99, day(0))))
    for shares in ((0.5, 0.5), (0.5, 0.4, 0.2), (1.0, 0.0, 0.0)):
        with pytest.raises(ConfigError, match="expected three shares > 0"):
            SplitDraw(shares)
    with pytest.raises(CohortError, match="1 subjects cannot be split"):
        build_cohort(
            task(),
            write_meds(tmp_path / "b", CONTROL),
            index=index_table((99, day(0))),
            split=SplitDraw((0.8, 0.1, 0.1)),
        )


# The flow, and what is refused


def test_every_sample_that_is_removed_is_counted(tmp_path):
    rows = [
        (1, day(-1), "MEDS_DEATH"),
        (2, day(-1), "B"),
        (2, day(5), "X"),
        (3, day(-3), "X"),
        (4, day(4), "A"),
        (4, day(5), "X"),
    ]
    index = index_table(
        (1, day(0)), (2, day(0)), (3, day(0)), (4, day(0)), (4, day(4)), (5, day(0))
    )
    cohort = build_cohort(task(exclude=[{"codes": ["b"]}]), write_meds(tmp_path, rows), index=index)
    cohort.write(tmp_path / "out" / "cohort.parquet")
    flow = json.loads((tmp_path / "out" / "flow.json").read_text())
    assert [
        (
            one["name"],
            one["removed_samples"],
            one["removed_subjects"],
            one["samples"],
            one["subjects"],
        )
        for one in flow["steps"]
    ] == [
        ("rows of the index table", 0, 0, 6, 5),
        ("with a record in the dataset", 1, 1, 5, 4),
        ("alive at the index", 1, 1, 4, 3),
        ("exclude: b, days any to 0 from the index", 1, 1, 3, 2),
        ("with an event after the index", 1, 1, 2, 1),
    ]
    assert flow["events"] == {"censored": 1, "outcome": 1}
    assert flow["code_sets"] == {"a": {"codes": 1, "events": 1}, "b": {"codes": 1, "events": 1}}
    assert flow["made_from"]["task"]["outcome"]["codes"] == ["a"]


def test_shards_give_what_one_file_gives(tmp_path):
    rows = [(one, day(one % 5), code) for one in range(30) for code in ("B", "A", "X")] + [
        (one, day(9), "A") for one in range(30)
    ]
    index = index_table(*((one, day(2)) for one in range(30)))
    whole = build_cohort(task(), write_meds(tmp_path / "a", rows), index=index)
    parts = [[row for row in rows if row[0] % 3 == part] for part in range(3)]
    in_shards = build_cohort(task(), write_meds(tmp_path / "b", *parts), index=index)
    assert in_shards.table.equals(whole.table)
    assert in_shards.flow.steps == whole.flow.steps
    assert in_shards.flow.counts == whole.flow.counts


def test_a_window_into_the_future_is_said(tmp_path):
    given = task(include=[{"codes": ["a"], "window_days": [0, 30]}])
    cohort = build_cohort(given, write_meds(tmp_path, CONTROL), index=index_table((99, day(0))))
    assert "the window reaches beyond the index" in cohort.flow.warnings[0]


def test_a_subject_in_two_shards_is_refused_without_its_name(tmp_path):
    meds = write_meds(
        tmp_path, [(123456, day(1), "A")], [(7, day(1), "A")], [(123456, day(2), "A")]
    )
    with pytest.raises(
        RecordError, match=r"2\.parquet: 1 subject_id\(s\) lie in two shards \(also in .*0\.parquet"
    ) as caught:
        build_cohort(task(), meds, index=index_table((7, day(0))))
    assert "123456" not in str(caught.value).replace(str(tmp_path), "")


def test_an_event_without_a_code_is_refused(tmp_path):
    with pytest.raises(RecordError, match=r"0\.parquet: 1 event\(s\) have no code"):
        build_cohort(
            task(), write_meds(tmp_path, [(1, day(1), None)]), index=index_table((1, day(0)))
        )


def test_codes_of_another_vocabulary_are_named(tmp_path):
    rows = [
        (1, day(1), "ICD9/1"),
        (1, day(2), "ICD9/2"),
        *((1, day(2), f"{name}//3") for name in ("VISIT", "LAB", "DRUG", "ATC")),
    ]
    found = (
        "no sample of 1 has the outcome; no code of the dataset belongs to a; its codes begin with "
        "ICD9, ATC, DRUG, LAB, VISIT"
    )
    with pytest.raises(CohortError, match=found):
        build_cohort(task(), write_meds(tmp_path, rows), index=index_table((1, day(0))))


def test_a_cohort_without_an_outcome_is_written_and_said(tmp_path):
    meds = write_meds(tmp_path / "meds", [(1, day(-1), "A"), (1, day(3), "OTHER")])
    built = build_cohort(task(), meds, index=index_table((1, day(0))))
    assert built.flow.warnings == ("no sample has the outcome; a study needs one",)
    assert built.write(tmp_path / "cohort.parquet").table.select("time_days", "event").rows() == [
        (3.0, 0)
    ]


def test_a_death_that_nobody_died_is_an_outcome_that_can_be(tmp_path):
    meds = write_meds(tmp_path, [(1, day(3), "OTHER")])
    assert build_cohort(task(outcome={"death": True}), meds, index=index_table((1, day(0)))).table[
        "event"
    ].to_list() == [0]


def test_paths_may_be_text(tmp_path):
    meds = write_meds(tmp_path / "meds", CONTROL)
    index_table((99, day(0))).write_parquet(tmp_path / "index.parquet")
    built = build_cohort(task(), str(meds), str(tmp_path / "index.parquet"))
    assert len(built.write(str(tmp_path / "cohort.parquet"))) == 1
    assert built.folder == tmp_path


def test_a_cohort_of_nobody_names_the_step(tmp_path):
    with pytest.raises(
        CohortError,
        match="no sample remains after the step 'include: at least 900 days of history', which "
        "removed 1",
    ):
        build_cohort(
            task(include=[{"history_days": 900}]),
            write_meds(tmp_path, CONTROL),
            index=index_table((99, day(0))),
        )


def test_a_missing_index_table_says_how_to_give_one(tmp_path):
    with pytest.raises(
        CohortError,
        match="no such index table; give a parquet file with subject_id and prediction_time by "
        "--index",
    ):
        build_cohort(task(), write_meds(tmp_path, CONTROL))


# Real data


def test_the_31_deaths_of_the_mimic_demo_are_seen(tmp_path):
    source = DATA / "mimic_iv_demo_meds" / "events.parquet"
    if not source.is_file():
        pytest.skip(f"no {source}; set CONCORDANT_DATA to the folder of real data")
    events = pl.read_parquet(source)
    admissions = (
        events.filter(pl.col("code").str.starts_with("HOSPITAL_ADMISSION"))
        .group_by("subject_id")
        .agg(pl.col("time").min())
    )
    admissions.select(
        "subject_id", prediction_time=pl.col("time") + timedelta(days=1)
    ).write_parquet(tmp_path / "index.parquet")
    given = {"name": "death", "index": {"table": "index.parquet"}, "outcome": {"death": True}}
    built = build_cohort(
        given, source, index=tmp_path / "index.parquet", columns={"numeric_value": "value"}
    )
    table = built.write(tmp_path / "cohort.parquet").table
    assert (table.height, int((table["event"] == 1).sum())) == (100, 31)
    death = events.filter(pl.col("code") == "MEDS_DEATH").select("subject_id", died="time")
    dead = table.filter(pl.col("event") == 1).join(death, on="subject_id")
    days = (dead["died"] - dead["prediction_time"]).dt.total_microseconds() / 86_400_000_000
    assert dead["time_days"].to_list() == pytest.approx(days.to_list())


def test_an_omop_export_becomes_a_cohort(tmp_path):
    source = DATA / "synthea27nj_omop" / "Synthea27Nj_5.4.zip"
    if not source.is_file():
        pytest.skip(f"no {source}; set CONCORDANT_DATA to the folder of real data")
    meds = convert_omop(source, tmp_path / "meds").folder
    given = {
        "name": "encounter",
        "code_sets": {"visit": {"codes": ["Visit/*"]}, "any": {"codes": ["SNOMED/*"]}},
        "index": {"codes": ["visit"], "occurrence": "first"},
        "outcome": {"codes": ["any"]},
        "competing": [{"death": True}],
        "censoring": {"at": "observation_end", "horizon_days": 3650},
    }
    cohort = build_cohort(given, meds)
    assert cohort.flow.counts["subjects in the dataset"] == 28
    assert cohort.table.height == cohort.flow.steps[-1].samples > 20
    assert cohort.table["time_days"].max() <= 3650
    assert cohort.table["prediction_time"].max() < datetime(2030, 1, 1)
