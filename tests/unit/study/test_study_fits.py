"""A fit as a task: what it writes, that it is done once, and what a failure leaves."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from concordant.core.artifacts import FitFolder
from concordant.core.errors import StoreError
from concordant.engines import LocalEngine
from concordant.metrics import concordance_index
from concordant.study import workspace
from concordant.study.data import StudyData, read_data
from concordant.study.drivers import driving
from concordant.study.fits import (
    FitTask,
    failure_of,
    is_done,
    is_intact,
    read_account,
    read_fit,
    run_fit,
)
from concordant.study.fitting import Crew, discard_altered, fit_all
from concordant.study.plan import Fit, Plan
from concordant.study.planning import make_plan
from concordant.study.sources import Sources, embed_all
from concordant.study.workspace import release_memory, write_workspace
from concordant.training import prepare
from concordant.training.checkpoint import load_fitted
from study_fixture import alter, files_of, small_study, write_tables

CT_ONLY = {"name": "unimodal", "modality": "ct"}


@dataclass(frozen=True)
class Ready:
    """A study with all but its fits."""

    plan: Plan
    data: StudyData

    def run(self, number: int = 0) -> Fit:
        assert run_fit(FitTask(write_workspace(self.plan, self.data), number)) is None
        return self.plan.fits[number]


def ready(folder: Path, **changes: object) -> Ready:
    study = small_study(folder, **changes)
    data = read_data(study)
    stores = embed_all(
        Sources.of(study), data, engine=LocalEngine(), retry_quarantined=False, progress=None
    )
    return Ready(make_plan(study, data, stores), data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_tables(tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="module")
def late(folder) -> Ready:
    found = ready(folder, name="done", grid={"fusion": ["late"]})
    found.run()
    return found


@pytest.fixture
def done(late) -> Fit:
    return late.plan.fits[0]


def test_a_fit_writes_its_folder(done):
    assert is_done(done.folder, done.fingerprint)
    assert is_intact(done.folder)
    assert sorted(files_of(done.folder.path)) == [
        "fit.json",
        "history.jsonl",
        "model.json",
        "model.safetensors",
        "predictions.safetensors",
    ]
    assert [path.name for path in done.folder.path.parent.iterdir()] == ["seed0"]


def test_a_fit_predicts_its_tuning_part_the_test_rows_and_every_external_row(late, done):
    predicted = read_fit(done.folder)
    times = late.plan.times
    assert {part: one.survival.shape for part, one in predicted.items()} == {
        "tuning": (20, len(times)),
        "test": (20, len(times)),
        "external.1": (40, len(times)),
    }
    for one in predicted.values():
        assert one.risk.dtype == one.survival.dtype == np.float64
        assert (np.diff(one.survival, axis=1) <= 1e-12).all()
        higher = np.argsort(one.risk)
        assert (np.diff(one.survival[higher], axis=0) <= 1e-9).all()  # a higher risk survives less


def test_a_sample_without_any_modality_gets_the_mean_risk(folder):
    found = ready(folder, name="mean", grid={"fusion": [CT_ONLY]})
    fit = found.run()
    available = np.array(found.plan.strategies[0].cohorts[1].available)
    without = read_fit(fit.folder)["external.1"].risk[np.isin(available, ["ehr", "none"])]
    assert without.size
    assert without == pytest.approx(read_account(fit.folder)["train_mean_risk"])


def test_the_account_tells_the_fit(late, done):
    account = read_account(done.folder)
    rows = late.plan.folds[0].rows
    assert account["n"] == {"train": 60, "tuning": 20}
    event = late.data.development.table["event"].to_numpy()
    assert account["n_events_train"] == int((event == 1)[rows["train"]].sum())
    assert account["device"] == "cpu"
    fitted = load_fitted(done.folder.path)
    assert account["n_parameters"] == fitted.n_parameters
    assert account["train_mean_risk"] == pytest.approx(float(fitted.model.mean_risk))
    assert account["facts"]["strategy"]["fusion"]["name"] == "late"
    assert account["facts"]["seed"] == 0


def test_the_tuning_concordance_is_that_of_the_tuning_rows(late, done):
    target = late.data.development.target.take(late.plan.folds[0].rows["tuning"])
    risk = read_fit(done.folder)["tuning"].risk
    expected = concordance_index(target.time, target.event, risk).estimate
    assert read_account(done.folder)["tuning_concordance"] == pytest.approx(expected)


def test_what_is_done_is_not_done_again(late, done):
    before = files_of(done.folder.path)
    late.run()
    assert files_of(done.folder.path) == before


def test_a_fit_replaces_what_another_left(folder):
    first = ready(folder, name="again", grid={"fusion": ["late"]})
    fit = first.run()
    (fit.folder.path / "stale").touch()
    other = ready(folder, name="again", grid={"fusion": ["late"]}, train={"max_epochs": 2})
    again = other.run()
    assert again.folder == fit.folder
    assert is_done(again.folder, again.fingerprint)
    assert not is_done(fit.folder, fit.fingerprint)
    assert not (fit.folder.path / "stale").exists()


@pytest.mark.parametrize("name", ["fit.json", "model.safetensors", "predictions.safetensors"])
@pytest.mark.parametrize("harm", ["truncated", "altered", "gone"])
def test_a_harmed_fit_is_made_again(folder, name, harm):
    found = ready(folder, name="harmed", grid={"fusion": ["late"]})
    crew = Crew(LocalEngine())
    fit_all(found.plan, found.data, crew, None)
    (fit,) = found.plan.fits
    whole = read_fit(fit.folder)["test"].risk
    path = fit.folder.path / name
    content = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-9] if harm == "truncated" else content[:-9] + b"123456789")
    while discard_altered(found.plan) or not is_done(fit.folder, fit.fingerprint):
        fit_all(found.plan, found.data, crew, None)
    assert is_intact(fit.folder)
    np.testing.assert_allclose(read_fit(fit.folder)["test"].risk, whole, rtol=1e-12)


def test_inputs_are_prepared_once_per_fold_and_encoder(folder, monkeypatch):
    calls = []
    real = prepare.prepare_modality

    def counted(tables, **options):
        calls.append(options)
        return real(tables, **options)

    monkeypatch.setattr(workspace, "prepare_modality", counted)
    grid = {"fusion": [CT_ONLY, "concat", "late", "linear"], "seed": [0, 1], "train.lr": [0.1, 0.2]}
    found = ready(folder, name="once", grid=grid, cross_validation={"folds": 3})
    fit_all(found.plan, found.data, Crew(LocalEngine()), None)
    assert len(found.plan.fits) == 3 * 2 * (3 * 2 + 1)
    assert len(calls) == 3 * 2  # folds x encoders
    assert all(is_done(fit.folder, fit.fingerprint) for fit in found.plan.fits)
    assert not found.plan.run.work.exists()


def test_other_features_of_predicted_rows_change_no_fit(tmp_path):
    folder = write_tables(tmp_path)
    found = ready(folder, grid={"fusion": ["concat", "linear"]})
    fit_all(found.plan, found.data, Crew(LocalEngine()), None)
    before = [(fit.folder.path / "model.safetensors").read_bytes() for fit in found.plan.fits]
    told = pl.read_parquet(folder / "development.parquet")
    tested = told.filter(pl.col("split") == "held_out")["sample_id"].to_list()
    outside = pl.read_parquet(folder / "external.parquet")["sample_id"].to_list()
    for name, column in (("ct", "c0"), ("ehr", "e0")):
        other = pl.col("sample_id").is_in(tested + outside)
        alter(
            folder / f"{name}.parquet",
            lambda table, column=column, other=other: table.with_columns(
                pl.when(other).then(pl.col(column) * 100 - 7).otherwise(pl.col(column))
            ),
        )
    again = ready(folder, grid={"fusion": ["concat", "linear"]})
    assert all(not is_done(fit.folder, fit.fingerprint) for fit in again.plan.fits)
    fit_all(again.plan, again.data, Crew(LocalEngine()), None)
    after = [(fit.folder.path / "model.safetensors").read_bytes() for fit in again.plan.fits]
    assert after == before


def test_a_fit_that_diverges_leaves_its_reason_and_the_others_go_on(folder):
    grid = {"fusion": ["concat", "linear"]}
    found = ready(folder, name="diverges", grid=grid, train={"lr": 1e30, "max_epochs": 6})
    fit_all(found.plan, found.data, Crew(LocalEngine()), None)
    concat, linear = found.plan.fits
    reason = failure_of(concat.folder, concat.fingerprint)
    assert reason is not None
    assert "epoch" in reason
    assert not concat.folder.path.exists()
    assert is_done(linear.folder, linear.fingerprint)
    with pytest.raises(StoreError, match="the fit is not there or damaged; run the study again"):
        read_account(concat.folder)


def test_a_fit_that_another_driver_has_in_hand_is_left_to_it(folder):
    found = ready(folder, name="shared", grid={"fusion": ["linear"]})
    space = write_workspace(found.plan, found.data)
    (fit,) = found.plan.fits
    with driving(found.plan.run.drivers, join=True) as lease:
        task = FitTask(space, 0, lease)
        with lease.of("fit-0"):
            run_fit(task)
            assert not fit.folder.path.exists()
        run_fit(task)
        assert is_done(fit.folder, fit.fingerprint)
    shutil.rmtree(found.plan.run.work)
    release_memory()


def test_what_cannot_be_read_is_no_account(tmp_path):
    folder = FitFolder(tmp_path / "seed0")
    folder.path.mkdir()
    for content in ("", "{", "[]", "{}", '{"fingerprint": "a", "files": {}}'):
        folder.account.write_text(content)
        assert not is_intact(folder)
        assert not is_done(folder, "a")
