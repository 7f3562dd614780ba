"""What a study says of its predictions, recomputed from the files it leaves.

The time it judges over, families, utility, recalibration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats

from concordant.config import Study
from concordant.core.artifacts import RunFolder
from concordant.core.files import read_json
from concordant.core.survival import (
    Outcomes,
    Predictions,
    read_predictions,
    split_predictions,
)
from concordant.engines import LocalEngine
from concordant.metrics import (
    Recalibration,
    concordance_index,
    concordance_index_ipcw,
    fit_recalibration,
    integrated_brier_score,
    kaplan_meier,
    net_benefit,
    simultaneous,
)
from concordant.study import run_study
from concordant.study.data import read_data
from concordant.study.fits import PartPredictions, read_account, read_fit
from concordant.study.plan import Fit, Fold
from concordant.study.planning import make_plan
from concordant.study.sources import Sources, embed_all
from study_fixture import FUSIONS, alter, files_of, small_study, write_tables

METRICS = ["concordance_index", "concordance_index_ipcw", "integrated_brier_score"]
FULL = {"metrics": METRICS, "multiplicity": "max_t", "margin": 0.05, "recalibrate": True}
VARIANTS = ("as_is", "recalibrated")
CT, EHR = "unimodal(modality=ct)", "unimodal(modality=ehr)"


def shortened(folder: Path, days: float) -> Path:
    """End the follow-up of the external cohort."""

    def end(table: pl.DataFrame) -> pl.DataFrame:
        beyond = pl.col("time_days") > days
        return table.with_columns(
            event=pl.when(beyond).then(0).otherwise("event"),
            time_days=pl.min_horizontal("time_days", days),
        )

    alter(folder / "external.parquet", end)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shortened(
        write_tables(tmp_path_factory.mktemp("inference"), n_development=240, n_external=90), 700.0
    )


@pytest.fixture(scope="module")
def finished(folder: Path) -> RunFolder:
    return run_study(small_study(folder, evaluate=FULL))


def predictions(run: RunFolder, fusion: str, cohort: str, variant: str = "as_is") -> Predictions:
    (told,) = (one for one in read_json(run.record)["strategies"] if one["fusion"] == fusion)
    whole = read_predictions(run.strategy(told["folder"]).predictions(cohort))
    return whole.of_variant(variant)


def rows(run: RunFolder, **equal: object) -> list[dict[str, object]]:
    table = pl.read_parquet(run.table("results"))
    return table.filter(*(pl.col(name) == value for name, value in equal.items())).to_dicts()


def family(run: RunFolder, cohort: str, metric: str = "concordance_index") -> pl.DataFrame:
    table = pl.read_parquet(run.table("contrasts"))
    return table.filter(
        pl.col("family").is_not_null(), pl.col("cohort") == cohort, pl.col("metric") == metric
    )


def test_all_cohorts_are_judged_up_to_the_last_time_that_each_supports(finished):
    lasts = [predictions(finished, CT, cohort).target.time.max() for cohort in ("held_out", "west")]
    tau = min(lasts)
    assert tau == 700 < max(lasts)
    for cohort in ("held_out", "west"):
        for fusion in (CT, "late"):
            given = predictions(finished, fusion, cohort)
            target, before = given.target, given.survival_times_days < tau
            expected = concordance_index_ipcw(target.time, target.event, given.risk, tau=tau)
            (row,) = rows(finished, cohort=cohort, fusion=fusion, metric="concordance_index_ipcw")
            assert (row["value"], row["standard_error"], row["tau_days"]) == pytest.approx(
                (expected.estimate, expected.standard_error, tau)
            )
            integral = integrated_brier_score(
                target.time,
                target.event,
                given.survival[:, before],
                given.survival_times_days[before],
            )
            (row,) = rows(finished, cohort=cohort, fusion=fusion, metric="integrated_brier_score")
            assert (row["value"], row["tau_days"]) == pytest.approx((integral.estimate, tau))
    notes = {row["note"] for row in rows(finished, metric="integrated_brier_score")}
    assert len(notes) == 1  # the integral runs over the same times in both cohorts


@pytest.mark.parametrize(
    ("tau", "held_out", "west"), [("cohort", None, 700.0), (300, 300.0, 300.0), (5000, None, 700.0)]
)
def test_tau_is_a_choice(folder, tau, held_out, west):
    run = run_study(small_study(folder, name="other", evaluate={"metrics": METRICS, "tau": tau}))
    own = predictions(run, "late", "held_out").target.time.max()
    found = {
        row["cohort"]: row for row in rows(run, fusion="late", metric="concordance_index_ipcw")
    }
    assert (found["held_out"]["tau_days"], found["west"]["tau_days"]) == (held_out or own, west)
    assert ("tau is 5000 days, but only 700 are supported" in str(found["west"]["note"])) == (
        tau == 5000
    )
    contrasts = pl.read_parquet(run.table("contrasts")).filter(
        pl.col("metric") == "concordance_index_ipcw"
    )
    assert dict(contrasts.select("cohort", "tau_days").unique().rows()) == {
        "held_out": held_out or own,
        "west": west,
    }


def concordances(run: RunFolder, cohort: str) -> dict[str, object]:
    found = {}
    for fusion in (CT, EHR, "linear", "late"):
        given = predictions(run, fusion, cohort)
        found[fusion] = concordance_index(given.target.time, given.target.event, given.risk)
    return found


@pytest.mark.parametrize("cohort", ["held_out", "west"])
def test_the_family_is_the_one_that_was_declared(finished, cohort):
    table, alone = family(finished, cohort), concordances(finished, cohort)
    tuning = {
        one["fusion"]: one["tuning_concordance"] for one in read_json(finished.record)["strategies"]
    }
    reference = max((CT, EHR), key=lambda name: tuning[name])
    assert table["fusion"].to_list() == ["linear", "late"]
    assert table["reference"].unique().to_list() == [reference]
    difference = np.array(
        [alone[name].estimate - alone[reference].estimate for name in table["fusion"]]
    )
    spread = np.stack(
        [alone[name].influence - alone[reference].influence for name in table["fusion"]]
    )
    expected = simultaneous(difference, spread @ spread.T, degrees=spread.shape[1] - 1)
    np.testing.assert_allclose(table["difference"], difference, atol=1e-14)
    np.testing.assert_allclose(table["p_adjusted"], expected.p_value, rtol=1e-8)
    np.testing.assert_allclose(table["ci_low_simultaneous"], expected.interval().low, rtol=1e-8)
    below = stats.t.sf((difference + 0.05) / expected.standard_error, spread.shape[1] - 1)
    np.testing.assert_allclose(table["p_non_inferiority"], below, rtol=1e-8)
    gains = pl.read_parquet(finished.table("gains_over_both")).filter(
        pl.col("cohort") == cohort, pl.col("metric") == "concordance_index"
    )
    for row in gains.to_dicts():
        p = []
        for name in (CT, EHR):
            error = np.sqrt(((alone[row["fusion"]].influence - alone[name].influence) ** 2).sum())
            statistic = (alone[row["fusion"]].estimate - alone[name].estimate) / error
            p.append(stats.t.sf(statistic, len(alone[name].influence) - 1))
        assert row["p_value"] == pytest.approx(max(p), rel=1e-8)


def test_decision_curves_are_those_of_the_predictions(finished):
    table = pl.read_parquet(finished.table("decision_curves"))
    assert set(table["horizon_days"]) == {180.0, 365.0}
    for fusion in (CT, EHR):
        given = predictions(finished, fusion, "west")
        column = int(np.searchsorted(given.survival_times_days, 180.0))
        own = table.filter(
            pl.col("fusion") == fusion, pl.col("cohort") == "west", pl.col("horizon_days") == 180
        ).drop_nulls("net_benefit")
        expected = net_benefit(
            given.target.time,
            given.target.event,
            1 - given.survival[:, column],
            180,
            own["threshold"].to_numpy(),
        )
        np.testing.assert_allclose(own["net_benefit"], expected.estimate, atol=1e-12)
        np.testing.assert_allclose(own["standard_error"], expected.standard_error, atol=1e-12)


def variants_on_disk(run: RunFolder) -> list[int]:
    """How many variants each predictions file of the strategies holds."""
    files = sorted(run.path.glob("*/predictions/*.parquet"))
    return [len(split_predictions(read_predictions(path))) for path in files]


@dataclass(frozen=True)
class Made:
    """A fit, its fold, the outcomes of its tuning part, and what it predicts."""

    label: str
    fit: Fit
    fold: Fold
    times: np.ndarray
    tuning: Outcomes

    @property
    def parts(self) -> Mapping[str, PartPredictions]:
        return read_fit(self.fit.folder)

    @property
    def concordance(self) -> float:
        return read_account(self.fit.folder)["tuning_concordance"]

    def recalibration(self) -> Recalibration:
        survival = self.parts["tuning"].survival
        return fit_recalibration(self.tuning.time, self.tuning.event, survival, self.times)


def fits_of(study: Study) -> list[Made]:
    data = read_data(study)
    stores = embed_all(  # the stores are there
        Sources.of(study), data, engine=LocalEngine(), retry_quarantined=False, progress=None
    )
    plan = make_plan(study, data, stores)
    return [
        Made(
            plan.strategies[fit.strategy].strategy.label,
            fit,
            fold := plan.folds[fit.fold],
            plan.times,
            data.development.target.take(fold.rows["tuning"]),
        )
        for fit in plan.fits
    ]


def test_the_tuning_concordance_is_that_of_the_tuning_predictions(finished, folder):
    for made in fits_of(small_study(folder, evaluate=FULL)):
        found = concordance_index(made.tuning.time, made.tuning.event, made.parts["tuning"].risk)
        assert found.estimate == pytest.approx(made.concordance)


def test_recalibrated_survival_is_fitted_on_tuning_and_nothing_else_moves(finished, folder):
    for made in fits_of(small_study(folder, evaluate=FULL)):
        fitted = made.recalibration()
        for cohort in ("held_out", "west"):
            plain, changed = (
                predictions(finished, made.label, cohort, variant) for variant in VARIANTS
            )
            same = ("survival", "variant")
            assert changed.table.drop(same).equals(plain.table.drop(same))
            np.testing.assert_allclose(
                changed.survival,
                fitted.apply(plain.survival, plain.survival_times_days),
                rtol=1e-9,
                atol=1e-12,
            )


def test_calibration_is_told_before_and_after(finished):
    table = pl.read_parquet(finished.table("calibration"))
    for variant in VARIANTS:
        given = predictions(finished, "late", "west", variant)
        column = int(np.searchsorted(given.survival_times_days, 365.0))
        observed = 1 - kaplan_meier(given.target.time, given.target.event).at(np.array([365.0]))[0]
        row = table.row(
            by_predicate=(pl.col("recalibrated") == (variant == "recalibrated"))
            & (pl.col("fusion") == "late")
            & (pl.col("cohort") == "west")
            & (pl.col("metric") == "calibration_in_the_large")
            & (pl.col("horizon_days") == 365),
            named=True,
        )
        assert row["value"] == pytest.approx(observed / (1 - given.survival[:, column]).mean())
    groups = pl.read_parquet(finished.table("calibration_groups"))
    assert set(groups["recalibrated"]) == {False, True}
    assert groups.filter(pl.col("cohort") == "west").group_by(
        "fusion", "recalibrated", "horizon_days"
    ).agg(pl.col("n").sum())["n"].unique().to_list() == [90]


def test_a_choice_of_judging_fits_nothing_anew_and_takes_away_what_it_no_longer_stands_for(folder):
    run = run_study(small_study(folder, name="choices", evaluate={"recalibrate": True}))
    fits = {
        name: state
        for name, state in files_of(run.path).items()
        if name.endswith(("fit.json", "model.safetensors"))
    }
    assert variants_on_disk(run) == [2] * 2 * len(FUSIONS)
    run_study(small_study(folder, name="choices", evaluate={"gain_over_both": False}))
    assert {name: state for name, state in files_of(run.path).items() if name in fits} == fits
    assert variants_on_disk(run) == [1] * 2 * len(FUSIONS)
    assert pl.read_parquet(run.table("gains_over_both")).is_empty()
    assert not pl.read_parquet(run.table("calibration"))["recalibrated"].any()


def test_under_cross_validation_each_fold_has_its_own_recalibration_and_the_folds_their_test(
    folder,
):
    study = small_study(
        folder,
        name="folds",
        cross_validation={"folds": 2, "repeats": 2},
        evaluate=FULL,
        grid={"fusion": FUSIONS[:3]},
    )
    run = run_study(study)
    everything = fits_of(study)
    linear = [made for made in everything if made.label == "linear"]
    fits = {made.fold.key: made.recalibration() for made in linear}
    plain, changed = (predictions(run, "linear", "development", variant) for variant in VARIANTS)
    keys = plain.table.select("repeat", "fold").rows()
    expected = [
        fits[key].apply(curve[None], plain.survival_times_days)[0]
        for key, curve in zip(keys, plain.survival, strict=True)
    ]
    np.testing.assert_allclose(changed.survival, expected, rtol=1e-9, atol=1e-12)
    outside = [
        fits[made.fold.key].apply(made.parts["external.1"].survival, made.times) for made in linear
    ]
    np.testing.assert_allclose(
        predictions(run, "linear", "west", "recalibrated").survival,
        np.mean(outside, axis=0),
        rtol=1e-9,
        atol=1e-12,
    )
    (row,) = family(run, "development").to_dicts()
    reference = predictions(run, CT, "development"), predictions(run, EHR, "development")
    tuning = {(made.label, made.fold.key): made.concordance for made in everything}
    differences = []
    for fold in (made.fold for made in linear):
        here = (pl.col("repeat") == fold.repeat) & (pl.col("fold") == fold.fold)
        ct_is_better = tuning[CT, fold.key] >= tuning[EHR, fold.key]
        better = reference[0] if ct_is_better else reference[1]
        fused, other = plain.filter(here), better.filter(here)
        values = [
            concordance_index(one.target.time, one.target.event, one.risk).estimate
            for one in (fused, other)
        ]
        differences.append(values[0] - values[1])
    sizes = [{part: len(rows) for part, rows in made.fold.rows.items()} for made in linear]
    ratio = sum(one["test"] for one in sizes) / sum(one["train"] for one in sizes)
    error = np.sqrt(np.var(differences, ddof=1) * (1 / 4 + ratio))
    assert row["p_nadeau_bengio"] == pytest.approx(
        2 * stats.t.sf(abs(np.mean(differences)) / error, 3), rel=1e-6
    )
    assert family(run, "west")["p_nadeau_bengio"].null_count() == 1


def test_seeds_are_no_subjects_and_their_spread_is_told_apart(folder):
    run = run_study(
        small_study(folder, name="seeds", grid={"fusion": FUSIONS[:2], "seed": [0, 1, 2]})
    )
    of = pl.read_parquet(run.table("results")).filter(
        (pl.col("fusion") == CT)
        & (pl.col("cohort") == "west")
        & (pl.col("metric") == "concordance_index")
    )
    single, average = (
        of.filter(pl.col("seed").is_not_null()),
        of.filter(pl.col("seed").is_null()).row(0, named=True),
    )
    assert average["between_seeds"] == pytest.approx(single["value"].std())
    assert single["between_seeds"].null_count() == 3
    (told,) = (one for one in read_json(run.record)["strategies"] if one["fusion"] == CT)
    assert told["seeds"] == [0, 1, 2]
    given = list(split_predictions(predictions(run, CT, "west")).values())
    assert len(given) == 3
    mean = concordance_index(
        given[0].target.time, given[0].target.event, np.mean([one.risk for one in given], axis=0)
    )
    assert (average["value"], average["standard_error"]) == pytest.approx(
        (mean.estimate, mean.standard_error)
    )
