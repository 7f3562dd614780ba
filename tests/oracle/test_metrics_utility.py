"""Cumulative incidence, restricted means and decision curves against R (golden_R/make_golden.R)
and lifelines.
"""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from lifelines import AalenJohansenFitter, KaplanMeierFitter
from lifelines.utils import restricted_mean_survival_time
from scipy.integrate import IntegrationWarning

from concordant.metrics.competing_risks import aalen_johansen, event_probability
from concordant.metrics.net_benefit import net_benefit
from concordant.metrics.restricted_mean import restricted_mean

DATA = (
    Path(os.environ.get("CONCORDANT_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
    / "golden_R"
)
needs_data = pytest.mark.skipif(
    not DATA.is_dir(),
    reason=f"no reference data at {DATA}; set CONCORDANT_DATA to the folder that holds golden_R",
)

SETS = ["lung", "veteran", "gbsg", "rotterdam", "pbc", "flchain", "nwtco"]


def columns(name):
    return np.genfromtxt(DATA / "data" / f"{name}.csv", delimiter=",", skip_header=1).T


def simulated(seed, n=400):
    """Times without ties, codes 0, 1, 2."""
    generator = np.random.default_rng(seed)
    return generator.exponential(size=n), generator.choice([0, 1, 2], size=n, p=[0.35, 0.4, 0.25])


def delta_method_variance(time, event, cause, horizon):
    """Variance of the cumulative incidence where each cause's events at each time are drawn, by
    themselves, from those at risk.

    That of d events among Y at risk is d (Y - d) / (Y - 1), as in the log-rank test. The
    infinitesimal jackknife has d (Y - d) / Y, and the events of two causes at one time come from
    one multinomial draw: it is smaller by about 1 / Y.
    """
    rows = []
    free, incidence = 1.0, 0.0
    for s in np.unique(time[(event != 0) & (time <= horizon)]):
        at_risk = (time >= s).sum()
        own, other = (
            ((time == s) & (event == cause)).sum(),
            ((time == s) & (event != 0) & (event != cause)).sum(),
        )
        incidence += free * own / at_risk
        after = free * (1 - (own + other) / at_risk)
        spread = [(free / at_risk) ** 2 * d * (at_risk - d) / (at_risk - 1) for d in (own, other)]
        rows.append((incidence, after, *spread))
        free = after
    passed, after, of_own, of_other = np.array(rows).T
    later = (incidence - passed) / after
    return float(((1 - later) ** 2 * of_own + later**2 * of_other).sum())


@needs_data
@pytest.mark.parametrize("cause", [1, 2])
def test_cumulative_incidence_equals_cmprsk(cause):
    time, event, *_ = columns("mgus2_cr")
    expected = {
        key: np.array(values)
        for key, values in json.loads((DATA / "golden.json").read_text())["mgus2_cuminc"].items()
    }
    curve = aalen_johansen(time, event.astype(int), cause=cause)
    np.testing.assert_allclose(
        curve.at(expected["times"]), expected["est"][cause - 1], rtol=0, atol=1e-12
    )
    theirs = [delta_method_variance(time, event, cause, horizon) for horizon in expected["times"]]
    np.testing.assert_allclose(theirs, expected["var"][cause - 1], rtol=1e-11)
    here = np.searchsorted(curve.times, expected["times"], side="right") - 1
    ratio = curve.standard_error[here] ** 2 / expected["var"][cause - 1]
    assert ((ratio > 0.994) & (ratio < 1)).all()


@pytest.mark.parametrize("cause", [1, 2])
def test_cumulative_incidence_equals_lifelines_without_ties(cause):
    time, event = simulated(cause)
    fitted = AalenJohansenFitter().fit(time, event, event_of_interest=cause)
    curve = aalen_johansen(time, event, cause=cause)
    reference = fitted.cumulative_density_.iloc[1:, 0]
    np.testing.assert_allclose(
        curve.at(reference.index.to_numpy()), reference.to_numpy(), rtol=0, atol=1e-12
    )
    # of Greenwood's kind, from multinomial events at each time; NaN where everyone left has the
    # event
    variance = fitted.variance_.reindex(reference.index).to_numpy()
    known = np.isfinite(variance)
    assert known[:-1].all()
    np.testing.assert_allclose(
        curve.standard_error[: len(variance)][known] ** 2, variance[known], rtol=1e-9, atol=1e-15
    )


@needs_data
@pytest.mark.parametrize("name", SETS)
def test_restricted_mean_equals_lifelines(name):
    time, status, _ = columns(f"{name}_lp")
    fitted = KaplanMeierFitter().fit(time, status)
    for tau in np.quantile(time, [0.3, 0.8]):
        assert restricted_mean(time, status.astype(int), tau).estimate == pytest.approx(
            restricted_mean_survival_time(fitted, tau), rel=1e-12
        )


def test_restricted_mean_has_the_variance_of_lifelines_where_nobody_is_censored():
    time, _ = simulated(3)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", IntegrationWarning
        )  # lifelines integrates the steps numerically
        mean, variance = restricted_mean_survival_time(
            KaplanMeierFitter().fit(time), 1.2, return_variance=True
        )
    result = restricted_mean(time, np.ones(400, int), 1.2)
    assert result.estimate == pytest.approx(mean, rel=1e-12)
    # lifelines gives the variance of one subject's min(T, tau), not of the mean; under censoring it
    # is that of the curve
    assert result.standard_error**2 == pytest.approx(variance / 400, rel=2e-3)


@needs_data
@pytest.mark.parametrize("name", SETS)
def test_event_probability_equals_r(name):
    time, status, _ = columns(f"{name}_lp")
    expected = json.loads((DATA / "golden.json").read_text())[name]["km"]
    results = [
        event_probability(time, status.astype(int), horizon) for horizon in expected["times"]
    ]
    np.testing.assert_allclose(
        [1 - one.estimate for one in results], expected["surv"], rtol=0, atol=1e-12
    )
    np.testing.assert_allclose(
        [one.standard_error for one in results], expected["se"], rtol=0, atol=1e-12
    )  # Greenwood


@needs_data
@pytest.mark.parametrize("name", SETS)
def test_net_benefit_equals_its_formula_over_lifelines(name):
    time, status, *survival = columns(f"{name}_surv")
    horizon = json.loads((DATA / "golden.json").read_text())[name]["km"]["times"][1]
    predicted = 1 - survival[1]
    thresholds = np.quantile(predicted, [0.1, 0.5, 0.8])
    curve = net_benefit(time, status.astype(int), predicted, horizon, thresholds)
    for threshold, value in zip(thresholds, curve.estimate, strict=True):
        treated = predicted >= threshold
        alive = float(KaplanMeierFitter().fit(time[treated], status[treated]).predict(horizon))
        expected = ((1 - alive) - alive * threshold / (1 - threshold)) * treated.mean()
        assert value == pytest.approx(expected, abs=1e-12)
