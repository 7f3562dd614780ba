"""The examples: what they write of real data is readable, complete, and knows nothing of what
came after; the docs' own text runs.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from concordant.cli import app
from concordant.config import read_study
from concordant.core.modality import Modality
from concordant.data.cohort import read_cohort
from concordant.data.features import FeatureOptions, read_features
from concordant.data.meds import read_events
from concordant.data.volumes import read_volume
from concordant.fusion import FUSIONS
from concordant.study import run_study

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("CONCORDANT_DATA", ROOT.parent / "shared" / "data"))
KITS, NSCLC = DATA / "kits23", DATA / "nsclc_3centre"

needs_kits = pytest.mark.skipif(
    not KITS.is_dir(),
    reason=f"no KiTS23 data in {KITS}; set CONCORDANT_DATA to the folder that holds kits23/",
)
needs_nsclc = pytest.mark.skipif(
    not NSCLC.is_dir(),
    reason=f"no lung-cancer data in {NSCLC}; set CONCORDANT_DATA to the folder that holds "
    "nsclc_3centre/",
)


def run(script: str, *arguments: str | Path) -> str:
    command = [sys.executable, "-W", "error", ROOT / "examples" / script, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


LINEAR = "{name: linear, modality: ct}, {name: linear, modality: ehr}, linear"


def concordances(study_file: Path, overrides: list[str]) -> dict[tuple[str, str], float]:
    """Run a study; return Harrell's C by strategy and cohort."""
    folder = run_study(read_study(study_file, overrides))
    rows = pl.read_parquet(folder.results).filter(pl.col("metric") == "concordance_index")
    return {(row["fusion"], row["cohort"]): row["value"] for row in rows.to_dicts()}


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def kits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("kits23")
    run("kits23/prepare.py", "--data", DATA, "--out", out)
    return out


@pytest.fixture(scope="module")
def nsclc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("nsclc")
    run("nsclc/prepare.py", "--data", DATA, "--out", out)
    return out


def fenced(page: str, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL
    )


def test_readme_python_runs_as_printed(capsys: pytest.CaptureFixture[str]) -> None:
    draw = np.random.default_rng(0)
    ct, ehr = draw.normal(size=(2, 300, 4)).astype(np.float32)
    time = draw.exponential(np.exp(-ct[:, 0] - ehr[:, 0])) + 0.01
    event = (draw.random(300) < 0.7).astype(int)
    names = {"ct": ct[:200], "ehr": ehr[:200], "time": time[:200], "event": event[:200]}
    names |= {
        "ct_new": ct[200:],
        "ehr_new": ehr[200:],
        "time_new": time[200:],
        "event_new": event[200:],
    }
    (code,) = fenced("README.md", "python")
    exec(code, names)  # noqa: S102 # the text of the README is the thing under test
    estimate, low, high = (
        float(value) for value in re.findall(r"\d\.\d+", capsys.readouterr().out)
    )
    assert 0.65 < estimate < 1
    assert low < estimate < high


@pytest.mark.parametrize(
    "page", ["README.md", "docs/reference/study.md", "docs/how-to/own-data.md"]
)
def test_study_of_the_docs_is_valid(page: str, tmp_path: Path) -> None:
    for folder in ("data", "data2"):
        (tmp_path / folder / "meds").mkdir(parents=True)
        (tmp_path / folder / "cohort.parquet").touch()
    (tmp_path / "study.yaml").write_text(fenced(page, "yaml")[0])
    assert read_study(tmp_path / "study.yaml").strategies()


def test_every_command_is_in_the_readme_and_in_the_reference() -> None:
    commands = {
        command.name or command.callback.__name__
        for command in app.registered_commands
        if command.callback
    }
    for page in ("README.md", "docs/reference/cli.md"):
        assert {
            name
            for name in commands
            if re.search(rf"^\| `(concordant )?{name} ", (ROOT / page).read_text(), re.MULTILINE)
        } == commands


@needs_kits
def test_kits_cohorts_are_complete_and_temporal_parts_are_disjoint(kits: Path) -> None:
    everyone = read_cohort(kits / "all" / "cohort.parquet", splits_required=False)
    parts = [
        read_cohort(kits / "temporal" / name / "cohort.parquet", splits_required=False)
        for name in ("development", "external")
    ]
    assert [len(everyone), *map(len, parts)] == [297, 207, 90]
    assert [int(cohort.target.observed.sum()) for cohort in (everyone, *parts)] == [42, 28, 14]
    assert set(parts[0].sample_ids) | set(parts[1].sample_ids) == set(everyone.sample_ids)
    assert max(parts[0].table["subject_id"]) < 210 <= min(parts[1].table["subject_id"])


@needs_kits
@pytest.mark.parametrize(
    "table",
    [
        "all/cohort.parquet",
        "temporal/development/cohort.parquet",
        "temporal/external/cohort.parquet",
    ],
)
def test_kits_masks_are_read_with_superior_anterior_right_growing(kits: Path, table: str) -> None:
    cohort = read_cohort(kits / table, splits_required=False)
    archive = np.load(KITS / "mask_volumes_4mm.npz", allow_pickle=False)
    for row in (0, len(cohort) - 1):
        volume = read_volume(cohort.ct_path(row))
        stored = archive["volume"][archive["case_id"].tolist().index(cohort.sample_ids[row])]
        np.testing.assert_array_equal(volume.voxels, stored[::-1, ::-1, ::-1])
        assert volume.spacing_mm == (4.0, 4.0, 4.0)


@needs_kits
def test_kits_records_give_age_at_the_operation_and_kidney_function_at_its_own_date(
    kits: Path,
) -> None:
    cohort = read_cohort(kits / "all" / "cohort.parquet", splits_required=False)
    records = read_events(kits / "meds", cohort.table)
    cases = {case["case_id"]: case for case in json.loads((KITS / "kits23.json").read_text())}
    assert records.counts.n_after_prediction == records.counts.n_subjects_without_record == 0
    for sample_id in cohort.sample_ids:
        events = records.events(sample_id)
        birth = events.days_before[events.code.index("MEDS_BIRTH")]
        assert birth / 365.25 == pytest.approx(cases[sample_id]["age_at_nephrectomy"], abs=1e-9)
        measured = cases[sample_id]["last_preop_egfr"]
        if measured["days_before_nephrectomy"] is not None:
            place = events.code.index("EGFR")
            assert events.days_before[place] == measured["days_before_nephrectomy"]
            assert np.isnan(events.numeric_value[place]) == (measured["value"] is None)


@needs_kits
def test_kits_folds_are_the_given_ones_for_the_same_patients(kits: Path) -> None:
    with (KITS / "folds.csv").open() as given, (kits / "folds.csv").open() as written:
        before, after = list(csv.reader(given)), list(csv.reader(written))
    assert after[0] == ["sample_id", "repeat", "fold"]
    assert after[1:] == before[1:]
    assert {row[0] for row in after[1:]} == set(
        pl.read_parquet(kits / "all" / "cohort.parquet")["sample_id"]
    )


@needs_kits
def test_kits_nothing_from_after_the_operation_can_reach_the_record(
    kits: Path, tmp_path: Path
) -> None:
    """Change every field that is not pre-operative: not one byte of the output changes.

    Change one that is: the record does.
    """
    allowed = {
        "case_id",
        "age_at_nephrectomy",
        "gender",
        "bmi",
        "comorbidities",
        "smoking_history",
        "age_when_quit_smoking",
    }
    allowed |= {"pack_years", "chewing_tobacco_use", "alcohol_use", "last_preop_egfr"}
    data = tmp_path / "data" / "kits23"
    shutil.copytree(KITS, data)
    (data / "kits23.json").chmod(0o644)
    cases = json.loads((KITS / "kits23.json").read_text())
    assert len(set(cases[0]) - allowed) > 20

    changed = [
        {key: value if key in allowed else "changed" for key, value in case.items()}
        for case in cases
    ]
    (data / "kits23.json").write_text(json.dumps(changed))
    run("kits23/prepare.py", "--data", data.parent, "--out", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(kits)

    egfr = {"days_before_nephrectomy": 3, "value": ">=90"}
    (data / "kits23.json").write_text(
        json.dumps([{**case, "last_preop_egfr": egfr} for case in cases])
    )
    run("kits23/prepare.py", "--data", data.parent, "--out", tmp_path / "out")
    after = contents(tmp_path / "out")
    assert [name for name, content in contents(kits).items() if after[name] != content] == [
        "meds/data/0.parquet"
    ]
    events = pl.read_parquet(tmp_path / "out" / "meds" / "data" / "0.parquet").filter(
        pl.col("code") == "EGFR"
    )
    assert events["numeric_value"].to_list() == [90.0] * 297  # a text value becomes its bound


@needs_kits
def test_kits_dataset_keeps_the_order_that_meds_asks_for(kits: Path) -> None:
    events = pl.read_parquet(kits / "meds" / "data" / "0.parquet")
    assert events.schema == {
        "subject_id": pl.Int64,
        "time": pl.Datetime("us"),
        "code": pl.String,
        "numeric_value": pl.Float32,
    }
    assert events.equals(events.sort("subject_id", "time", nulls_last=False, maintain_order=True))
    assert set(pl.read_parquet(kits / "meds" / "metadata" / "codes.parquet")["code"]) == set(
        events["code"]
    )


@needs_kits
@pytest.mark.parametrize(
    ("name", "external"), [("study.yaml", []), ("temporal.yaml", ["kits23_2021"])]
)
def test_kits_studies_are_valid_and_hold_every_strategy(
    kits: Path, name: str, external: list[str]
) -> None:
    study = read_study(kits / name)
    assert {strategy.fusion.name for strategy in study.strategies()} == set(FUSIONS)
    assert len(study.strategies()) == 16
    assert study.cross_validation is not None
    assert [cohort.name for cohort in study.cohorts.external] == external


@needs_kits
def test_kits_baseline_prints_four_models_near_what_is_known() -> None:
    """Known from an independent measurement on the same patients and folds.

    .605, .642, .671, .658.
    """
    text = run("kits23/baseline.py", "--data", DATA, "--fixed-only")
    assert "297 patients, 42 deaths" in text
    found = [
        float(value)
        for value in re.findall(
            r"^(?:record|CT mask|concatenated|late) +(0\.\d+)", text, re.MULTILINE
        )
    ]
    assert found == pytest.approx([0.605, 0.642, 0.671, 0.658], abs=0.02)


@needs_nsclc
def test_nsclc_cohorts_are_the_two_centres(nsclc: Path) -> None:
    development, external = (
        read_cohort(nsclc / name / "cohort.parquet", splits_required=False)
        for name in ("development", "external")
    )
    assert [len(development), len(external)] == [281, 57]
    assert [int(cohort.target.observed.sum()) for cohort in (development, external)] == [245, 20]
    assert not set(development.table["subject_id"]) & set(external.table["subject_id"])


@needs_nsclc
def test_nsclc_feature_files_cover_both_cohorts_and_hold_only_what_was_known_at_the_scan(
    nsclc: Path,
) -> None:
    radiomics, clinical = (
        pl.read_parquet(nsclc / name) for name in ("radiomics.parquet", "clinical.parquet")
    )
    ids = {
        name
        for part in ("development", "external")
        for name in pl.read_parquet(nsclc / part / "cohort.parquet")["sample_id"]
    }
    assert set(radiomics["sample_id"]) == set(clinical["sample_id"]) == ids
    assert len(radiomics.columns) == 1 + 53
    assert all(name.startswith("original_") for name in radiomics.columns if name != "sample_id")
    known = {
        "sample_id",
        "age",
        "male",
        "Tstage",
        "Nstage",
        "adenocarcinoma",
        "squamous",
        "large_cell",
        "nos",
    }
    assert set(clinical.columns) == known
    assert clinical["Tstage"].drop_nulls().is_between(1, 4).all()
    assert clinical["Nstage"].drop_nulls().is_between(0, 3).all()


@needs_nsclc
def test_nsclc_outcome_is_the_original_one_not_the_shortened_one(nsclc: Path) -> None:
    source = pl.read_csv(NSCLC / "nsclc_3centre.csv", infer_schema_length=None).select(
        "source_id", "time_days", "event", "owkin_time"
    )
    written = pl.read_parquet(nsclc / "development" / "cohort.parquet")
    joined = written.join(source, left_on="sample_id", right_on="source_id", suffix="_source")
    assert joined.height == 281
    assert (joined["time_days"] == joined["time_days_source"]).all()
    assert (joined["event"] == joined["event_source"]).all()
    assert (joined["time_days"] != joined["owkin_time"]).any()


@needs_nsclc
@pytest.mark.parametrize(("modality", "width"), [(Modality.CT, 53), (Modality.EHR, 8)])
def test_nsclc_study_reads_its_feature_files_one_token_per_patient(
    nsclc: Path, modality: Modality, width: int
) -> None:
    study = read_study(nsclc / "study.yaml")
    (choice,) = study.encoder_choices(modality)
    features = read_features(FeatureOptions(**choice.options))
    assert choice.label == {Modality.CT: "radiomics", Modality.EHR: "clinical"}[modality]
    assert len(study.strategies()) == 16
    assert len(features.sample_ids) == 338
    assert features.embeddings.values.shape == (338, width)
    assert (features.embeddings.lengths == 1).all()


@needs_nsclc
def test_nsclc_study_runs_and_shows_what_the_other_centre_does_to_radiomics(nsclc: Path) -> None:
    """Known from scikit-survival, fitted at MAASTRO and tested at Stanford.

    Clinical .669, radiomics .509, concatenated .544.
    """
    found = concordances(
        nsclc / "study.yaml",
        [f"grid.fusion=[{LINEAR}, cross_attention]", "cross_validation.repeats=1"],
    )
    clinical, radiomics, both = (
        found[name, "stanford"]
        for name in ("linear(modality=ehr)", "linear(modality=ct)", "linear")
    )
    assert clinical == pytest.approx(0.669, abs=0.04)
    assert radiomics < clinical - 0.05
    assert both < clinical
    members = json.loads((nsclc / "runs" / "nsclc" / "run.json").read_text())["strategies"]
    refused = [member for member in members if member["status"] == "not_applicable"]
    assert [member["fusion"] for member in refused] == ["cross_attention"]
    assert "key" in refused[0]["reason"]
    assert (nsclc / "runs" / "nsclc" / "report.html").stat().st_size > 10_000


@needs_kits
@pytest.mark.slow
def test_kits_linear_members_reach_the_yardstick(kits: Path) -> None:
    """Known from scikit-survival on the same patients and folds.

    Record .605, CT .642, concatenated .671.
    """
    found = concordances(kits / "study.yaml", [f"grid.fusion=[{LINEAR}]"])
    values = [
        found[name, "development"]
        for name in ("linear(modality=ehr)", "linear(modality=ct)", "linear")
    ]
    assert values == pytest.approx([0.605, 0.642, 0.671], abs=0.03)
