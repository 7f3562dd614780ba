"""Against scikit-survival and lifelines, on the survival package's data sets where they are at
hand, on simulated ones always.
"""

from __future__ import annotations

import os
from pathlib import Path

import lifelines
import numpy as np
import pytest
from lifelines.statistics import multivariate_logrank_test
from lifelines.utils import concordance_index as lifelines_concordance
from sksurv import metrics as sksurv_metrics
from sksurv.nonparametric import CensoringDistributionEstimator
from sksurv.util import Surv

from concordant.core.survival import Outcomes
from concordant.metrics import (
    brier_score,
    concordance_index,
    concordance_index_ipcw,
    integrated_brier_score,
    kaplan_meier,
    log_rank,
)
from concordant.metrics.censoring import censoring_curve
from concordant.metrics.inputs import checked_outcomes

DATA = (
    Path(os.environ.get("CONCORDANT_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
    / "golden_R"
    / "data"
)
SETS = [
    "simulated",
    "simulated_ties",
    "lung",
    "veteran",
    "gbsg",
    "rotterdam",
    "pbc",
    "flchain",
    "nwtco",
]


@pytest.fixture(params=SETS)
def outcomes(request):
    if request.param.startswith("simulated"):
        return simulated(ties=request.param.endswith("ties"))
    path = DATA / f"{request.param}_lp.csv"
    if not path.is_file():
        pytest.skip(f"no {path}; set CONCORDANT_DATA to the folder that holds golden_R")
    time, status, risk = np.genfromtxt(path, delimiter=",", skip_header=1).T
    return time, status.astype(int), risk


def simulated(*, ties, n=400, seed=0):
    generator = np.random.default_rng(seed)
    signal = generator.normal(size=n)
    time, censored = (
        generator.exponential(500 * np.exp(-signal)),
        generator.exponential(700, size=n),
    )
    event, time = (time <= censored).astype(int), np.minimum(time, censored)
    risk = signal + generator.normal(size=n)
    return (np.ceil(time / 50) * 50, event, risk.round(1)) if ties else (time, event, risk)


@pytest.mark.parametrize("rounded", [False, True])
def test_harrell(outcomes, rounded):
    time, event, risk = outcomes
    if rounded:
        time, risk = np.ceil(time / 90), risk.round(1)
    mine = concordance_index(time, event, risk).estimate
    assert mine == pytest.approx(lifelines_concordance(time, -risk, event), abs=1e-12)
    assert mine == pytest.approx(
        sksurv_metrics.concordance_index_censored(event == 1, time, risk)[0], abs=1e-12
    )


def test_uno_in_their_convention(outcomes):
    time, event, risk = outcomes
    tau = np.quantile(time, 0.8)
    theirs = sksurv_metrics.concordance_index_ipcw(
        Surv.from_arrays(event == 1, time), Surv.from_arrays(event == 1, time), risk, tau=tau
    )
    assert concordance_index_ipcw(
        time, event, risk, tau=tau, convention="sksurv"
    ).estimate == pytest.approx(theirs[0], abs=1e-12)


def test_uno_with_another_cohorts_curve():
    time, event, risk = simulated(ties=False)
    train_time, train_event, _ = simulated(ties=False, seed=1)
    theirs = sksurv_metrics.concordance_index_ipcw(
        Surv.from_arrays(train_event == 1, train_time),
        Surv.from_arrays(event == 1, time),
        risk,
        tau=800.0,
    )
    mine = concordance_index_ipcw(
        time, event, risk, tau=800.0, censoring=Outcomes(train_time, train_event)
    )
    assert mine.estimate == pytest.approx(theirs[0], abs=1e-12)


def test_censoring_curve(outcomes):
    time, event, _ = outcomes
    curve = censoring_curve(checked_outcomes(time, event))
    theirs = CensoringDistributionEstimator().fit(Surv.from_arrays(event == 1, time))
    at = np.unique(time)[:-1]
    np.testing.assert_allclose(
        curve.steps[curve.up_to(at)], theirs.predict_proba(at), rtol=0, atol=1e-12
    )


def test_brier_and_its_integral_in_their_convention(outcomes):
    time, event, risk = outcomes
    times = np.unique(np.quantile(time, [0.1, 0.25, 0.4, 0.6, 0.8]))
    survival = np.exp(-np.outer(np.exp(risk - risk.mean()), times / np.median(time)))
    outcome = Surv.from_arrays(event == 1, time)
    mine = brier_score(time, event, survival, times, convention="sksurv")
    np.testing.assert_allclose(
        mine.estimate,
        sksurv_metrics.brier_score(outcome, outcome, survival, times)[1],
        rtol=0,
        atol=1e-12,
    )
    whole = integrated_brier_score(time, event, survival, times, convention="sksurv").estimate
    assert whole == pytest.approx(
        sksurv_metrics.integrated_brier_score(outcome, outcome, survival, times), abs=1e-12
    )


def test_kaplan_meier_with_log_log_limits(outcomes):
    time, event, _ = outcomes
    mine = kaplan_meier(time, event)
    theirs = lifelines.KaplanMeierFitter().fit(time, event)
    np.testing.assert_allclose(
        mine.survival, theirs.survival_function_at_times(mine.times).to_numpy(), rtol=0, atol=1e-12
    )
    limits = theirs.confidence_interval_.loc[mine.times].to_numpy()
    band = mine.interval()
    inside = mine.survival > 0
    np.testing.assert_allclose(band.low[inside], limits[inside, 0], rtol=0, atol=1e-9)
    np.testing.assert_allclose(band.high[inside], limits[inside, 1], rtol=0, atol=1e-9)
    assert mine.median == theirs.median_survival_time_ or np.isnan(mine.median)


@pytest.mark.parametrize("groups", [2, 3, 5])
def test_log_rank(outcomes, groups):
    time, event, risk = outcomes
    group = np.searchsorted(np.quantile(risk, np.arange(1, groups) / groups), risk)
    theirs = multivariate_logrank_test(time, group, event)
    mine = log_rank(time, event, group)
    assert mine.statistic == pytest.approx(theirs.test_statistic, rel=1e-9)
    assert mine.p_value == pytest.approx(theirs.p_value, rel=1e-6, abs=1e-200)
