"""Calibration against lifelines and scikit-survival, and against models whose calibration is
known because they were simulated.
"""

from __future__ import annotations

import lifelines
import numpy as np
import pandas as pd
import pytest
from scipy.stats import kstest
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.util import Surv

from concordant.metrics.calibration import d_calibration
from concordant.metrics.calibration_curve import (
    integrated_calibration_index,
    kaplan_meier_calibration,
    one_calibration,
)
from concordant.metrics.cox import fit_cox
from concordant.metrics.inputs import checked_outcomes
from concordant.metrics.recalibration import fit_recalibration
from concordant.metrics.weak_calibration import (
    calibration_in_the_large,
    calibration_slope,
    observed_by,
)

HORIZON = 0.5
TIMES = np.linspace(0.02, 6, 150)


def simulated(seed, n, *, censored=2.5, ties=False):
    """Return time, event and the true log hazard.

    The cumulative hazard is t times its exponential.
    """
    generator = np.random.default_rng(seed)
    signal = generator.normal(size=n)
    time, end = generator.exponential(np.exp(-signal)), generator.exponential(censored, size=n)
    event, time = (time <= end).astype(int), np.minimum(time, end)
    return (np.ceil(time * 10) / 10 if ties else time), event, signal


def chance(log_hazard):
    return 1 - np.exp(-HORIZON * np.exp(log_hazard))


def curves(log_hazard):
    return np.exp(-np.outer(np.exp(log_hazard), TIMES))


# --- other libraries ---


def lifelines_cox(time, event, columns, **options):
    table = pd.DataFrame(columns).assign(time=time, event=event, **options.pop("extra", {}))
    fitter = lifelines.CoxPHFitter(baseline_estimation_method="breslow")
    return fitter.fit(table, "time", "event", fit_options={"precision": 1e-12}, **options)


def test_cox_and_its_robust_error_equal_lifelines_without_ties():
    time, event, signal = simulated(0, 300)
    other = np.random.default_rng(1).normal(size=300)
    fit = fit_cox(checked_outcomes(time, event), np.column_stack([signal, other]))
    theirs = lifelines_cox(time, event, {"a": signal, "b": other}, robust=True)
    np.testing.assert_allclose(fit.coefficient, theirs.params_, rtol=0, atol=1e-8)
    np.testing.assert_allclose(
        np.sqrt((fit.influence**2).sum(0)), theirs.standard_errors_, rtol=1e-6
    )
    at = np.sort(time[event == 1])[
        [40, 90, 150]
    ]  # event times: lifelines interpolates between them
    mine = np.exp(
        -np.outer(fit.relative_hazard(np.array([[0.3, -1.0]])), [fit.baseline(t) for t in at])
    )
    survival = theirs.predict_survival_function(pd.DataFrame({"a": [0.3], "b": [-1.0]}), times=at)
    np.testing.assert_allclose(mine[0], survival.to_numpy()[:, 0], rtol=0, atol=1e-8)


def test_cox_with_weights_and_clusters_equals_lifelines():
    time, event, signal = simulated(1, 300)
    weights, cluster = np.random.default_rng(2).integers(1, 4, 300), np.arange(300) // 3
    subjects = checked_outcomes(time, event, weights=weights, cluster=cluster)
    fit = fit_cox(subjects, signal[:, None])
    theirs = lifelines_cox(
        time,
        event,
        {"a": signal},
        extra={"w": weights, "c": cluster},
        weights_col="w",
        cluster_col="c",
    )
    assert fit.coefficient[0] == pytest.approx(theirs.params_["a"], abs=1e-8)
    summed = np.bincount(cluster, weights=fit.influence[:, 0])
    assert np.sqrt((summed**2).sum()) == pytest.approx(theirs.standard_errors_["a"], rel=1e-6)


def test_cox_with_ties_equals_scikit_survival():
    time, event, signal = simulated(2, 300, ties=True)
    design = np.column_stack([signal, np.maximum(signal, 0) ** 2])
    fit = fit_cox(checked_outcomes(time, event), design)
    theirs = CoxPHSurvivalAnalysis(ties="breslow", tol=1e-14).fit(
        design, Surv.from_arrays(event == 1, time)
    )
    np.testing.assert_allclose(fit.coefficient, theirs.coef_, rtol=0, atol=1e-8)
    survival = theirs.predict_survival_function(design[:5], return_array=False)
    mine = np.exp(-fit.baseline(HORIZON) * fit.relative_hazard(design[:5]))
    np.testing.assert_allclose(mine, [curve(HORIZON) for curve in survival], rtol=0, atol=1e-8)


def test_slope_equals_lifelines_with_follow_up_ended_at_the_horizon():
    time, event, signal = simulated(3, 400)
    predicted = chance(0.6 * signal - 0.3)
    result = calibration_slope(time, event, predicted, HORIZON)
    ended = event * (time <= HORIZON)
    theirs = lifelines_cox(
        np.minimum(time, HORIZON), ended, {"x": np.log(-np.log(1 - predicted))}, robust=True
    )
    assert result.estimate == pytest.approx(theirs.params_["x"], abs=1e-7)
    assert result.standard_error == pytest.approx(theirs.standard_errors_["x"], rel=1e-5)


def test_smooth_curve_equals_scikit_survival_on_another_basis():
    time, event, signal = simulated(4, 500, ties=True)
    predicted = chance(0.6 * signal + 0.2)
    result = integrated_calibration_index(time, event, predicted, HORIZON)
    x, (first, middle, last) = np.log(-np.log(1 - predicted)), result.knots

    def bend(knot):
        return (np.maximum(x - knot, 0) ** 3 - np.maximum(x - last, 0) ** 3) / (last - knot)

    design = np.column_stack([x, bend(first) - bend(middle)])
    theirs = CoxPHSurvivalAnalysis(ties="breslow", tol=1e-14).fit(
        design, Surv.from_arrays(event == 1, time)
    )
    observed = 1 - np.array([curve(HORIZON) for curve in theirs.predict_survival_function(design)])
    np.testing.assert_allclose(result.observed, observed, rtol=0, atol=1e-7)
    assert result.estimate == pytest.approx(np.abs(observed - predicted).mean(), abs=1e-7)


def test_observed_probability_equals_lifelines():
    time, event, signal = simulated(5, 300, ties=True)
    plain = lifelines.KaplanMeierFitter().fit(time, event)
    assert observed_by(checked_outcomes(time, event), HORIZON).value == pytest.approx(
        1 - plain.predict(HORIZON), abs=1e-12
    )
    weights = np.random.default_rng(0).integers(1, 5, 300)
    weighted = lifelines.KaplanMeierFitter().fit(time, event, weights=weights)
    mine = observed_by(checked_outcomes(time, event, weights=weights), HORIZON).value
    assert mine == pytest.approx(1 - weighted.predict(HORIZON), abs=1e-12)
    time, event, signal = simulated(6, 300)
    codes = np.where((event == 1) & (signal < 0.3), 2, event)
    theirs = lifelines.AalenJohansenFitter(calculate_variance=False).fit(
        time, codes, event_of_interest=1
    )
    incidence = theirs.cumulative_density_.loc[:HORIZON].iloc[-1, 0]
    assert observed_by(checked_outcomes(time, codes, cause=1), HORIZON).value == pytest.approx(
        incidence, abs=1e-12
    )


def test_group_curves_equal_lifelines():
    time, event, signal = simulated(7, 400)
    parts = kaplan_meier_calibration(time, event, chance(signal), HORIZON, groups=4)
    for k in range(4):
        theirs = lifelines.KaplanMeierFitter().fit(time[parts.group == k], event[parts.group == k])
        assert parts.estimate[k] == pytest.approx(1 - theirs.predict(HORIZON), abs=1e-12)
        limits = theirs.confidence_interval_.loc[:HORIZON].iloc[-1]  # log(-log), Greenwood
        np.testing.assert_allclose(
            [parts.interval().low[k], parts.interval().high[k]],
            1 - limits.to_numpy()[::-1],
            rtol=0,
            atol=0.004,
        )


# --- simulated truth ---


def test_a_calibrated_model_is_found_calibrated():
    time, event, signal = simulated(8, 5000)
    predicted = chance(signal)
    assert integrated_calibration_index(time, event, predicted, HORIZON).estimate < 0.015
    assert abs(calibration_slope(time, event, predicted, HORIZON).estimate - 1) < 0.06
    assert abs(calibration_in_the_large(time, event, predicted, HORIZON).estimate - 1) < 0.05
    assert one_calibration(time, event, predicted, HORIZON, test="robust").p_value > 0.01
    assert d_calibration(time, event, curves(signal), TIMES, test="robust").p_value > 0.01


@pytest.mark.parametrize(
    ("factor", "added"),
    [(2, 0), (0.5, 0), (1, 0.5), (1, -0.5)],
    ids=["too extreme", "too timid", "too high", "too low"],
)
def test_known_miscalibration_is_found(factor, added):
    time, event, signal = simulated(9, 4000)
    wrong = factor * signal + added
    predicted = chance(wrong)
    slope, large = (
        function(time, event, predicted, HORIZON)
        for function in (calibration_slope, calibration_in_the_large)
    )
    assert slope.estimate == pytest.approx(1 / factor, abs=3.5 * slope.standard_error)
    assert large.estimate == pytest.approx(
        chance(signal).mean() / predicted.mean(), abs=3.5 * large.standard_error
    )
    assert slope.standard_error < 0.1
    assert large.standard_error < 0.03
    index = integrated_calibration_index(time, event, predicted, HORIZON)
    truth = np.abs(chance(signal) - predicted)
    assert index.estimate == pytest.approx(truth.mean(), abs=0.015)
    assert (index.e50, index.e90) == pytest.approx(tuple(np.quantile(truth, [0.5, 0.9])), abs=0.03)
    assert one_calibration(time, event, predicted, HORIZON, test="robust").p_value < 1e-6
    assert d_calibration(time, event, curves(wrong), TIMES, test="robust").p_value < 1e-3


def test_p_values_of_calibrated_models_are_uniform():
    """At 400 samples a true level of .05 gives .026 to .074 in 97 % of the runs.

    The published group test is far above with censoring.
    """
    rows = [simulated(seed, 300, censored=1.5) for seed in range(400)]
    complete = [simulated(seed, 300, censored=1e9) for seed in range(400)]

    def d_values(samples, test):
        return np.array(
            [
                d_calibration(time, event, curves(signal), TIMES, test=test).p_value
                for time, event, signal in samples
            ]
        )

    def group_values(test):
        return np.array(
            [
                one_calibration(*row[:2], chance(row[2]), HORIZON, groups=5, test=test).p_value
                for row in rows
            ]
        )

    for values in (d_values(complete, "pearson"), d_values(rows, "robust"), group_values("robust")):
        assert kstest(values, "uniform").pvalue > 0.001
        assert 0.02 < (values < 0.05).mean() < 0.085
    assert (d_values(rows, "pearson") < 0.05).mean() < 0.02
    assert (group_values("dagostino_nam") < 0.05).mean() > 0.1


def test_intervals_cover():
    inside = []
    for seed in range(400):
        time, event, signal = simulated(seed, 300)
        predicted = chance(signal)
        found = (
            calibration_slope(time, event, predicted, HORIZON),
            calibration_in_the_large(time, event, predicted, HORIZON),
        )
        inside.append([low < 1 < high for low, high in (result.interval() for result in found)])
    coverage = np.mean(inside, axis=0)
    assert ((coverage > 0.915) & (coverage < 0.98)).all()


def test_ici_of_a_miscalibrated_model_has_the_standard_error_that_its_samples_show():
    found = [
        integrated_calibration_index(time, event, chance(0.5 * signal + 0.7), HORIZON)
        for time, event, signal in (simulated(seed, 500) for seed in range(300))
    ]
    spread = np.std([result.estimate for result in found])
    assert np.mean([result.standard_error for result in found]) / spread == pytest.approx(
        1, abs=0.12
    )


def test_competing_events_enter_the_observed_probability():
    generator = np.random.default_rng(10)
    first, second, end = (generator.exponential(scale, size=20_000) for scale in (2.0, 1.0, 3.0))
    time = np.minimum.reduce([first, second, end])
    event = np.select([time == first, time == second], [1, 2], 0)
    truth = (0.5 / 1.5) * (1 - np.exp(-1.5 * HORIZON))
    result = calibration_in_the_large(time, event, np.full(20_000, truth), HORIZON, cause=1)
    assert result.estimate == pytest.approx(1, abs=3.5 * result.standard_error)
    assert (
        calibration_in_the_large(time, event, np.full(20_000, truth), HORIZON).estimate > 1.1
    )  # competing events as censored


def test_recalibration_finds_the_true_slope_and_baseline():
    time, event, signal = simulated(11, 6000)
    fitted = fit_recalibration(time, event, curves(1.6 * signal - 0.8), TIMES)
    assert fitted.slope == pytest.approx(1 / 1.6, abs=0.03)
    after = fitted.apply(curves(1.6 * signal - 0.8), TIMES)
    usual = np.abs(signal) < 2  # beyond, S at the reference time is clipped
    np.testing.assert_allclose(
        after[usual][:, TIMES < 2], curves(signal)[usual][:, TIMES < 2], rtol=0, atol=0.04
    )
