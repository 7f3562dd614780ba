"""Weights pretrained on whom a study tests.

From `concordant pretrain` to the audit of the study, with counts and without a name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from concordant.cli import app
from concordant.config import Study, read_study
from concordant.core import files
from concordant.core.files import read_json
from concordant.simulate import SimulatedCohort
from concordant.study import check_study, embed_study, run_study
from study_fixture import files_of

NAME = "subjects of pretraining"
TINY = (
    "--hidden",
    "16",
    "--layers",
    "1",
    "--heads",
    "2",
    "--max-epochs",
    "1",
    "--min-subjects",
    "2",
    "--device",
    "cpu",
)


def call(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(one) for one in arguments])


def pretrained(simulated: SimulatedCohort, splits: pl.DataFrame, folder: Path) -> Path:
    """Pretrain tiny weights on the development site's records, with these splits."""
    splits.write_parquet(folder / "splits.parquet")
    meds, out = simulated.development.parent / "meds", folder / "weights"
    result = call(
        "pretrain",
        "clmbr",
        "--meds",
        meds,
        "--out",
        out,
        "--splits",
        folder / "splits.parquet",
        *TINY,
    )
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture(scope="module")
def of_train(simulated: SimulatedCohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrained(
        simulated, pl.read_parquet(simulated.development), tmp_path_factory.mktemp("of_train")
    )


@pytest.fixture(scope="module")
def of_everybody(simulated: SimulatedCohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = pl.int_range(pl.len())
    split = pl.when(place % 5 == 0).then(pl.lit("tuning")).otherwise(pl.lit("train"))
    return pretrained(
        simulated,
        pl.read_parquet(simulated.development).with_columns(split=split),
        tmp_path_factory.mktemp("of_everybody"),
    )


def study_of(simulated: SimulatedCohort, name: str, weights: Path, **changes: Any) -> Study:
    encoders = {
        "ct": "volume_features",
        "ehr": {"name": "clmbr", "weights": str(weights), "max_tokens": 2, "device": "cpu"},
    }
    grid = {"fusion": [{"name": "linear", "modality": "ehr"}]}
    given = (
        yaml.safe_load(simulated.study.read_text())
        | {"name": name, "encoders": encoders, "grid": grid, "foreign": []}
        | changes
    )
    path = simulated.folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(given))
    return read_study(path)


def found(audit: Mapping[str, Any]) -> tuple[bool, str]:
    """Return whether the check holds, and what it found, of `audit.json`."""
    (check,) = (check for check in audit["checks"] if check["name"] == NAME)
    return check["passed"], check["detail"]


def with_records(simulated: SimulatedCohort) -> pl.DataFrame:
    """Return the development table of those who have a record."""
    shards = (simulated.development.parent / "meds" / "data").rglob("*.parquet")
    recorded = pl.concat(
        [pl.read_parquet(shard, columns=["subject_id"]) for shard in shards]
    ).unique()
    return pl.read_parquet(simulated.development).join(recorded, on="subject_id", how="semi")


def encoded_and_fitted(study: Study) -> dict[str, tuple[int, int]]:
    """Return inode and modification time of the files of every store, and of what the fit
    learned and predicted.
    """
    stores = [
        store.folder for by_cohort in embed_study(study).values() for store in by_cohort.values()
    ]
    encoded = {
        f"{folder}/{name}": state for folder in stores for name, state in files_of(folder).items()
    }
    fitted = {
        name: state
        for name, state in files_of(study.run_folder.path).items()
        if name.endswith(("fit.json", "model.safetensors"))
    }
    assert len(fitted) == 2
    return encoded | fitted


def n_subjects(table: pl.DataFrame) -> int:
    return table["subject_id"].n_unique()


def test_weights_of_the_studys_own_train_pass(simulated, of_train):
    study = study_of(simulated, "own_train", of_train)
    result = call("check", simulated.folder / "own_train.yaml")
    assert result.exit_code == 0, result.output
    held_out = pl.read_parquet(simulated.development).filter(pl.col("split") == "held_out")
    passed, detail = found(check_study(study).to_json())
    assert passed
    assert (
        f"was pretrained on 0 of {n_subjects(held_out)} tested subjects of cohort (0 train, 0 "
        "tuning)" in detail
    )
    assert "cannot be compared with site_b" in detail
    run = run_study(study)
    assert read_json(run.audit)["passed"]
    assert found(read_json(run.audit)) == (passed, detail)


def refuse(path: Path, value: Any) -> None:
    """Stand in for a folder where nothing may be written."""
    raise PermissionError(13, "Permission denied", str(path))


def test_the_audit_reads_no_shard_of_records_twice_for_its_digest(simulated, of_train, monkeypatch):
    study = study_of(simulated, "read_once", of_train)
    (study.embeddings_root / "digests.json").unlink(missing_ok=True)
    before = check_study(study).to_json()
    monkeypatch.setattr(files, "file_digest", lambda path: pytest.fail("read again"))
    monkeypatch.setattr(files, "write_json", refuse)
    assert check_study(study).to_json() == before


def test_weights_of_everybody_are_told_with_the_number_and_without_a_name(simulated, of_everybody):
    study = study_of(simulated, "everybody", of_everybody)
    tested = pl.read_parquet(simulated.development).filter(pl.col("split") == "held_out")
    seen = n_subjects(with_records(simulated).filter(pl.col("split") == "held_out"))
    assert 0 < seen < n_subjects(tested), (
        "some of the held-out subjects have no record to learn from"
    )
    result = call("check", simulated.folder / "everybody.yaml")
    assert result.exit_code == 2
    assert "FAILED" in result.stdout
    passed, detail = found(check_study(study).to_json())
    assert not passed
    assert f"was pretrained on {seen} of {n_subjects(tested)} tested subjects of cohort" in detail
    assert f"was pretrained on {seen} of {n_subjects(tested)} tested subjects" in " ".join(
        result.stdout.split()
    )
    assert "--splits" in detail
    run = run_study(study)  # as with declared training data: shown, not refused
    assert found(read_json(run.audit)) == (passed, detail)
    assert f"{seen} of {n_subjects(tested)} tested subjects" in run.report.read_text()


def test_under_cross_validation_everybody_with_a_record_is_counted(simulated, of_everybody):
    table = simulated.folder / "development" / "unsplit.parquet"
    pl.read_parquet(simulated.development).drop("split").write_parquet(table)
    cohorts = {"development": {"table": "development/unsplit.parquet", "meds": "development/meds"}}
    study = study_of(
        simulated, "folded", of_everybody, cohorts=cohorts, cross_validation={"folds": 3}
    )
    passed, detail = found(check_study(study).to_json())
    assert not passed
    everybody = with_records(simulated)
    assert (
        f"was pretrained on {n_subjects(everybody)} of {n_subjects(pl.read_parquet(table))} tested "
        "subjects of unsplit" in detail
    )
    assert (
        "under cross-validation every subject is tested, so pretrain on subjects outside of the "
        "study" in detail
    )


def test_without_the_list_nothing_changes_but_that_the_audit_says_so(simulated, of_everybody):
    study = study_of(simulated, "unlisted", of_everybody)
    run = run_study(study)
    before = encoded_and_fitted(study)
    listed = of_everybody / "subjects.parquet"
    aside = listed.rename(listed.with_name("aside.parquet"))
    try:
        result = call("check", simulated.folder / "unlisted.yaml")
        assert result.exit_code == 0, result.output
        run_study(study)
        passed, detail = found(read_json(run.audit))
        assert passed
        assert detail.endswith("could not be checked: no subjects.parquet beside its weights")
        assert "no subjects.parquet beside its weights" in run.report.read_text()
        assert encoded_and_fitted(study) == before
    finally:
        aside.rename(listed)
