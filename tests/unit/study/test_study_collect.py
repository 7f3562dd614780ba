"""The fits of a strategy put together: folds, seeds, variants, and the trial that tuning chose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from concordant.core.errors import ConcordantError, StoreError
from concordant.core.files import write_json
from concordant.core.survival import AS_IS, RECALIBRATED, read_predictions, split_predictions
from concordant.engines import LocalEngine
from concordant.metrics import fit_recalibration
from concordant.study.collect import collect, refuse_if_all_failed, tuning_concordance
from concordant.study.data import StudyData, read_data
from concordant.study.fits import read_account, read_fit
from concordant.study.fitting import Crew, fit_all
from concordant.study.plan import Plan
from concordant.study.planning import make_plan
from concordant.study.records import git_revision, strategy_records, versions
from concordant.study.sources import Sources, embed_all
from study_fixture import small_study, write_tables

CT_ONLY = {"fusion": [{"name": "unimodal", "modality": "ct"}]}
FOLDED = {"folds": 3, "repeats": 2, "group": "household"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_tables(tmp_path_factory.mktemp("tables"), n_development=200)


def fitted(folder: Path, name: str, **changes: object) -> tuple[Plan, StudyData]:
    study = small_study(folder, name=name, **changes)
    data = read_data(study)
    stores = embed_all(
        Sources.of(study), data, engine=LocalEngine(), retry_quarantined=False, progress=None
    )
    plan = make_plan(study, data, stores)
    fit_all(plan, data, Crew(LocalEngine()), None)
    return plan, data


@pytest.fixture(scope="module")
def folded(folder) -> tuple[Plan, StudyData]:
    return fitted(folder, "folded", grid={**CT_ONLY, "seed": [0, 7]}, cross_validation=FOLDED)


def test_a_strategy_over_folds_has_its_test_rows_and_the_mean_of_the_fold_models(folded):
    plan, data = folded
    result = collect(plan, 0, data, recalibrate=False)
    assert list(result.predictions) == [AS_IS]
    for seed in (0, 7):
        fits = [fit for fit in plan.fits if fit.seed == seed]
        inside = result.predictions[AS_IS][seed]["development"].table
        assert inside.height == 320
        assert inside.select("sample_id", "repeat").is_unique().all()
        for fit in fits:
            fold = plan.folds[fit.fold]
            own = inside.filter((pl.col("repeat") == fold.repeat) & (pl.col("fold") == fold.fold))
            ids = data.development.table["sample_id"][fold.rows["test"]]
            assert own["sample_id"].to_list() == ids.to_list()
            assert own["risk"].to_numpy() == pytest.approx(read_fit(fit.folder)["test"].risk)
        outside = result.predictions[AS_IS][seed]["west"]
        assert outside.table.height == 40
        assert outside.table["repeat"].null_count() == outside.table["fold"].null_count() == 40
        parts = [read_fit(fit.folder)["external.1"] for fit in fits]
        centres = [read_account(fit.folder)["train_mean_risk"] for fit in fits]
        for row in range(40):  # one at a time, in plain Python
            risks = [one.risk[row] - mean for one, mean in zip(parts, centres, strict=True)]
            assert outside.risk[row] == pytest.approx(sum(risks) / 6)
            curves = np.array([one.survival[row] for one in parts])
            assert outside.table["survival"][row].to_numpy() == pytest.approx(curves.mean(0))
        keys = [(repeat, fold) for repeat in (0, 1) for fold in (0, 1, 2)]
        assert list(result.tuning[seed]) == keys
    known = [read_account(fit.folder)["tuning_concordance"] for fit in plan.fits]
    assert tuning_concordance(result) == pytest.approx(np.mean(known))


def test_one_file_per_cohort_holds_every_seed_and_variant(folded):
    plan, data = folded
    result = collect(plan, 0, data, recalibrate=True)
    folder = plan.strategies[0].folder
    assert sorted(path.name for path in (folder.path / "predictions").iterdir()) == [
        "development.parquet",
        "west.parquet",
    ]
    parts = split_predictions(read_predictions(folder.predictions("development")))
    assert list(parts) == [(variant, seed) for variant in (AS_IS, RECALIBRATED) for seed in (0, 7)]
    for (variant, seed), part in parts.items():
        assert part.table.equals(result.predictions[variant][seed]["development"].table)
    assert yaml.safe_load(folder.config.read_text()) == plan.strategies[0].strategy.resolved()


def test_survival_is_recalibrated_fit_by_fit_on_its_own_tuning_part(folded):
    plan, data = folded
    result = collect(plan, 0, data, recalibrate=True)
    fits = [fit for fit in plan.fits if fit.seed == 0]
    inside = result.predictions[RECALIBRATED][0]["development"]
    before = result.predictions[AS_IS][0]["development"]
    np.testing.assert_array_equal(inside.risk, before.risk)
    outside = []
    for fit in fits:
        fold, parts = plan.folds[fit.fold], read_fit(fit.folder)
        target = data.development.target.take(fold.rows["tuning"])
        try:
            change = fit_recalibration(
                target.time, target.event, parts["tuning"].survival, plan.times
            )
        except ConcordantError:
            change = fit_recalibration(
                target.time,
                target.event,
                parts["tuning"].survival,
                plan.times,
                method="baseline",
            )
        expected = change.apply(parts["test"].survival, plan.times)
        own = inside.filter((pl.col("repeat") == fold.repeat) & (pl.col("fold") == fold.fold))
        np.testing.assert_allclose(own.survival, expected)
        outside.append(change.apply(parts["external.1"].survival, plan.times))
    west = result.predictions[RECALIBRATED][0]["west"]
    np.testing.assert_allclose(west.survival, np.mean(outside, axis=0))


def test_a_trial_of_which_a_seed_failed_is_not_chosen(folder):
    grid = {"fusion": ["concat"], "train.lr": [0.01, 0.02], "seed": [0, 1]}
    plan, data = fitted(folder, "one_fails", grid=grid)
    result = collect(plan, 0, data, recalibrate=False)
    (best,) = (row["trial"] for row in result.trials if row["chosen"])
    lost = next(fit for fit in plan.fits if fit.trial == best)
    write_json(lost.folder.failure, {"fingerprint": lost.fingerprint, "reason": "it diverged"})
    again = collect(plan, 0, data, recalibrate=False)
    assert [row["trial"] for row in again.trials if row["chosen"]] == [1 - best]
    assert [row["note"] for row in again.trials if row["trial"] == best] == ["it diverged"]
    assert again.reason is None
    other = next(fit for fit in plan.fits if fit.trial != best)
    write_json(other.folder.failure, {"fingerprint": other.fingerprint, "reason": "it too"})
    neither = collect(plan, 0, data, recalibrate=False)
    assert neither.reason in ("it diverged", "it too")
    assert neither.predictions == {}
    (record,) = strategy_records(plan, [neither])
    assert (record.status, record.reason, record.n_trials) == ("failed", neither.reason, 2)
    with pytest.raises(ConcordantError, match="every strategy failed, the first because: it"):
        refuse_if_all_failed([neither])
    refuse_if_all_failed([neither, again])


def test_a_fit_that_is_gone_is_named(folder):
    plan, data = fitted(folder, "gone", grid=CT_ONLY)
    plan.fits[0].folder.account.write_text("{")
    with pytest.raises(StoreError, match=r"the fit is not there or damaged; run the study again"):
        collect(plan, 0, data, recalibrate=False)


def test_the_revision_is_that_of_the_study_folder(tmp_path):
    assert git_revision(tmp_path) is None
    assert git_revision(tmp_path / "none") is None
    assert {"python", "concordant", "torch", "numpy", "polars"} <= set(versions())
