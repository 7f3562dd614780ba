"""The command `concordant omop`.

What it prints, what it writes, and how it says that something is wrong.
"""

from __future__ import annotations

import json

import polars as pl
from typer.testing import CliRunner

from concordant.cli import app
from omop_fixture import condition, person, write_export

MI = 312327


def call(*arguments):
    return CliRunner().invoke(app, ["omop", *(str(one) for one in arguments)])


def test_an_export_becomes_a_dataset_and_the_counts_are_printed(tmp_path):
    rows = [condition(1, MI, "2010-01-01"), condition(1, MI, ""), condition(2, 0, "2010-01-01")]
    export = write_export(
        tmp_path / "export", person=[person(1), person(2)], condition_occurrence=rows
    )
    result = call(
        export,
        tmp_path / "meds",
        "--until",
        "2025-01-01",
        "--unmapped",
        "drop",
        "--subjects-per-shard",
        "1",
    )
    assert result.exit_code == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines() if line.strip()]
    assert lines[0] == ["event", "rows", "events", "no", "date", "unmapped"]
    assert ["condition_occurrence", "3", "1", "1", "1"] in lines
    assert ["5", "events", "of", "2", "subjects,", "3", "codes"] in lines
    assert f"meds: {tmp_path / 'meds'}" in result.stdout
    assert "tables that are not there: death, observation_period" in result.stdout
    assert [path.name for path in sorted((tmp_path / "meds" / "data").iterdir())] == [
        "0000.parquet",
        "0001.parquet",
    ]
    quality = json.loads((tmp_path / "meds" / "metadata" / "quality.json").read_text())
    assert quality["options"]["until"] == "2025-01-01"
    assert quality["n_events"] == 5


def test_options_reach_the_conversion(tmp_path):
    rows = [condition(1, MI, "2010-01-01", condition_source_concept_id=45576865)]
    export = write_export(tmp_path / "export", condition_occurrence=rows)
    assert (
        call(
            export, tmp_path / "meds", "--prefer", "source", "--date-only", "start_of_day"
        ).exit_code
        == 0
    )
    last = pl.read_parquet(tmp_path / "meds" / "data" / "0000.parquet").row(-1, named=True)
    assert (last["code"], last["time"].hour) == ("ICD10CM/I21.3", 0)
    assert call(export, tmp_path / "meds", "--overwrite").exit_code == 0
    assert (
        pl.read_parquet(tmp_path / "meds" / "data" / "0000.parquet")["code"][-1]
        == "SNOMED/57054005"
    )


def test_errors_are_one_line(tmp_path):
    export = write_export(
        tmp_path / "export", condition_occurrence=[condition(1, MI, "01/02/2010")]
    )
    for arguments, expected in (
        ((export, tmp_path / "meds"), "condition_occurrence.csv: 1 date(s)"),
        ((tmp_path / "none", tmp_path / "meds"), "no such folder or zip of OMOP tables"),
        (
            (export, tmp_path / "meds", "--prefer", "both"),
            "prefer is 'both'; expected one of standard, source",
        ),
    ):
        result = call(*arguments)
        assert result.exit_code == 2
        assert "Traceback" not in result.stderr
        assert expected in result.stderr
        errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert not (tmp_path / "meds").exists()
