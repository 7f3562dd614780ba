"""The command `concordant cohort`."""

from __future__ import annotations

import json

import polars as pl
import pytest
from typer.testing import CliRunner

from concordant.cli import app
from concordant.data.cohort import read_cohort
from meds_tasks_fixture import day, index_table, write_meds

TASK = """
name: demo
code_sets: {a: {codes: [A]}}
index: {table: index.parquet}
outcome: {codes: [a]}
competing: [{death: true}]
censoring: {at: last_event, horizon_days: 400}
"""


@pytest.fixture
def folder(tmp_path):
    subjects = range(30)
    rows = [(one, day(-500), "X") for one in subjects] + [
        (one, day(20 + one), "A" if one % 2 else "MEDS_DEATH") for one in subjects
    ]
    write_meds(tmp_path / "meds", rows)
    index_table(*((one, day(0)) for one in subjects)).write_parquet(tmp_path / "index.parquet")
    (tmp_path / "task.yaml").write_text(TASK)
    return tmp_path


def call(folder, *more, task="task.yaml"):
    given = [
        "cohort",
        folder / task if task.endswith(".yaml") else task,
        "--meds",
        folder / "meds",
        "--out",
        folder / "out" / "cohort.parquet",
        *more,
    ]
    return CliRunner().invoke(app, [str(one) for one in given])


def test_the_table_and_the_flow_are_written_and_shown(folder):
    result = call(folder, "--split", "0.6,0.2,0.2", "--seed", 1)
    assert result.exit_code == 0
    cohort = read_cohort(folder / "out" / "cohort.parquet", splits_required=True)
    assert cohort.table["event"].value_counts().sort("event").rows() == [(1, 15), (2, 15)]
    flow = json.loads((folder / "out" / "flow.json").read_text())
    assert flow["steps"][0] == {
        "name": "rows of the index table",
        "removed_samples": 0,
        "removed_subjects": 0,
        "samples": 30,
        "subjects": 30,
    }
    assert "with an event after the index" in result.stdout
    assert "0 censored, 15 outcome, 15 competing 2" in result.stdout
    assert result.stdout.endswith(f"cohort: {folder / 'out' / 'cohort.parquet'}\n")


def test_labels_are_written_and_counted(folder):
    result = call(folder, "--labels-at", "30,365", "--labels-out", folder / "labels")
    assert result.exit_code == 0
    labels = pl.read_parquet(folder / "labels" / "demo_30d.parquet")
    assert int(labels["boolean_value"].sum()) == 5
    assert pl.read_parquet(folder / "labels" / "demo_365d.parquet").height == 30
    assert (
        json.loads((folder / "out" / "flow.json").read_text())["counts"][
            "no label at 30 days, follow-up ends before"
        ]
        == 0
    )


def test_a_shipped_task_goes_by_its_name(folder):
    result = call(folder, "--index", folder / "index.parquet", task="mace")
    assert result.exit_code == 2
    assert "no sample remains after the step 'include: age 18 to any years'" in result.stderr


def test_a_column_may_be_called_otherwise(folder):
    for path in (folder / "meds").rglob("*.parquet"):
        pl.read_parquet(path).rename({"time": "when"}).write_parquet(path)
    assert call(folder).exit_code == 2
    assert call(folder, "--column", "time=when").exit_code == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--split", "a,b"],
            "--split: given 'a,b', expected numbers with commas between them, such as "
            "0.7,0.15,0.15",
        ),
        (["--split", "0.7,0.3"], "expected three shares > 0"),
        (["--labels-at", "30"], "--labels-at and --labels-out belong together"),
        (["--labels-at", "500", "--labels-out", "labels"], "the task ends follow-up at 400"),
        (["--column", "time"], "--column: given 'time', expected MEDS_NAME=NAME_IN_THE_FILE"),
        (["--index", "nowhere.parquet"], "nowhere.parquet: no such index table"),
    ],
)
def test_what_is_wrong_is_one_line(folder, more, message):
    result = call(folder, *more)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (folder / "out").exists()
