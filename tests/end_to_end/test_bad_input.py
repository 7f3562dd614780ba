"""Bad input through the command line: one line that says what, where and what to do; exit code 2.

Nothing half-written, nothing fitted.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from concordant.cli import app
from study_fixture import alter, study_text, with_value, write_tables

Given = dict[str, Any]
Fault = Callable[[Path, Given], object]


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    return write_tables(tmp_path)


def written(folder: Path, given: Given) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(given))
    return path


def error_of(command: str, study: Path, *arguments: str) -> str:
    """Run a command that has to fail; return its error line.

    Nothing may be fitted, and nothing half-written.
    """
    result = CliRunner().invoke(app, [command, str(study), *arguments])
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    *before, error = result.stderr.splitlines()
    assert error.startswith("error: ")
    assert not any(line.startswith(("error", "fits")) for line in before)
    assert not (study.parent / "runs").exists()
    stores = list((study.parent / "embeddings").glob("*/*"))
    assert all((store / "manifest.json").is_file() for store in stores)
    assert not [path for path in study.parent.rglob("*") if path.name.endswith(".tmp")]
    return error


def in_development(change: Callable[[pl.DataFrame], pl.DataFrame]) -> Fault:
    return lambda folder, given: alter(folder / "development.parquet", change)


def in_external(change: Callable[[pl.DataFrame], pl.DataFrame]) -> Fault:
    return lambda folder, given: alter(folder / "external.parquet", change)


def in_scans(change: Callable[[pl.DataFrame], pl.DataFrame]) -> Fault:
    return lambda folder, given: alter(folder / "ct.parquet", change)


def in_study(**changes: Any) -> Fault:
    return lambda folder, given: given.update(changes)


def without_events(split: str | None) -> Callable[[pl.DataFrame], pl.DataFrame]:
    here = pl.lit(value=True) if split is None else pl.col("split") == split
    return lambda table: table.with_columns(event=pl.when(here).then(0).otherwise("event"))


def no_event_with_a_scan(folder: Path, given: Given) -> None:
    table = pl.read_parquet(folder / "development.parquet")
    dead = table.filter((pl.col("split") == "tuning") & (pl.col("event") == 1))[
        "sample_id"
    ].to_list()
    alter(folder / "ct.parquet", lambda features: features.filter(~pl.col("sample_id").is_in(dead)))


def records(make: Callable[[Path], object]) -> Fault:
    """Return the fault that records are a MEDS dataset with something wrong."""

    def fault(folder: Path, given: Given) -> None:
        (folder / "meds").mkdir()
        make(folder / "meds")
        given["encoders"]["ehr"] = "one_hot"
        for source in (given["cohorts"]["development"], *given["cohorts"]["external"]):
            source["meds"] = "meds"

    return fault


def folds(text: str) -> Fault:
    def fault(folder: Path, given: Given) -> None:
        (folder / "folds.csv").write_text(text)
        given["cross_validation"] = {"assignment": "folds.csv"}

    return fault


def score(table: Callable[[pl.DataFrame], pl.DataFrame]) -> Fault:
    def fault(folder: Path, given: Given) -> None:
        table(
            pl.read_parquet(folder / "external.parquet").with_columns(risk=-pl.col("time_days"))
        ).write_parquet(folder / "score.parquet")
        given["foreign"] = [{"name": "score", "table": "score.parquet"}]

    return fault


def delete(name: str) -> Fault:
    return lambda folder, given: (folder / name).unlink()


def spoil(name: str) -> Fault:
    return lambda folder, given: (folder / name).write_bytes(b"spoilt")


FAULTS: dict[str, tuple[Fault, list[str]]] = {
    "a table that is not there": (
        delete("external.parquet"),
        ["study.yaml: cohorts.external.0.table: no such file", "external.parquet"],
    ),
    "features that are not there": (
        delete("ct.parquet"),
        ["study.yaml: encoders.ct: path: no such file", "ct.parquet"],
    ),
    "a table that is none": (
        spoil("development.parquet"),
        ["development.parquet: not readable as parquet", "write the table as parquet"],
    ),
    "features that are none": (spoil("ehr.parquet"), ["ehr.parquet: not readable as parquet"]),
    "an unknown key": (
        in_study(trian={"lr": 1}),
        ["study.yaml: trian: unknown key", "Did you mean 'train'?"],
    ),
    "an unknown fusion": (
        in_study(fusion="concatt"),
        ["study.yaml: fusion: unknown fusion 'concatt'", "Did you mean 'concat'?"],
    ),
    "an unknown device": (
        in_study(train={"device": "tpu9"}),
        ["train.device: given 'tpu9', expected auto, cpu, cuda"],
    ),
    "a metric that a report needs": (
        in_study(evaluate={"metrics": ["brier_score"]}),
        ["evaluate.metrics", "concordance_index"],
    ),
    "a subject in two splits": (
        in_development(with_value("subject_id", 0, 1099)),
        [
            "development.parquet: 1 subject_id(s) lie in more than one split",
            "give all samples of a subject the same one",
        ],
    ),
    "a subject in two cohorts": (
        in_external(with_value("subject_id", 0, 1000)),
        [
            "subjects across cohorts: development and west share 1 subjects",
            "Mend the cohort tables",
        ],
    ),
    "a sample in two cohorts": (
        in_external(with_value("sample_id", 0, "a000")),
        ["development.parquet and", "external.parquet share 1 sample_id(s)", "make them different"],
    ),
    "a sample twice": (
        in_development(with_value("sample_id", 1, "a000")),
        ["development.parquet: sample_id is not unique: 2 row(s), the first is row 1"],
    ),
    "no time": (
        in_development(with_value("time_days", 3, 0.0)),
        ["development.parquet: time_days is", "row 4", "expected days > 0"],
    ),
    "a negative time": (
        in_external(with_value("time_days", 3, -1.0)),
        ["external.parquet: time_days is", "row 4", "expected days > 0"],
    ),
    "no event": (
        in_external(without_events(None)),
        ["external.parquet: no sample has event 1", "nothing can be learned or measured"],
    ),
    "no event in tuning": (
        in_development(without_events("tuning")),
        ["no sample of split tuning has event 1", "every split needs one"],
    ),
    "no event with a scan in tuning": (
        no_event_with_a_scan,
        [
            "unimodal-modality=ct__scan__cox: tuning has no observed event",
            "samples with ct",
            "Check the events",
        ],
    ),
    "a single null": (
        in_scans(with_value("c0", 3, None)),
        ["ct.parquet: 1 single value(s) are null", "state `missing: median`"],
    ),
    "an infinity": (
        in_scans(with_value("c0", 3, float("inf"))),
        ["ct.parquet: 1 value(s) are infinite", "mend them"],
    ),
    "text among numbers": (
        in_scans(lambda table: table.with_columns(c0=pl.lit("x"))),
        ["ct.parquet: column(s) c0 are not numeric", "one-hot"],
    ),
    "the outcome among features": (
        in_scans(lambda table: table.with_columns(event=1)),
        ["ct.parquet: column(s) event belong to the cohort"],
    ),
    "features of other samples": (
        in_scans(lambda table: table.with_columns(pl.col("sample_id") + "x")),
        [
            "ct.parquet: no sample of",
            "development.parquet has a feature",
            "check the sample_id column",
        ],
    ),
    "scans without paths": (
        in_study(
            encoders={"ct": "volume_features", "ehr": {"name": "features", "path": "ehr.parquet"}}
        ),
        ["no column ct_path"],
    ),
    "records without a dataset": (
        in_study(
            encoders={"ehr": "one_hot"}, grid={}, fusion={"name": "unimodal", "modality": "ehr"}
        ),
        ["development.meds"],
    ),
    "an empty dataset": (
        records(lambda folder: None),
        ["meds: no parquet file found", "expected a MEDS dataset"],
    ),
    "a damaged dataset": (
        records(lambda folder: (folder / "0.parquet").write_text("x")),
        ["0.parquet: not readable as a MEDS shard"],
    ),
    "a dataset without times": (
        records(
            lambda folder: pl.DataFrame({"subject_id": [1], "code": ["A"]}).write_parquet(
                folder / "0.parquet"
            )
        ),
        ["0.parquet: missing column(s) time", "A MEDS shard has"],
    ),
    "folds without samples": (
        folds("sample_id,repeat,fold\na000,0,0\na001,0,1\n"),
        ["folds.csv: 0 sample(s) are not", "78 lack a fold"],
    ),
    "folds in words": (
        folds("sample_id,repeat,fold\na000,0,one\n"),
        ["folds.csv: not readable", "whole numbers"],
    ),
    "more folds than subjects": (
        in_study(cross_validation={"folds": 99}),
        ["folds is 99, but only 80 values of subject_id", "give fewer folds"],
    ),
    "predictions of others in part": (
        score(lambda table: table[5:]),
        ["score.parquet: covers 35 of the 40 rows of west", "for all of them"],
    ),
    "predictions of others in words": (
        score(lambda table: table.with_columns(risk=pl.lit("high"))),
        [
            "score.parquet: risk holds String values that are no numbers",
            "write the column with the right type",
        ],
    ),
    "attention over nothing": (
        in_study(grid={"fusion": [{"name": "cross_attention", "query": "ct"}]}),
        ["no strategy of the grid can be fitted"],
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_before_anything_is_fitted(tables, fault):
    make, expected = FAULTS[fault]
    given = study_text()
    make(tables, given)
    error = error_of("run", written(tables, given), "--workers", "1")
    assert [part for part in expected if part not in error] == []
    assert "a000" not in error  # a row's number, never a patient


ONLY_FOUND_BY_A_RUN = {
    "an unknown device",
    "no event with a scan in tuning",
    "attention over nothing",
    "a subject in two cohorts",
}


@pytest.mark.parametrize("fault", sorted(FAULTS.keys() - ONLY_FOUND_BY_A_RUN))
def test_the_same_fault_is_found_by_a_check(tables, fault):
    make, expected = FAULTS[fault]
    given = study_text()
    make(tables, given)
    error = error_of("check", written(tables, given))
    assert [part for part in expected if part not in error] == []
    assert not (tables / "embeddings").exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "expected a mapping"),
        (b"name: [", "not valid YAML"),
        (b"- 1\n", "expected a mapping"),
        (b"\xff\xfe\x00", "study.yaml"),
        (b"name: a\nname: b\n", "study.yaml"),
    ],
)
def test_a_study_file_that_is_none_is_one_line(tables, content, expected):
    path = tables / "study.yaml"
    path.write_bytes(content)
    assert expected in error_of("run", path)


def test_a_study_that_is_not_there_or_is_a_folder_is_one_line(tables):
    assert "no such study file" in error_of("run", tables / "none.yaml")
    folder = (
        tables / "folder"
        # below the test's own folder: what lies beside it is searched, and other tests write next
        # door
    )
    folder.mkdir()
    assert str(folder) in error_of("run", folder)


def test_a_fault_found_later_leaves_what_was_done_as_it_was(tables):
    study = written(tables, study_text())
    assert CliRunner().invoke(app, ["run", str(study), "--workers", "1"]).exit_code == 0
    before = {path: path.stat().st_mtime_ns for path in (tables / "runs").rglob("*")}
    alter(tables / "development.parquet", with_value("time_days", 0, -5.0))
    result = CliRunner().invoke(app, ["run", str(study), "--workers", "1"])
    assert result.exit_code == 2
    assert {path: path.stat().st_mtime_ns for path in (tables / "runs").rglob("*")} == before


def test_in_a_process_of_its_own_it_is_the_same(tables):
    alter(tables / "ct.parquet", with_value("c0", 3, None))
    command = [
        sys.executable,
        "-c",
        "from concordant.cli import main; main()",
        "run",
        written(tables, study_text()),
        "--workers",
        "2",
    ]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert finished.stderr.count("\n") == 1
    assert finished.stderr.startswith(f"error: {tables / 'ct.parquet'}: 1 single value(s) are null")
