"""The record examples: cohorts agree with the source's own tables, records end at the index, and
the studies reach the plain yardstick.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from concordant.cli import app
from concordant.config import Study, read_study
from concordant.core.errors import StoreError
from concordant.core.files import read_json
from concordant.data.cohort import read_cohort
from concordant.data.meds import read_events
from concordant.encoders.code_counts import Count, OneHot
from concordant.study import run_study
from concordant.study.data import read_data

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("CONCORDANT_DATA", ROOT.parent / "shared" / "data"))
NAFLD, ICU, MIMIC = (
    DATA / "nafld",
    DATA / "physionet2012",
    DATA / "mimic_iv_demo_meds" / "events.parquet",
)
CLMBR = DATA / "femr_tutorial_models" / "clmbr"
DAY = 86_400.0
LINEAR = "grid.fusion=[{name: linear, modality: ehr}]"


def needs(path: Path) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        not path.exists(),
        reason=f"no {path}; set CONCORDANT_DATA to the folder that holds {path.name}",
    )


needs_nafld, needs_icu = needs(NAFLD), needs(ICU)


def run(script: str, *arguments: str | Path) -> str:
    command = [
        sys.executable,
        "-W",
        "error",
        ROOT / "examples" / script,
        "--data",
        DATA,
        *arguments,
    ]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def cohort(task: Path, meds: Path, out: Path, *further: str | Path) -> dict[str, int]:
    """Run `concordant cohort`.

    Return how many samples each step removed, and how many have which event.
    """
    result = CliRunner().invoke(
        app, ["cohort", str(task), "--meds", str(meds), "--out", str(out), *map(str, further)]
    )
    assert result.exit_code == 0, result.output
    flow = read_json(out.with_name("flow.json"))
    return {step["name"]: step["removed_samples"] for step in flow["steps"]} | flow["events"]


def nafld_table(number: int) -> pl.DataFrame:
    return pl.read_csv(
        NAFLD / f"nafld{number}.csv.gz", infer_schema_length=None, null_values=["NA", ""]
    )


def printed(text: str) -> dict[str, float]:
    """Return the C of every line of a baseline's print."""
    return {
        name.strip(): float(value)
        for name, value in re.findall(r"^(.+?) +(0\.\d{3})", text, re.MULTILINE)
    }


@pytest.fixture(scope="module")
def nafld(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("nafld")
    text = run("nafld/prepare.py", "--out", out)
    assert "diagnoses: 23901 kept, 6 of nobody in nafld1, 10 without a day" in text
    return out


@pytest.fixture(scope="module")
def nafld_flows(nafld: Path) -> dict[str, dict[str, int]]:
    return {
        name: cohort(nafld / f"{name}.yaml", nafld / "meds", nafld / name / "cohort.parquet")
        for name in ("death", "mace")
    }


@needs_nafld
def test_nafld_cohorts_are_those_of_the_source(
    nafld: Path, nafld_flows: dict[str, dict[str, int]]
) -> None:
    assert nafld_flows["death"]["outcome"] == 947
    assert nafld_flows["death"]["censored"] == 12_232 - 947
    assert nafld_flows["mace"]["exclude: mace, days any to 0 from the index"] == 1_392
    people = {row["id"]: row for row in nafld_table(1).to_dicts()}
    first: dict[int, float] = {}
    for row in nafld_table(3).drop_nulls().to_dicts():
        if row["event"] in ("MI", "stroke", "heart failure", "cardiac arrest"):
            first[row["id"]] = min(first.get(row["id"], np.inf), row["days"])
    expected = {}
    for name, person in people.items():
        day = first.get(name, np.inf)
        if day > 0:
            expected[name] = (
                (day, 1) if day <= person["futime"] else (person["futime"], 2 * person["status"])
            )
    made = read_cohort(nafld / "mace" / "cohort.parquet", splits_required=False).table
    found = {row["subject_id"]: (row["time_days"], row["event"]) for row in made.to_dicts()}
    assert found == expected
    made = read_cohort(nafld / "death" / "cohort.parquet", splits_required=False).table
    found = {row["subject_id"]: (row["time_days"], row["event"]) for row in made.to_dicts()}
    assert found == {name: (person["futime"], person["status"]) for name, person in people.items()}


@needs_nafld
@pytest.mark.usefixtures("nafld_flows")
def test_nafld_records_end_on_day_0_and_hold_age_and_sex(nafld: Path) -> None:
    samples = read_cohort(nafld / "death" / "cohort.parquet", splits_required=False)
    records = read_events(nafld / "meds", samples.table)
    people, tests, diagnoses = (
        nafld_table(1),
        nafld_table(2),
        nafld_table(3)
        .drop_nulls("days")
        .filter(pl.col("id").is_in(nafld_table(1)["id"].implode())),
    )
    later = (
        sum(table.filter(pl.col("days") > 0).height for table in (tests, diagnoses))
        + people["status"].sum()
    )
    assert (
        records.counts.n_after_prediction == later
    )  # but for repeated rows, which are counted as later ones
    assert records.counts.latest_days_before == 0
    table = OneHot(values="last").encode(records.packed(0, 500))
    codes = np.array(table.codes)
    for row, sample in enumerate(samples.table.head(500).iter_rows(named=True)):
        part = slice(table.offsets[row], table.offsets[row + 1])
        held = dict(zip(codes[table.index[part]], table.weight[part], strict=True))
        person = people.row(by_predicate=pl.col("id") == sample["subject_id"], named=True)
        assert held["AGE//years"] == pytest.approx(person["age"], abs=1e-3)
        assert held[f"GENDER//{'male' if person['male'] else 'female'}"] == 1
        assert held.get("MEASUREMENT//bmi//last") == (
            None if person["bmi"] is None else pytest.approx(person["bmi"], rel=1e-6)
        )
        had = diagnoses.filter((pl.col("id") == sample["subject_id"]) & (pl.col("days") <= 0))[
            "event"
        ]
        assert {
            code.removeprefix("DIAGNOSIS//") for code in held if code.startswith("DIAGNOSIS//")
        } == set(had)


@needs_nafld
@pytest.mark.usefixtures("nafld_flows")
@pytest.mark.parametrize("task", ["death", "mace"])
def test_nafld_matched_sets_are_never_divided(nafld: Path, task: str) -> None:
    data = read_data(read_study(nafld / f"study_{task}.yaml"))
    assert data.assignment is not None
    placed = data.development.table.join(data.assignment, on="sample_id", validate="1:1")
    assert placed.height == len(data.development)
    assert placed["fold"].n_unique() == 5
    assert placed["matched_set"].n_unique() > 2_000
    assert (placed.group_by("matched_set").agg(pl.col("fold").n_unique())["fold"] == 1).all()


@needs_nafld
@pytest.mark.slow
@pytest.mark.usefixtures("nafld_flows")
def test_nafld_linear_members_reach_the_yardstick(nafld: Path) -> None:
    for task in ("death", "mace"):
        run_study(read_study(nafld / f"study_{task}.yaml", [LINEAR]))
    for part, known in zip(
        run("nafld/baseline.py", "--prepared", nafld).split("mace:"), (0.85, 0.78), strict=True
    ):
        found = printed(part)
        yardstick = found["ridge Cox, age, sex and record"]
        assert yardstick == pytest.approx(known, abs=0.03)
        assert (
            min(
                value
                for name, value in found.items()
                if name.startswith("linear") and "values" in name
            )
            >= yardstick - 0.01
        )


@pytest.fixture(scope="module")
def icu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("icu")
    text = run("physionet2012/prepare.py", "--out", out)
    assert "set b: 3999 stays, 1 left out with a death before admission" in text
    return out


@pytest.fixture(scope="module")
def icu_flows(icu: Path) -> dict[tuple[str, int], dict[str, int]]:
    return {
        (name, days): cohort(
            icu / f"death_{days}.yaml",
            icu / "meds",
            icu / f"{name}_{days}" / "cohort.parquet",
            "--index",
            icu / f"index_{name}.parquet",
        )
        for name in ("a", "b")
        for days in (30, 180, 365)
    }


@needs_icu
def test_icu_deaths_within_two_days_are_left_out_and_counted(
    icu_flows: dict[tuple[str, int], dict[str, int]],
) -> None:
    assert {flow["alive at the index"] for flow in icu_flows.values()} == {86}
    assert [icu_flows["a", days]["outcome"] for days in (30, 180, 365)] == [529, 806, 957]
    assert [icu_flows["b", days]["outcome"] for days in (30, 180, 365)] == [539, 839, 957]


@needs_icu
@pytest.mark.usefixtures("icu_flows")
@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize("days", [30, 365])
def test_icu_outcomes_are_those_of_the_source(icu: Path, name: str, days: int) -> None:
    given = pl.read_csv(ICU / f"Outcomes-{name}.txt").select("RecordID", "Survival").rows()
    expected = {}
    for stay, survival in given:
        if survival == -1 or survival > 2 + days:
            expected[stay] = (days, 0)
        elif survival > 2:
            expected[stay] = (survival - 2, 1)
    made = read_cohort(icu / f"{name}_{days}" / "cohort.parquet", splits_required=False).table
    assert {
        row["subject_id"]: (row["time_days"], row["event"]) for row in made.to_dicts()
    } == expected


@needs_icu
@pytest.mark.usefixtures("icu_flows")
def test_icu_features_are_those_of_the_source_within_two_days(icu: Path) -> None:
    samples = read_cohort(icu / "b_30" / "cohort.parquet", splits_required=False).table.head(20)
    records = read_events(icu / "meds", samples)
    source = (
        pl.read_parquet(ICU / "set-b_long.parquet")
        .filter(pl.col("value") >= 0)
        .with_columns(pl.col("parameter").cast(pl.String))
    )
    for sample in samples.iter_rows(named=True):
        (embedding,) = Count(values=("last", "mean", "min", "max")).encode(
            [records.events(sample["sample_id"])]
        )
        held = dict(zip(embedding.codes, embedding.weights, strict=True))
        stay = source.filter(pl.col("record_id") == sample["subject_id"])
        assert held["AGE//years"] == pytest.approx(
            stay.filter(pl.col("parameter") == "Age")["value"][0] + 2 / 365.25, abs=1e-3
        )
        assert held[f"ICU//{sample['site']}"] == 1
        for variable in ("HR", "Temp", "pH", "Height"):
            values = stay.filter(pl.col("parameter") == variable)["value"].cast(pl.Float64)
            if values.is_empty():
                assert variable not in held
                continue
            found = [held[f"{variable}//{what}"] for what in ("last", "min", "max")]
            assert found == pytest.approx([values[-1], values.min(), values.max()], rel=1e-5)
            assert held[variable] == pytest.approx(
                np.log2(1 + len(values)), rel=0.01
            )  # one row given twice counts once
            assert held[f"{variable}//mean"] == pytest.approx(values.mean(), rel=0.01)


@needs_icu
@pytest.mark.slow
@pytest.mark.usefixtures("icu_flows")
def test_icu_linear_members_reach_the_yardstick(icu: Path) -> None:
    for days in (30, 180, 365):
        run_study(read_study(icu / f"study_{days}.yaml"))
    parts = run("physionet2012/baseline.py", "--prepared", icu, "--penalty", "100").split(
        " features\n"
    )[1:]
    for part, known in zip(parts, (0.80, 0.79, 0.78), strict=True):
        found = printed(part)
        yardstick = found["ridge Cox, penalty 100"]
        assert yardstick == pytest.approx(known, abs=0.02)
        assert (
            min(found[f"linear(modality=ehr), {name} with values"] for name in ("one_hot", "count"))
            >= yardstick - 0.01
        )


@pytest.fixture(scope="module")
def mimic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mimic_demo")
    text = run("mimic_demo/prepare.py", "--out", out)
    counted = {
        name: int(number) for number, name in re.findall(r"^ +(\d+) (\w+):", text, re.MULTILINE)
    }
    assert counted["events_read"] == 916_166
    assert counted["duplicates"] == 82_516
    assert counted["null_time"] == 100
    assert counted["after_death"] == 626
    return out


@pytest.fixture(scope="module")
def mimic_flow(mimic: Path) -> dict[str, int]:
    return cohort(
        mimic / "death.yaml", MIMIC, mimic / "cohort.parquet", "--column", "numeric_value=value"
    )


def mimic_study(folder: Path, *overrides: str) -> Study:
    return read_study(
        folder / "study.yaml",
        [f"cohorts.development.meds={MIMIC}", "cross_validation.folds=2", *overrides],
    )


@needs(MIMIC)
@needs(CLMBR)
@pytest.mark.usefixtures("mimic_flow")
def test_mimic_is_refused_by_an_encoder_that_does_not_know_its_codes(mimic: Path) -> None:
    with pytest.raises(
        StoreError,
        match=r"has 100 of \d+ events \(0\.1%\), less than the 10% that are required.*force: true",
    ):
        run_study(
            mimic_study(
                mimic, "grid={encoders.ehr: [{name: clmbr, weights: clmbr, label: unforced}]}"
            )
        )


@needs(MIMIC)
@needs(CLMBR)
def test_mimic_passes_from_its_events_to_a_report(
    mimic: Path, mimic_flow: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    assert [mimic_flow[name] for name in ("alive at the index", "outcome", "censored")] == [
        0,
        31,
        69,
    ]
    with caplog.at_level(logging.WARNING):
        folder = run_study(mimic_study(mimic))
    assert "the encoder's vocabulary has 100 of " in caplog.text
    rows = pl.read_parquet(folder.results).filter(pl.col("metric") == "concordance_index")
    found = dict(rows.select("ehr_encoder", "value").rows())
    assert found["one_hot"] > 0.5
    assert found["tutorial clmbr"] == pytest.approx(
        0.5
    )  # it knows the birth alone, which all have at the same age
