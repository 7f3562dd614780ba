"""The task file: what is read, what is refused and how the refusal reads, and the tasks that are
shipped.
"""

from __future__ import annotations

from datetime import datetime

import polars as pl
import pytest

from concordant.core.errors import ConfigError
from concordant.data.tasks import build_cohort, parse_task, read_task, shipped_tasks
from meds_tasks_fixture import day, index_table, write_meds

ISSUE_FORM = """
name: mace_after_ct
code_sets:
  mi:     {codes: ["ICD10CM/I21*", "SNOMED/22298006"], descendants: true}
  stroke: {codes: ["ICD10CM/I63*"]}
index: {table: index.parquet}
include: [{age_years: [18, null]}, {history_days: 365}]
exclude: [{codes: [mi, stroke], window_days: [null, 0]}]
outcome: {codes: [mi, stroke], death: false}
competing: [{death: true}]
censoring: {at: last_event, horizon_days: 1825}
look_back_days: null
"""
MINIMAL = {
    "name": "t",
    "code_sets": {"mi": {"codes": ["A"]}},
    "index": {"table": "index.parquet"},
    "outcome": {"codes": ["mi"]},
}


def refusal(**changed):
    with pytest.raises(ConfigError) as caught:
        parse_task({**MINIMAL, **changed})
    return str(caught.value)


def test_the_whole_form_is_read(tmp_path):
    (tmp_path / "task.yaml").write_text(ISSUE_FORM)
    task = read_task(tmp_path / "task.yaml")
    assert task.code_sets["mi"].descendants is True
    assert task.index.table == tmp_path / "index.parquet"
    assert task.include[0].age_years == (18, None)
    assert task.exclude[0].window_days == (None, 0)
    assert task.competing[0].death is True
    assert (task.censoring.at, task.censoring.horizon_days, task.look_back_days) == (
        "last_event",
        1825,
        None,
    )
    assert task.sets_used == ("mi", "stroke")


def test_the_other_words_of_the_form_are_read():
    task = parse_task(
        {
            "name": "t",
            "code_sets": {"hf": {"codes": ["HF"]}, "cvd": {"codes": ["C*"]}},
            "index": {"codes": ["hf"], "occurrence": "all"},
            "outcome": {"codes": ["hf"], "within": ["inpatient"], "death": {"causes": ["cvd"]}},
            "censoring": {"at": "2020-12-31"},
        }
    )
    assert task.censoring.at == datetime(2020, 12, 31)
    assert task.outcome.death.causes == ("cvd",)
    assert set(task.visits_used) == {"inpatient"}
    assert task.asks_causes


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"outcomes": {}}, "outcomes: unknown key. Did you mean 'outcome'?"),
        (
            {"code_sets": {"mi": {"code": ["A"]}}},
            "code_sets.mi.code: unknown key. Did you mean 'codes'? (1 more wrong after this)",
        ),
        (
            {"code_sets": {"mi": {"codes": ["A*1"]}}},
            "code_sets.mi.codes.0: given 'A*1', expected a code, or the beginning of codes with * "
            "at its end",
        ),
        (
            {"code_sets": {"mi": {"codes": []}}},
            "code_sets.mi.codes: given [], expected a list that is not empty",
        ),
        (
            {"outcome": {"death": {"cause": ["mi"]}}},
            "outcome.death.cause: unknown key. Did you mean 'causes'?",
        ),
        (
            {"code_sets": {"mi": {"codes": ["A"], "descendants": "yes"}}},
            "code_sets.mi.descendants: given 'yes', expected",
        ),
        ({"outcome": {"codes": ["mo"]}}, "outcome.codes: no code set is called 'mo'. Known: mi."),
        (
            {"outcome": {"codes": ["mi"], "within": ["inpatients"]}},
            "outcome.within: no kind of visit is called 'inpatients'. Did you mean 'inpatient'?",
        ),
        ({"outcome": {"death": False}}, "outcome: expected codes: [a code set, ...], death: true"),
        ({"outcome": {"within": ["inpatient"], "death": True}}, "outcome: within belongs to codes"),
        (
            {"outcome": {"death": {"causes": ["mo"]}}},
            "outcome.death.causes: no code set is called 'mo'.",
        ),
        (
            {"competing": [{"death": True}, {"codes": ["x"]}]},
            "competing.1.codes: no code set is called 'x'.",
        ),
        ({"index": {}}, "index: expected either table: index.parquet or codes"),
        ({"index": {"table": "a", "codes": ["mi"]}}, "index: expected either"),
        ({"index": {"table": "a", "occurrence": "all"}}, "index: occurrence stand(s) beside table"),
        (
            {"index": {"codes": ["mi"], "occurrence": "second"}},
            "index.occurrence: given 'second', expected 'first', 'last' or 'all'",
        ),
        (
            {"include": [{"age_years": [18, None], "history_days": 3}]},
            "include.0: expected one of age_years, history_days, codes",
        ),
        (
            {"include": [{"age_years": [30, 18]}]},
            "include.0.age_years: given [30.0, 18.0], expected [from, to] with from <= to",
        ),
        (
            {"exclude": [{"history_days": 3, "window_days": [0, 1]}]},
            "exclude.0: window_days and within belong to codes",
        ),
        (
            {"censoring": {"at": "last event"}},
            "censoring.at: given 'last event', expected last_event, observation_end or a date",
        ),
        ({"censoring": {"at": "2020-01-01T00:00:00+00:00"}}, "expected a date without time zone"),
        (
            {"censoring": {"horizon_days": 0}},
            "censoring.horizon_days: given 0, expected greater than 0",
        ),
        (
            {"censoring": {"periods": "p.parquet"}},
            "censoring: periods belongs to at: observation_end",
        ),
        (
            {"censoring": {"require_event": False}},
            "censoring: require_event: false needs at: observation_end or a date",
        ),
        ({"look_back_days": -1}, "look_back_days: given -1, expected greater than 0"),
        (
            {"left_truncation": "entry"},
            "left_truncation: entry times (left truncation) are not supported",
        ),
    ],
)
def test_what_is_wrong_is_named(changed, message):
    assert message in refusal(**changed)


def test_a_name_close_to_the_one_meant_is_suggested_among_many():
    assert "Did you mean 'last_event'?" in refusal(censoring={"at": "last event"})


def test_the_file_is_named_once(tmp_path):
    path = tmp_path / "task.yaml"
    for text, message in (
        ("name: a\nname: b", "given twice"),
        ("name: a", "index: required, but not given"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message) as caught:
            read_task(path)
        assert str(caught.value).count(str(path)) == 1


def test_a_wrong_name_of_a_shipped_task_is_corrected():
    with pytest.raises(
        ConfigError,
        match=r"nace: no such task file, and no shipped task of that name\. Did you mean 'mace'\?",
    ):
        read_task("nace")


def test_both_tasks_are_shipped():
    assert set(shipped_tasks()) == {"mace", "pe_mortality"}
    assert all(read_task(name).name == name for name in shipped_tasks())


MACE_AT_DAY_10 = [
    ("ICD10CM/I21.4", 1),
    ("DIAGNOSIS//ICD//10//I214", 1),
    ("ICD9CM/410.71", 1),
    ("DIAGNOSIS//ICD//9//41071", 1),
    ("SNOMED/22298006", 1),
    ("SNOMED/57054005", 1),
    ("ICD9CM/410.72", 0),  # a later episode of care
    ("ICD10CM/I25.2", 0),  # an old infarction
    ("ICD10CM/I63.9", 1),
    ("DIAGNOSIS//ICD//9//43491", 1),
    ("ICD9CM/434.90", 0),  # without infarction
    ("DIAGNOSIS//ICD//9//431", 1),
    ("ICD10CM/I50.9", 0),  # not in hospital
    ("MEDS_DEATH", 2),
    ("MEDS_DEATH//ICD10CM/I46.9", 1),
    ("MEDS_DEATH//SNOMED/49601007", 1),
    ("MEDS_DEATH//ICD10CM/C34.9", 2),
]


def test_mace_knows_the_codes_of_omop_and_mimic(tmp_path):
    rows = []
    for subject, (code, _) in enumerate(MACE_AT_DAY_10):
        rows += [
            (subject, day(-9000), "MEDS_BIRTH"),
            (subject, day(-400), "X"),
            (subject, day(10), code),
            (subject, day(20), "X"),
        ]
    cohort = build_cohort(
        "mace",
        write_meds(tmp_path, rows),
        index=index_table(*((one, day(0)) for one in range(len(MACE_AT_DAY_10)))),
    )
    assert cohort.table["event"].to_list() == [event for _, event in MACE_AT_DAY_10]
    assert cohort.table["time_days"].to_list() == [
        10.0 if event else 20.0 for _, event in MACE_AT_DAY_10
    ]


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("Visit/IP", "Visit/IP/end"),
        ("Visit/ERIP", "Visit/ERIP/end"),
        ("HOSPITAL_ADMISSION//URGENT", "HOSPITAL_DISCHARGE//HOME"),
        ("VISIT//9201", "VISIT//9201//end"),
    ],
)
def test_heart_failure_counts_in_hospital_alone(tmp_path, start, end):
    rows = [
        (1, day(-9000), "MEDS_BIRTH"),
        (1, day(-400), "X"),
        (1, day(3), "ICD10CM/I50.9"),
        (1, day(5), start),
        (1, day(8), end),
    ]
    rows += [(1, day(8), "DIAGNOSIS//ICD//10//I509"), (1, day(30), "X")]
    cohort = build_cohort("mace", write_meds(tmp_path, rows), index=index_table((1, day(0))))
    assert cohort.table.select("time_days", "event").row(0) == (8.0, 1)


def test_pe_mortality_starts_at_the_first_embolism(tmp_path):
    rows = [
        (1, day(-9000), "MEDS_BIRTH"),
        (1, day(2), "ICD9CM/415.19"),
        (1, day(4), "DIAGNOSIS//ICD//10//I2699"),
        (1, day(9), "MEDS_DEATH"),
    ]
    rows += [
        (2, day(-9000), "MEDS_BIRTH"),
        (2, day(2), "ICD10CM/I27.82"),
        (2, day(9), "MEDS_DEATH"),
    ]
    table = build_cohort("pe_mortality", write_meds(tmp_path, rows)).table
    expected = {"subject_id": [1], "prediction_time": [day(2)], "time_days": [7.0], "event": [1]}
    assert table.select(expected.keys()).to_dict(as_series=False) == expected
    assert table.schema["event"] == pl.Int8
