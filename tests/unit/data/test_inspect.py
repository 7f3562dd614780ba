from __future__ import annotations

import json
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from concordant.cli import app
from concordant.config import parse_study
from concordant.core.errors import CohortError, ConfigError
from concordant.data.cohort import read_cohort
from concordant.data.inspect import InspectOptions, inspect_cohort
from concordant.data.meds import read_events
from concordant.study import check_study
from inspect_fixture import look_alike


@pytest.fixture
def made():
    return look_alike()


@pytest.fixture
def build(tmp_path):
    def build(made, *, meds=True, **options):
        folder = made.write(tmp_path / "inspect")
        records = folder / "meds" if meds else None
        return inspect_cohort(
            folder,
            tmp_path / "out" / "cohort.parquet",
            meds=records,
            options=InspectOptions(**options),
        )

    return build


def removed(cohort, step):
    return {one.name: one.removed_samples for one in cohort.flow.steps}[step]


def refused(build, made, message, **options):
    with pytest.raises(CohortError, match=message) as caught:
        build(made, **options)
    assert "20429" not in str(caught.value)
    assert "9000" not in str(caught.value)


def test_time_and_event_are_the_truth_in_days(build, made):
    table = build(made).table
    truth = [made.truth[sample_id] for sample_id in table["sample_id"]]
    np.testing.assert_allclose(table["time_days"], [days for days, _ in truth], atol=1e-4)
    assert table["event"].to_list() == [int(died) for _, died in truth]
    assert table.height == len(made.truth)


def test_the_cohort_is_one_that_a_study_reads_and_whose_scans_are_there(build, made):
    built = build(made)
    cohort = read_cohort(built.path, splits_required=True)
    assert cohort.table.drop("pe_positive").equals(
        built.table.drop("pe_positive").select(cohort.table.drop("pe_positive").columns)
    )
    assert all(cohort.ct_path(row).is_file() for row in range(len(cohort)))
    assert not any(path.startswith("/") for path in built.table["ct_path"])
    assert set(built.table["site"]) == {"stanford"}
    assert built.table["pe_positive"].to_list() == [
        row["pe_positive"].lower() == "true" for row in made.labels
    ]


def test_prediction_times_are_those_of_the_procedure(build, made):
    expected = [datetime.fromisoformat(row["procedure_DATETIME"]) for row in made.mapping]
    assert build(made).table["prediction_time"].to_list() == expected


def test_the_splits_get_the_names_of_meds(build, made):
    names = {"train": "train", "valid": "tuning", "test": "held_out"}
    assert build(made).table["split"].to_list() == [names[row["split"]] for row in made.splits]
    made.splits[3]["split"] = "dev"
    refused(
        build,
        made,
        r"splits_20250611.tsv: split is not one of train, valid, test: 1 row\(s\), the first is "
        r"row 4",
    )


# ---- the traps, one test each


def test_censored_is_not_negative_and_case_does_not_matter(build, made):
    words = {row["12_month_mortality"] for row in made.labels}
    assert {"TRUE", "True", "true", "FALSE", "CENSORED", "Censored", "censored"} <= words
    table = build(made).table
    early = [
        row["impression_id"]
        for row in made.labels
        if row["12_month_mortality"].lower() == "censored"
    ]
    part = table.filter(pl.col("sample_id").is_in(early))
    assert part["event"].to_list() == [0] * len(early)
    assert part["time_days"].max() <= 365
    made.labels[2]["12_month_mortality"] = "maybe"
    refused(build, made, "12_month_mortality is not TRUE, FALSE or CENSORED: 1 row")


@pytest.mark.parametrize(
    ("unit", "per_minute"), [("seconds", 60), ("hours", 1 / 60), ("days", 1 / 1440)]
)
def test_the_unit_of_the_times_is_found_from_the_windows(unit, per_minute, build, made):
    expected = build(made).table["time_days"]
    for row in made.labels:
        row["tte_mortality"] = str(float(row["tte_mortality"]) * per_minute)
    np.testing.assert_allclose(build(made).table["time_days"], expected, rtol=1e-9)
    np.testing.assert_allclose(build(made, time_unit=unit).table["time_days"], expected, rtol=1e-9)
    refused(
        build, made, r"must agree with 1_month_mortality, .* minutes \d+\.\d%", time_unit="minutes"
    )


def test_times_that_fit_no_unit_or_several_are_refused(build, made):
    for place, row in enumerate(made.labels):
        if place % 2:
            row["tte_mortality"] = str(float(row["tte_mortality"]) * 60)
    refused(
        build,
        made,
        "must agree with .* in one unit, but the share of exams against it is: minutes .*, seconds",
    )
    for row in made.labels:
        row |= {f"{months}_month_mortality": "TRUE" for months in (1, 6, 12)}
        row |= {"tte_mortality": "60", "is_censored_mortality": "FALSE"}
    refused(
        build, made, "in one unit, but the share of exams against it is: minutes 0.0%, seconds 0.0%"
    )


def test_an_inverted_censoring_flag_is_refused(build, made):
    for row in made.labels:
        row["is_censored_mortality"] = (
            "FALSE" if row["is_censored_mortality"].lower() == "true" else "TRUE"
        )
    refused(
        build,
        made,
        r"is_censored_mortality says censored in (\d+) of the \1 exams .* the flag looks inverted",
    )


def test_single_contradictions_are_left_out_and_counted(made, build):
    large = look_alike(n_patients=400)
    place = next(
        n for n, row in enumerate(large.labels) if row["6_month_mortality"].lower() == "false"
    )
    large.labels[place]["tte_mortality"] = "1440"
    cohort = build(large)
    assert removed(cohort, "whose labels agree with the time") == 1
    assert large.labels[place]["impression_id"] not in cohort.table["sample_id"]


def test_exams_without_a_time_are_left_out_and_counted(build, made):
    for row in made.mapping[5:12]:
        row["procedure_DATETIME"] = ""
    cohort = build(made)
    assert removed(cohort, "with a time of the exam") == 7
    assert cohort.table.height == len(made.mapping) - 7
    made.mapping[0]["procedure_DATETIME"] = "03/04/2012"
    refused(
        build,
        made,
        r"procedure_DATETIME cannot be read; expected YYYY-MM-DD HH:MM:SS: 1 row\(s\), the first "
        r"is row 1",
    )


def test_an_exam_stated_twice_counts_once(build, made):
    expected = build(made).table
    made.mapping += [dict(row) for row in made.mapping[:12]]
    made.labels += [dict(row) for row in made.labels[:3]]
    made.splits += [dict(row) for row in made.splits[:12]]
    cohort = build(made)
    assert cohort.table.equals(expected)
    assert removed(cohort, "each exam once") == 12
    assert (
        "labels_20250611.tsv: 3 row(s) state an exam once more and were left out"
        in cohort.flow.warnings
    )
    assert (
        "splits_20250611.tsv: 12 row(s) state an exam once more and were left out"
        in cohort.flow.warnings
    )


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("mapping", "person_id", "900001"),
        ("labels", "tte_mortality", "77"),
        ("splits", "split", "test"),
    ],
)
def test_an_exam_stated_in_two_ways_is_refused(table, column, value, build, made):
    rows = getattr(made, table)
    rows.append(rows[0] | {column: value})
    refused(build, made, r"1 impression_id\(s\) are there more than once with different facts")


def test_of_several_scans_of_an_exam_the_first_is_taken(build, made):
    made.mapping.append(made.mapping[0] | {"image_id": "PEfffff"})
    cohort = build(made)
    assert cohort.table["ct_path"][0].endswith("/PE00000.nii.gz")
    assert removed(cohort, "each exam once") == 1


def test_a_patient_keeps_all_exams_in_one_split(build, made):
    cohort = build(made)
    sizes = cohort.table.group_by("subject_id").len()["len"]
    assert sizes.max() == 13
    first = build(made, exams="first").table
    assert first["subject_id"].is_unique().all()
    earliest = (
        cohort.table.group_by("subject_id").agg(pl.col("prediction_time").min()).sort("subject_id")
    )
    assert first.sort("subject_id").select("subject_id", "prediction_time").equals(earliest)
    made.splits[0]["split"] = "test"
    refused(build, made, r"1 person_id\(s\) have exams in more than one split")


def test_a_small_tuning_split_is_a_warning(build, made):
    assert any(
        "tuning has" in warning and "cross_validation" in warning
        for warning in build(made).flow.warnings
    )
    large = look_alike(n_patients=1500)
    assert not any("tuning has" in warning for warning in build(large).flow.warnings)


def test_the_outcome_comes_from_the_label_file_for_deaths_are_not_in_the_records(build, made):
    assert not any("DEATH" in code for _, _, code, _ in made.records)
    cohort = build(made)
    assert cohort.table["event"].sum() > 10
    assert not any("death" in warning for warning in cohort.flow.warnings)
    made.records.append((900_001, datetime(2030, 1, 1), "MEDS_DEATH", None))
    again = build(made)
    assert again.table.equals(cohort.table)
    assert any(
        warning.startswith("1 patients have a death in the records")
        for warning in again.flow.warnings
    )


def test_events_after_the_prediction_time_are_cut_by_the_reader(build, made, tmp_path):
    cohort = build(made)
    samples = cohort.table.select("sample_id", "subject_id", "prediction_time")
    records = read_events(tmp_path / "inspect" / "meds", samples)
    assert records.counts.n_after_prediction == cohort.table.height
    assert not any("SNOMED/after" in records.events(sample_id).code for sample_id in records)


# ---- the rest


def test_exams_that_a_file_lacks_or_that_have_no_follow_up_are_counted(build, made):
    n = len(made.mapping)
    del made.splits[40]
    del made.labels[41]
    made.labels[42]["tte_mortality"] = ""
    made.labels[43] |= {"tte_mortality": "0", "is_censored_mortality": "TRUE"} | {
        f"{m}_month_mortality": "CENSORED" for m in (1, 6, 12)
    }
    cohort = build(made)
    steps = [(one.name, one.removed_samples) for one in cohort.flow.steps if one.removed_samples]
    assert steps == [
        ("with a split", 1),
        ("in the label file", 1),
        ("with a time and a flag of the outcome", 1),
        ("followed beyond the exam (time > 0)", 1),
    ]
    assert cohort.flow.steps[0].samples == n
    assert cohort.flow.steps[-1].samples == cohort.table.height == n - 4
    for before, after in zip(cohort.flow.steps, cohort.flow.steps[1:], strict=False):
        assert after.samples == before.samples - after.removed_samples
    written = json.loads(cohort.path.with_name("flow.json").read_text())
    assert (
        written["steps"][0].items()
        >= {"name": "rows of the mapping file", "removed_samples": 0, "samples": n}.items()
    )
    assert len(written["steps"]) == len(cohort.flow.steps)
    assert sum(written["events"].values()) == cohort.table.height


def test_only_exams_with_an_embolism_can_be_taken(build, made):
    cohort = build(made, embolism="positive")
    assert cohort.table["pe_positive"].all()
    assert removed(cohort, "with a pulmonary embolism") == sum(
        row["pe_positive"].lower() == "false" for row in made.labels
    )


def test_absent_scans_are_null_and_counted(build, made, tmp_path):
    folder = made.write(tmp_path / "inspect")
    (folder / "CTPA" / "PE00000.nii.gz").unlink()
    cohort = inspect_cohort(folder, tmp_path / "cohort.parquet")
    assert cohort.table["ct_path"].null_count() == 1
    assert any(
        f"the scans of 1 of {cohort.table.height} exams are not in CTPA" in warning
        for warning in cohort.flow.warnings
    )
    assert cohort.table["ct_path"][1] == "inspect/CTPA/PE00001.nii.gz"
    elsewhere = inspect_cohort(folder, tmp_path / "cohort.parquet", ctpa=tmp_path / "nowhere")
    assert elsewhere.table["ct_path"].null_count() == elsewhere.table.height
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        CohortError, match=r"no scan of the .* exams is there; expected <image_id>.nii.gz"
    ):
        inspect_cohort(folder, tmp_path / "cohort.parquet", ctpa=tmp_path / "empty")


def test_records_of_other_patients_are_refused_and_absent_ones_counted(build, made, tmp_path):
    made.records = [row for row in made.records if row[0] != 900_003]
    assert any(
        "1 of 60 patients have no record" in warning for warning in build(made).flow.warnings
    )
    made.records = [(subject - 900_000, *rest) for subject, *rest in made.records]
    refused(build, made, "holds none of the 60 patients")
    folder = made.write(tmp_path / "inspect")
    packed = folder / "meds_omop_inspect.tar.gz"
    packed.touch()
    with pytest.raises(CohortError, match="is packed; unpack it"):
        inspect_cohort(folder, tmp_path / "cohort.parquet", meds=packed)


def test_what_a_file_lacks_is_named(build, made, tmp_path):
    folder = made.write(tmp_path / "inspect")
    (folder / "splits_20250611.tsv").rename(folder / "split.tsv")
    with pytest.raises(
        CohortError, match=r"expected one file splits_DATE.tsv, as AIMI gives it; found none"
    ):
        inspect_cohort(folder, tmp_path / "cohort.parquet")
    for row in made.labels:
        del row["is_censored_mortality"]
    refused(
        build,
        made,
        r"labels_20250611.tsv: missing column\(s\) is_censored_mortality; found impression_id",
    )
    refused(build, look_alike(), r"missing column\(s\) tte_PH, is_censored_PH", outcome="PH")
    other = look_alike()
    other.labels[1]["tte_mortality"] = "soon"
    refused(build, other, r"tte_mortality is not a number: 1 row\(s\), the first is row 2")
    other = look_alike()
    other.mapping[1]["person_id"] = "A7"
    refused(build, other, r"person_id is not an integer: 1 row\(s\), the first is row 2")
    for row in (other := look_alike()).mapping:
        row["procedure_DATETIME"] = ""
    refused(build, other, "no exam is left: rows of the mapping file: ")


def test_unknown_words_are_refused():
    with pytest.raises(
        ConfigError, match="outcome is 'death'; expected one of mortality, readmission, PH"
    ):
        InspectOptions(outcome="death")
    with pytest.raises(ConfigError, match="time_unit is 'weeks'"):
        InspectOptions(time_unit="weeks")


def test_a_study_over_the_cohort_passes_its_checks(tmp_path):
    folder = look_alike(n_patients=40).write(tmp_path / "inspect", scans=True)
    inspect_cohort(folder, tmp_path / "cohort.parquet", meds=folder / "meds")
    study = parse_study(
        {
            "name": "inspect",
            "task": {"event": "death", "horizons_days": [180, 365]},
            "cohorts": {"development": {"table": "cohort.parquet", "meds": "inspect/meds"}},
            "encoders": {"ct": "volume_features", "ehr": "one_hot"},
            "fusion": "late",
        },
        folder=tmp_path,
    )
    audit = check_study(study)
    assert audit.passed, audit
    assert any("after" in check.name or "after" in check.detail for check in audit.checks)


def test_the_command_prints_the_flow(made, tmp_path):
    folder = made.write(tmp_path / "inspect")
    arguments = [
        "inspect",
        str(folder),
        "--meds",
        str(folder / "meds"),
        "--out",
        str(tmp_path / "cohort.parquet"),
        "--exams",
        "first",
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    n = len(made.mapping)
    assert ["rows", "of", "the", "mapping", "file", "0", "0", str(n), "60"] in lines
    assert ["the", "first", "of", "its", "patient", str(n - 60), "0", "60", "60"] in lines
    assert "note: tuning has" in result.stderr
    assert f"cohort: {tmp_path / 'cohort.parquet'}" in result.stdout
    result = CliRunner().invoke(app, [*arguments[:-1], "last"])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: exams is 'last'; expected one of all, first")


def test_shifted_follow_up_keeps_its_fraction_of_a_day(build, made):
    row = next(row for row in made.labels if row["12_month_mortality"].lower() == "false")
    expected = float(row["tte_mortality"]) / 1440
    found = (
        build(made).table.filter(pl.col("sample_id") == row["impression_id"])["time_days"].item()
    )
    assert found == pytest.approx(expected)
    assert found != int(found)
    assert timedelta(days=found) > timedelta(days=365)
