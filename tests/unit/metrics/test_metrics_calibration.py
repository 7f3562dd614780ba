from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, reject, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import chi2

from concordant.core.errors import MetricError
from concordant.metrics.calibration import d_calibration, log_score, rao_scott
from concordant.metrics.calibration_curve import (
    integrated_calibration_index,
    kaplan_meier_calibration,
    one_calibration,
)
from concordant.metrics.cox import fit_cox
from concordant.metrics.inference import critical_value
from concordant.metrics.inputs import checked_outcomes
from concordant.metrics.weak_calibration import (
    CLIP,
    calibration_in_the_large,
    calibration_slope,
    observed_by,
    weighted_quantile,
)
from survival_fixture import jackknife

FEW = settings(max_examples=25, deadline=None, derandomize=True)
TIMES = np.array([0.25, 0.5, 0.75, 1.0, 1.5])
HORIZON = 0.75


def cohort(seed, n=60, *, ties=True, competing=False):
    """Outcomes of a proportional-hazards model, its true log hazard per row, and the codes 0, 1
    and, where asked, 2.
    """
    generator = np.random.default_rng(seed)
    signal = generator.normal(size=n)
    time, censored = generator.exponential(np.exp(-signal)), generator.exponential(2.0, size=n)
    event = (time <= censored).astype(np.int64)
    time = np.minimum(time, censored)
    if competing:
        event[(event == 1) & (generator.random(n) < 0.35)] = 2
    return (np.ceil(time * 8) / 8 if ties else time), event, signal


def chance(signal, horizon=HORIZON):
    return 1 - np.exp(-horizon * np.exp(signal))


def curves(signal, times=TIMES):
    return np.exp(-np.outer(np.exp(signal), times))


def derivative(values, weights, step=1e-5):
    """The numerical derivative by every row's weight, times the weight."""
    columns = []
    for k in range(len(weights)):
        up, down = weights.copy(), weights.copy()
        up[k] += step
        down[k] -= step
        columns.append(
            weights[k] * (np.asarray(values(up)) - np.asarray(values(down))) / (2 * step)
        )
    return np.stack(columns, axis=-1)


def some_weights(n, seed=2):
    return np.random.default_rng(seed).uniform(0.5, 2, n)


# --- the Cox model ---


def slow_partial_likelihood(time, observed, weights, design, coefficient):
    total = 0.0
    for i in np.flatnonzero(observed):
        at_risk = time >= time[i]
        total += weights[i] * (
            design[i] @ coefficient
            - np.log((weights * np.exp(design @ coefficient))[at_risk].sum())
        )
    return total


@pytest.mark.parametrize("seed", range(3))
def test_cox_maximises_the_partial_likelihood_and_breslow_gives_the_baseline(seed):
    time, event, signal = cohort(seed)
    design = np.column_stack([signal, np.random.default_rng(9).normal(size=len(time))])
    weights = some_weights(len(time))
    fit = fit_cox(checked_outcomes(time, event, weights=weights), design)
    slow = minimize(
        lambda b: -slow_partial_likelihood(time, event == 1, weights, design, b),
        np.zeros(2),
        tol=1e-12,
    )
    np.testing.assert_allclose(fit.coefficient, slow.x, rtol=0, atol=1e-5)
    relative = fit.relative_hazard(design)
    slow_hazard = sum(
        weights[(time == t) & (event == 1)].sum() / (weights * relative)[time >= t].sum()
        for t in np.unique(time[event == 1])
        if t <= 0.6
    )
    assert fit.baseline(0.6) == pytest.approx(slow_hazard, rel=1e-12)
    assert fit.baseline(0.01) == 0


def test_cox_influence_is_the_derivative_by_the_weights():
    time, event, signal = cohort(3)
    design = np.column_stack([signal, signal**2])
    weights = some_weights(len(time))
    whole = fit_cox(checked_outcomes(time, event, weights=weights), design)

    def values(w):
        fit = fit_cox(checked_outcomes(time, event, weights=w), design)
        moved = (
            (fit.centre - whole.centre) @ fit.coefficient + fit.shift - whole.shift
        )  # of the same baseline subject
        return np.concatenate(
            [fit.coefficient, [fit.baseline(t) * np.exp(-moved) for t in (0.01, 0.3, 0.8, 9.0)]]
        )

    mine = np.vstack(
        [whole.influence.T, *(whole.baseline_influence(t) for t in (0.01, 0.3, 0.8, 9.0))]
    )
    np.testing.assert_allclose(mine, derivative(values, weights), rtol=0, atol=1e-8)


def test_cox_does_not_overflow_and_a_row_of_no_weight_has_no_part():
    time, event, signal = cohort(4, ties=False)
    plain = fit_cox(checked_outcomes(time, event), signal[:, None])
    scaled = fit_cox(checked_outcomes(time, event), 1e6 + 1e5 * signal[:, None])
    assert scaled.coefficient[0] * 1e5 == pytest.approx(plain.coefficient[0], rel=1e-6)
    offset = fit_cox(checked_outcomes(time, event), np.zeros((len(time), 0)), offset=2000 + signal)
    assert np.isfinite(offset.cumulative_hazard).all()
    weights = np.append(np.ones(len(time)), 0)
    ghost = fit_cox(
        checked_outcomes(np.append(time, 0.1), np.append(event, 1), weights=weights),
        np.append(signal, 50.0)[:, None],
    )
    assert ghost.coefficient[0] == pytest.approx(plain.coefficient[0], abs=1e-12)
    assert ghost.influence[-1, 0] == 0
    assert ghost.baseline_influence(1.0)[-1] == 0


def test_cox_refuses_what_has_no_maximum():
    time = np.arange(1.0, 13.0)
    with pytest.raises(MetricError, match="run off"):
        fit_cox(checked_outcomes(time, np.ones(12)), -time[:, None])
    with pytest.raises(MetricError, match="no spread"):
        fit_cox(checked_outcomes(time, np.ones(12)), np.full((12, 1), 0.1))
    with pytest.raises(MetricError, match="determine each other"):
        fit_cox(
            checked_outcomes(time, np.ones(12)),
            np.column_stack([np.sin(time), 3 - 2 * np.sin(time)]),
        )
    with pytest.raises(MetricError, match="needs an event"):
        fit_cox(checked_outcomes(time, np.zeros(12)), np.sin(time)[:, None])


# --- observed probability ---


def slow_incidence(time, event, horizon):
    surviving, incidence = 1.0, 0.0
    for t in np.unique(time[time <= horizon]):
        at_risk = (time >= t).sum()
        incidence += surviving * ((time == t) & (event == 1)).sum() / at_risk
        surviving *= 1 - ((time == t) & (event > 0)).sum() / at_risk
    return incidence


@pytest.mark.parametrize("cause", [None, 1])
def test_observed_probability_and_its_influence(cause):
    time, event, _ = cohort(5, competing=True)
    codes = event if cause else (event == 1).astype(int)
    assert observed_by(checked_outcomes(time, event, cause=cause), HORIZON).value == pytest.approx(
        slow_incidence(time, codes, HORIZON)
    )
    weights = some_weights(len(time))

    def value(w, horizon=HORIZON):
        return observed_by(checked_outcomes(time, event, weights=w, cause=cause), horizon).value

    mine = observed_by(
        checked_outcomes(time, event, weights=weights, cause=cause), HORIZON
    ).influence
    np.testing.assert_allclose(mine, derivative(value, weights), rtol=0, atol=1e-9)


def test_observed_probability_once_everybody_has_had_the_event():
    time, event = np.array([1.0, 2.0, 2.0, 3.0]), np.array([1, 0, 1, 1])
    result = observed_by(
        checked_outcomes(time, event, weights=np.array([0.1, 0.2, 0.3, 0.7])), 99.0
    )
    assert result.value == pytest.approx(1)
    np.testing.assert_allclose(result.influence, 0, atol=1e-15)
    with pytest.raises(MetricError, match=r"nobody .* followed to the horizon of 99"):
        observed_by(checked_outcomes(time, np.array([1, 0, 1, 0])), 99.0)
    assert observed_by(checked_outcomes(time, event), 0.5).value == 0


def test_weighted_quantile_counts_copies():
    values, copies = np.array([3.0, 1.0, 2.0, 7.0]), np.array([2, 1, 4, 3])
    levels = np.array([0.05, 0.1, 0.5, 0.7, 1.0])
    expected = np.quantile(np.repeat(values, copies), levels, method="inverted_cdf")
    np.testing.assert_array_equal(weighted_quantile(values, copies, levels), expected)


# --- in the large, slope ---


def test_in_the_large_and_slope_by_definition():
    time, event, signal = cohort(6)
    ratio = calibration_in_the_large(time, event, chance(signal), HORIZON)
    assert ratio.observed == pytest.approx(slow_incidence(time, event, HORIZON))
    assert ratio.expected == pytest.approx(chance(signal).mean())
    assert ratio.estimate == pytest.approx(ratio.observed / ratio.expected)
    ended, until = np.minimum(time, HORIZON), ((event == 1) & (time <= HORIZON)).astype(int)
    slope = calibration_slope(time, event, chance(signal), HORIZON)
    assert slope.estimate == pytest.approx(
        fit_cox(checked_outcomes(ended, until), signal[:, None]).coefficient[0], rel=1e-6
    )
    assert slope.n_events == until.sum()
    assert calibration_slope(time, event, chance(signal / 2), HORIZON).estimate == pytest.approx(
        slope.estimate * 2, rel=1e-6
    )


@pytest.mark.parametrize("cause", [None, 1])
def test_in_the_large_and_slope_have_the_derivative_as_influence(cause):
    time, event, signal = cohort(7, competing=True)
    weights = some_weights(len(time))

    def results(w):
        return [
            calibration_in_the_large(time, event, chance(signal), HORIZON, weights=w, cause=cause),
            calibration_slope(time, event, chance(signal), HORIZON, weights=w),
        ]

    mine = np.stack([result.influence for result in results(weights)])
    slow = derivative(lambda w: [result.estimate for result in results(w)], weights)
    np.testing.assert_allclose(mine, slow, rtol=0, atol=1e-8)
    np.testing.assert_allclose(mine.sum(1), 0, atol=1e-10)


def test_predictions_of_0_and_1_are_clipped_in_the_log_log_only():
    time, event, signal = cohort(8)
    predicted = chance(signal)
    predicted[:3] = 0.0, 1.0, 0.0
    moved = predicted.copy()
    moved[:3] = CLIP, 1 - CLIP, CLIP
    result = calibration_slope(time, event, predicted, HORIZON)
    assert result.estimate == calibration_slope(time, event, moved, HORIZON).estimate
    assert result.n_clipped == 3
    assert "3 prediction" in result.note
    ratio = calibration_in_the_large(time, event, predicted, HORIZON)
    assert ratio.expected == pytest.approx(predicted.mean(), abs=1e-14)


def test_standard_errors_are_near_the_jackknife():
    time, event, signal = cohort(9, n=150)
    predicted = chance(0.5 * signal + 0.4)

    def values(rows):
        data = time[rows], event[rows], predicted[rows], HORIZON
        return [
            calibration_in_the_large(*data).estimate,
            calibration_slope(*data).estimate,
            integrated_calibration_index(*data).estimate,
        ]

    data = time, event, predicted, HORIZON
    mine = [
        f(*data).standard_error
        for f in (calibration_in_the_large, calibration_slope, integrated_calibration_index)
    ]
    np.testing.assert_allclose(mine / jackknife(values, len(time)), 0.985, atol=0.05)


# --- groups ---


def test_groups_and_the_published_statistic():
    time, event, signal = cohort(10, n=200)
    predicted = chance(signal)
    result = one_calibration(time, event, predicted, HORIZON, groups=5)
    order = np.argsort(predicted)
    total = 0.0
    for k, rows in enumerate(np.split(order, 5)):
        mean, observed = predicted[rows].mean(), slow_incidence(time[rows], event[rows], HORIZON)
        assert (result.predicted[k], result.observed[k], result.n[k]) == (
            pytest.approx(mean),
            pytest.approx(observed),
            40,
        )
        total += (40 * observed - 40 * mean) ** 2 / (40 * mean * (1 - mean))
    assert result.statistic == pytest.approx(total)
    assert result.degrees == 4
    assert result.p_value == pytest.approx(chi2.sf(total, 4))
    assert result.test == "dagostino_nam"
    assert result.groups.n_events.sum() == ((event == 1) & (time <= HORIZON)).sum()


@pytest.mark.parametrize("cause", [None, 1])
def test_group_influences_are_derivatives(cause):
    time, event, signal = cohort(11, competing=True)
    weights = some_weights(len(time))

    def values(w):
        parts = kaplan_meier_calibration(
            time, event, chance(signal), HORIZON, groups=3, weights=w, cause=cause
        )
        return np.concatenate([parts.estimate, parts.predicted])

    parts = kaplan_meier_calibration(
        time, event, chance(signal), HORIZON, groups=3, weights=weights, cause=cause
    )
    mine = np.vstack([parts.influence, parts.predicted_influence])
    np.testing.assert_allclose(mine, derivative(values, weights), rtol=0, atol=1e-9)


def test_group_standard_errors_are_binomial_without_censoring():
    generator = np.random.default_rng(0)
    time, predicted = generator.exponential(size=100), generator.random(100)
    parts = kaplan_meier_calibration(time, np.ones(100), predicted, 1.0, groups=4)
    np.testing.assert_allclose(
        parts.standard_error, np.sqrt(parts.estimate * (1 - parts.estimate) / 25)
    )
    band = parts.interval()
    assert (
        (band.low > 0)
        & (band.low < parts.estimate)
        & (parts.estimate < band.high)
        & (band.high < 1)
    ).all()


def test_the_robust_group_test_sums_clusters():
    time, event, signal = cohort(12, n=120)
    rows = np.repeat(np.arange(120), 2)
    once = one_calibration(time, event, chance(signal), HORIZON, groups=4, test="robust")
    twice = one_calibration(
        time[rows], event[rows], chance(signal)[rows], HORIZON, groups=4, cluster=rows
    )
    assert (twice.statistic, twice.test, twice.degrees) == (
        pytest.approx(once.statistic),
        "robust",
        pytest.approx(once.degrees),
    )
    np.testing.assert_allclose(twice.groups.standard_error, once.groups.standard_error)
    np.testing.assert_array_equal(twice.groups.n_known, once.groups.n_known)


def test_the_robust_group_test_takes_a_weight_for_so_many_copies():
    generator = np.random.default_rng(44)
    predicted = generator.uniform(0.1, 0.9, 120)
    time, censored = generator.exponential(-1 / np.log1p(-predicted)), generator.exponential(2, 120)
    time, event, copies = (
        np.minimum(time, censored),
        (time <= censored).astype(int),
        generator.integers(0, 4, 120),
    )
    rows = np.repeat(np.arange(120), copies)
    weighted = one_calibration(time, event, predicted, 1.0, groups=4, weights=copies)
    copied = one_calibration(time[rows], event[rows], predicted[rows], 1.0, groups=4, cluster=rows)
    for name in ("statistic", "degrees", "p_value"):
        assert getattr(weighted, name) == pytest.approx(getattr(copied, name), rel=1e-10)


def test_a_group_without_an_event_gets_an_exact_limit():
    time, event = np.array([2.0, 3.0, 4.0, 0.5, 0.6, 0.7]), np.array([0, 1, 1, 1, 1, 1])
    predicted = np.array([0.1, 0.1, 0.1, 0.8, 0.8, 0.8])
    parts = kaplan_meier_calibration(time, event, predicted, 1.0, groups=2)
    band = parts.interval(0.9)
    np.testing.assert_allclose(parts.estimate, [0, 1], atol=1e-15)
    np.testing.assert_allclose(band.low, [0, 0.05 ** (1 / 3)])
    np.testing.assert_allclose(band.high, [1 - 0.05 ** (1 / 3), 1])
    with pytest.raises(MetricError, match="the differences have no variance"):
        one_calibration(time, event, predicted, 1.0, groups=2, test="robust")


def test_equal_predictions_stay_together():
    time, event, _ = cohort(13)
    predicted = np.where(np.arange(60) < 40, 0.3, 0.6)
    parts = kaplan_meier_calibration(time, event, predicted, HORIZON, groups=10)
    np.testing.assert_array_equal(parts.n, [40, 20])
    np.testing.assert_allclose(parts.predicted, [0.3, 0.6])
    with pytest.raises(MetricError, match="two groups of different predictions"):
        one_calibration(time, event, np.full(60, 0.4), HORIZON)


# --- integrated calibration index ---


def test_ici_by_definition():
    time, event, signal = cohort(14, n=120)
    predicted = chance(0.5 * signal + 0.3)
    x = np.log(-np.log(1 - predicted))
    a, b, c = np.quantile(x, [0.1, 0.5, 0.9], method="inverted_cdf")

    def natural(k):
        return (np.maximum(x - k, 0) ** 3 - np.maximum(x - c, 0) ** 3) / (c - k)

    design = np.column_stack(
        [x, natural(a) - natural(b)]
    )  # the textbook's basis of natural cubic splines
    fit = minimize(
        lambda g: -slow_partial_likelihood(time, event == 1, np.ones(120), design, g),
        np.zeros(2),
        tol=1e-13,
    )
    relative = np.exp(design @ fit.x)
    hazard = sum(
        ((time == t) & (event == 1)).sum() / relative[time >= t].sum()
        for t in np.unique(time)
        if t <= HORIZON
    )
    difference = np.abs(1 - np.exp(-hazard * relative) - predicted)
    result = integrated_calibration_index(time, event, predicted, HORIZON)
    assert result.estimate == pytest.approx(difference.mean(), abs=1e-5)
    assert (result.e50, result.e90, result.emax) == pytest.approx(
        (np.sort(difference)[59], np.sort(difference)[107], difference.max()), abs=1e-5
    )
    np.testing.assert_allclose(np.abs(result.observed - result.predicted).mean(), result.estimate)
    np.testing.assert_allclose(result.knots, [a, b, c])


@pytest.mark.parametrize("kind", ["spline", "line", "constant"])
def test_ici_influence_is_the_derivative_by_the_weights(kind):
    time, event, signal = cohort(15)
    base = {
        "spline": chance(0.5 * signal + 0.5),
        "line": np.where(signal > 0.7, 0.8, 0.3),
        "constant": np.full(60, 0.35),
    }[kind]
    weights = some_weights(len(time))
    result = integrated_calibration_index(time, event, base, HORIZON, weights=weights)
    assert (len(result.knots), result.note == "") == ((3, True) if kind == "spline" else (0, False))
    slow = derivative(
        lambda w: integrated_calibration_index(time, event, base, HORIZON, weights=w).estimate,
        weights,
        step=1e-6,
    )
    np.testing.assert_allclose(result.influence, slow, rtol=0, atol=1e-8)


def test_ici_of_constant_predictions_is_one_difference():
    time, event, _ = cohort(16)
    hazard = sum(
        ((time == t) & (event == 1)).sum() / (time >= t).sum()
        for t in np.unique(time)
        if t <= HORIZON
    )
    result = integrated_calibration_index(time, event, np.full(60, 0.3), HORIZON)
    assert result.estimate == pytest.approx(abs(1 - np.exp(-hazard) - 0.3))
    assert result.emax == pytest.approx(result.e50)
    noisy = integrated_calibration_index(time, event, 0.3 + 1e-13 * np.arange(60), HORIZON)
    assert noisy.estimate == pytest.approx(result.estimate)


# --- D-calibration ---


def slow_d_calibration(time, event, survival, times, bins):
    share = np.zeros(bins)
    for i in range(len(time)):
        s = np.interp(min(time[i], times[-1]), np.append(0, times), np.append(1, survival[i]))
        if event[i] == 1 and time[i] <= times[-1]:
            share[min(int(np.floor(s * bins)), bins - 1)] += 1
            continue
        for b in range(bins):
            low, high = b / bins, (b + 1) / bins
            if high <= s:
                share[b] += 1 / (bins * s)
            elif low <= s:
                share[b] += (s - low) / s
    return share / len(time)


@pytest.mark.parametrize("bins", [4, 10])
def test_d_calibration_by_definition(bins):
    time, event, signal = cohort(17, n=80)
    result = d_calibration(time, event, curves(0.7 * signal), TIMES, bins=bins)
    slow = slow_d_calibration(time, event, curves(0.7 * signal), TIMES, bins)
    np.testing.assert_allclose(result.estimate, slow, rtol=0, atol=1e-13)
    assert result.statistic == pytest.approx(((80 * slow - 80 / bins) ** 2 / (80 / bins)).sum())
    assert result.p_value == pytest.approx(chi2.sf(result.statistic, bins - 1))
    assert (result.degrees, result.test, result.n) == (bins - 1, "pearson", 80)
    assert result.n_beyond == (time > 1.5).sum()
    assert result.n_beyond > 0


def test_d_calibration_influence_is_the_derivative_by_the_weights():
    time, event, signal = cohort(18)
    weights = some_weights(len(time))
    result = d_calibration(time, event, curves(signal), TIMES, bins=5, weights=weights)
    slow = derivative(
        lambda w: d_calibration(time, event, curves(signal), TIMES, bins=5, weights=w).estimate,
        weights,
    )
    np.testing.assert_allclose(result.influence, slow, rtol=0, atol=1e-10)
    band = result.interval()
    np.testing.assert_allclose(
        band.high - band.low, 2 * critical_value(0.95, len(time) - 1) * result.standard_error
    )


def test_d_calibration_at_the_edges():
    survival, times = np.array([[1.0, 0.5, 0.0]] * 4), np.array([1.0, 2.0, 3.0])
    result = d_calibration(
        np.array([1.0, 2.0, 3.0, 3.0]), np.array([1, 1, 1, 0]), survival, times, bins=2
    )
    np.testing.assert_allclose(result.estimate, [0.5, 0.5])
    at_zero = d_calibration(
        np.array([0.5, 1.0]),
        np.array([1, 1]),
        np.array([[0.8, 0.4]] * 2),
        np.array([0.0, 1.0]),
        bins=5,
    )
    np.testing.assert_allclose(at_zero.estimate, [0, 0, 0.5, 0.5, 0])


def test_the_robust_d_calibration_test_sums_clusters_and_survives_empty_bins():
    time, event, signal = cohort(19, n=150)
    rows = np.repeat(np.arange(150), 2)
    once = d_calibration(time, event, curves(signal), TIMES, test="robust")
    twice = d_calibration(time[rows], event[rows], curves(signal)[rows], TIMES, cluster=rows)
    assert (twice.statistic, twice.test) == (pytest.approx(once.statistic), "robust")
    np.testing.assert_allclose(twice.standard_error, once.standard_error)
    hopeless = d_calibration(
        np.full(50, 0.1), np.ones(50), np.full((50, 5), 0.99), TIMES, test="robust"
    )
    assert hopeless.estimate[-1] == pytest.approx(1)
    assert hopeless.p_value < 1e-10


def test_the_correction_is_that_of_the_sum_of_chi_squares():
    """Mean and variance of sum (difference^2 / variance), from draws of the differences
    themselves.
    """
    generator = np.random.default_rng(0)
    influence, variance = (
        generator.normal(size=(4, 30)) * np.array([[1], [2], [0.5], [1]]),
        np.array([1.0, 9.0, 4.0, 2.0]),
    )
    sums = (np.square(generator.normal(size=(200_000, 30)) @ influence.T) / variance).sum(1)
    found = rao_scott(
        np.sqrt(variance), variance, influence, None
    )  # every part is off by one: the sum is 4
    scale = 4 / found.statistic
    assert found.degrees * scale == pytest.approx(sums.mean(), rel=0.02)
    assert 2 * found.degrees * scale**2 == pytest.approx(sums.var(), rel=0.03)
    assert found.p_value == pytest.approx((sums >= 4).mean(), abs=0.02)


def test_the_robust_tests_change_nothing_where_the_published_ones_are_right():
    generator = np.random.default_rng(0)
    time, n = generator.exponential(size=20_000), 20_000
    published, robust = (
        d_calibration(time, np.ones(n), curves(np.zeros(n)), TIMES, bins=3, test=test)
        for test in ("pearson", "robust")
    )
    assert robust.statistic == pytest.approx(published.statistic, rel=0.02)
    assert robust.degrees == pytest.approx(2, rel=0.01)


# --- log score ---


def test_log_score_by_definition():
    time, event, signal = cohort(20)
    survival = curves(signal)
    edges, padded = np.append(0, TIMES), np.column_stack([np.ones(60), survival, np.zeros(60)])
    loss = []
    for i in range(60):
        k = next((k for k, end in enumerate(TIMES) if time[i] <= end), len(TIMES))
        seen = (
            padded[i, k] - padded[i, k + 1]
            if event[i] == 1
            else np.interp(time[i], edges, padded[i, :-1])
        )
        loss.append(-np.log(seen))
    result = log_score(time, event, survival, TIMES)
    assert result.estimate == pytest.approx(np.mean(loss), abs=1e-13)
    assert result.standard_error == pytest.approx(np.std(loss) / np.sqrt(60))
    assert (result.n_floored, result.note) == (0, "")


def test_log_score_floor_and_influence():
    time, event, _ = cohort(21)
    certain = (time[:, None] > TIMES + 0.3).astype(float)
    result = log_score(time, event, certain, TIMES, floor=1e-3)
    assert result.n_floored > 0
    assert "raised to 0.001" in result.note
    weights = some_weights(60)
    slow = derivative(lambda w: log_score(time, event, certain, TIMES, weights=w).estimate, weights)
    np.testing.assert_allclose(
        log_score(time, event, certain, TIMES, weights=weights).influence, slow, rtol=0, atol=1e-8
    )


def two_causes(signal):
    """One minus the incidence of the first of two proportional causes, and the probability of no
    event.
    """
    hazard = np.exp(signal) + 0.5
    free = np.exp(-np.outer(hazard, TIMES))
    return 1 - (np.exp(signal) / hazard)[:, None] * (1 - free), free


def of_two_causes(seed, n=60):
    generator = np.random.default_rng(seed)
    signal = generator.normal(size=n)
    first, second, censored = (
        generator.exponential(np.exp(-signal)),
        generator.exponential(2.0, n),
        generator.exponential(1.5, n),
    )
    time = np.minimum(np.minimum(first, second), censored)
    return time, np.select([time == first, time == second], [1, 2], 0), signal


def test_log_score_of_a_cause_by_definition():
    time, event, signal = of_two_causes(30)
    survival, free = two_causes(signal)
    loss = []
    for i in range(60):
        k = int(np.searchsorted(TIMES, time[i]))
        edges, none = np.append(0, TIMES), np.append(1, free[i])
        if event[i] == 0 or k == len(TIMES):
            seen = np.interp(time[i], edges, none)
        else:
            of_first = np.append(0, 1 - survival[i])
            gained = of_first if event[i] == 1 else 1 - none - of_first
            seen = gained[k + 1] - gained[k]
        loss.append(-np.log(seen))
    result = log_score(time, event, survival, TIMES, cause=1, event_free=free)
    assert result.estimate == pytest.approx(np.mean(loss), abs=1e-12)
    np.testing.assert_allclose(result.influence, (loss - np.mean(loss)) / 60, rtol=0, atol=1e-14)
    second = log_score(time, event, 1 - (survival - free), TIMES, cause=2, event_free=free)
    assert second.estimate == pytest.approx(
        result.estimate, abs=1e-12
    )  # the same likelihood, seen from the other cause


def test_log_score_of_a_cause_is_lowest_for_the_truth():
    time, event, signal = of_two_causes(31, n=6000)
    truth, *others = (
        log_score(time, event, survival, TIMES, cause=1, event_free=free).estimate
        for survival, free in map(two_causes, (signal, signal + 0.3, 0.6 * signal, 1.6 * signal))
    )
    assert all(truth < other for other in others)


def test_a_cause_without_competing_events_changes_nothing():
    time, event, signal = cohort(32)
    for function in (log_score, d_calibration):
        plain, of_cause = (
            function(time, event, curves(signal), TIMES, cause=cause) for cause in (None, 1)
        )
        np.testing.assert_array_equal(plain.estimate, of_cause.estimate)


def test_what_one_cause_alone_cannot_say_is_refused():
    time, event, signal = of_two_causes(33)
    survival, free = two_causes(signal)
    competing = int((event == 2).sum())
    with pytest.raises(
        MetricError, match=f"{competing} row.s. have a competing event, for which D-calibration"
    ):
        d_calibration(time, event, survival, TIMES, cause=1)
    with pytest.raises(
        MetricError,
        match=f"{competing} row.s. have a competing event; the log score then needs `event_free`",
    ):
        log_score(time, event, survival, TIMES, cause=1)
    with pytest.raises(MetricError, match="without a cause"):
        log_score(time, event, survival, TIMES, event_free=free)
    with pytest.raises(MetricError, match="event_free is above survival"):
        log_score(time, event, free, TIMES, cause=1, event_free=survival)
    with pytest.raises(
        MetricError, match="survival rises"
    ):  # the other causes' incidence would fall
        log_score(
            time,
            event,
            survival,
            TIMES,
            cause=1,
            event_free=np.minimum(survival, 0.9 * survival[:, -1:]),
        )


def test_log_score_is_lowest_for_the_truth():
    time, event, signal = cohort(22, n=4000, ties=False)
    truth = log_score(time, event, curves(signal), TIMES).estimate
    assert all(
        truth < log_score(time, event, curves(other), TIMES).estimate
        for other in (signal + 0.3, 0.6 * signal, 1.6 * signal)
    )


# --- all of them ---


def _ratio(time, event, signal, **options):
    return calibration_in_the_large(time, event, chance(signal), HORIZON, **options)


def _slope(time, event, signal, **options):
    return calibration_slope(time, event, chance(signal), HORIZON, **options)


def _ici(time, event, signal, **options):
    return integrated_calibration_index(time, event, chance(signal), HORIZON, **options)


def _groups(time, event, signal, **options):
    return kaplan_meier_calibration(time, event, chance(signal), HORIZON, groups=3, **options)


def _bins(time, event, signal, **options):
    return d_calibration(time, event, curves(signal), TIMES, bins=4, **options)


def _score(time, event, signal, **options):
    return log_score(time, event, curves(signal), TIMES, **options)


def both_or_neither(first, second):
    """Return what two ways to the same come to; a cohort that one refuses the other does too.

    In some draws nobody of a group is followed to the horizon.
    """
    try:
        found = first()
    except MetricError:
        with pytest.raises(MetricError):
            second()
        reject()
    return found, second()


ALL = pytest.mark.parametrize("function", [_ratio, _slope, _ici, _groups, _bins, _score])


@ALL
@FEW
@given(seed=st.integers(0, 10_000))
@example(seed=55)
def test_a_weight_of_two_is_two_copies_in_one_cluster(function, seed):
    time, event, signal = cohort(seed, n=70)
    copies = np.random.default_rng(seed).integers(1, 4, len(time))
    rows = np.repeat(np.arange(len(time)), copies)
    weighted, copied = both_or_neither(
        lambda: function(time, event, signal, weights=copies),
        lambda: function(time[rows], event[rows], signal[rows], cluster=rows),
    )
    np.testing.assert_allclose(weighted.estimate, copied.estimate, rtol=1e-8)
    np.testing.assert_allclose(weighted.standard_error, copied.standard_error, rtol=1e-6, atol=1e-9)


@ALL
@FEW
@given(seed=st.integers(0, 10_000))
def test_the_order_of_the_rows_does_not_matter(function, seed):
    time, event, signal = cohort(seed, n=70)
    order = np.random.default_rng(seed).permutation(len(time))
    plain, permuted = both_or_neither(
        lambda: function(time, event, signal),
        lambda: function(time[order], event[order], signal[order]),
    )
    np.testing.assert_allclose(permuted.estimate, plain.estimate, rtol=1e-8)
    np.testing.assert_allclose(permuted.influence, plain.influence[..., order], rtol=0, atol=1e-8)
    np.testing.assert_allclose(plain.influence.sum(-1), 0, atol=1e-8)


@ALL
@FEW
@given(seed=st.integers(0, 10_000), factor=st.floats(0.01, 500))
@example(seed=326, factor=2.0)
def test_the_unit_of_time_does_not_matter(function, seed, factor):
    time, event, signal = cohort(seed, n=70)
    predicted, survival = chance(signal), curves(signal)
    late = time * factor, event
    scaled = {
        _ratio: lambda: calibration_in_the_large(*late, predicted, HORIZON * factor),
        _slope: lambda: calibration_slope(*late, predicted, HORIZON * factor),
        _ici: lambda: integrated_calibration_index(*late, predicted, HORIZON * factor),
        _groups: lambda: kaplan_meier_calibration(*late, predicted, HORIZON * factor, groups=3),
        _bins: lambda: d_calibration(*late, survival, TIMES * factor, bins=4),
        _score: lambda: log_score(*late, survival, TIMES * factor),
    }[function]
    plain, changed = both_or_neither(lambda: function(time, event, signal), scaled)
    np.testing.assert_allclose(changed.estimate, plain.estimate, rtol=1e-8, atol=1e-12)


@ALL
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time": -np.ones(60)}, "not finite and > 0"),
        ({"event": np.zeros(59)}, "event has shape"),
        ({"event": np.full(60, np.nan)}, "NaN"),
        ({"weights": np.zeros(60)}, "weights"),
        ({"cluster": np.zeros(3)}, "cluster has shape"),
        ({"signal": np.full(60, np.nan)}, "NaN or outside"),
        ({"signal": np.zeros(59)}, "has shape"),
    ],
)
def test_bad_input_is_refused(function, change, message):
    time, event, signal = cohort(23)
    arguments = {"time": time, "event": event, "signal": signal, **change}
    with pytest.raises(MetricError, match=message):
        function(**arguments)


@pytest.mark.parametrize(
    "function",
    [calibration_in_the_large, calibration_slope, integrated_calibration_index, one_calibration],
)
def test_bad_horizons_and_predictions_are_refused(function):
    time, event, signal = cohort(24)
    for horizon in (0, -1.0, np.nan, np.inf):
        with pytest.raises(MetricError, match="horizon is"):
            function(time, event, chance(signal), horizon)
    with pytest.raises(MetricError, match="outside \\[0, 1\\]"):
        function(time, event, chance(signal) + 1, HORIZON)
    if function is not calibration_slope:
        event[time.argmax()] = 0
        with pytest.raises(MetricError, match="horizon of 1e"):
            function(time, event, chance(signal), 1e6)


def test_what_has_no_value_is_refused():
    time, event, signal = cohort(25)
    predicted, survival = chance(signal), curves(signal)
    with pytest.raises(MetricError, match="no calibration slope"):
        calibration_slope(time, event, np.full(60, 0.2), HORIZON)
    with pytest.raises(MetricError, match="needs an event"):
        calibration_slope(time, event, predicted, 1e-3)
    with pytest.raises(MetricError, match="every predicted probability is 0"):
        calibration_in_the_large(time, event, np.zeros(60), HORIZON)
    with pytest.raises(MetricError, match="needs an event"):
        integrated_calibration_index(time, np.zeros(60), predicted, HORIZON)
    with pytest.raises(MetricError, match="leaves no room for chance"):
        one_calibration(time, event, (signal > 0).astype(float), HORIZON)
    with pytest.raises(MetricError, match="all ended alike"):
        one_calibration(time, np.zeros(60), np.where(signal > 0, 0.4, 0.2), 0.1, test="robust")
    with pytest.raises(MetricError, match="groups is 0"):
        kaplan_meier_calibration(time, event, predicted, HORIZON, groups=0)
    with pytest.raises(MetricError, match="bins is 1"):
        d_calibration(time, event, survival, TIMES, bins=1)
    with pytest.raises(MetricError, match="nothing to count"):
        d_calibration(time, np.zeros(60), survival, TIMES)
    with pytest.raises(MetricError, match="floor is 0"):
        log_score(time, event, survival, TIMES, floor=0)


@pytest.mark.parametrize(
    ("survival", "times", "message"),
    [
        (np.full((60, 2), 0.5), np.array([1.0, 1.0]), "ascending"),
        (np.full((60, 2), 0.5), np.array([-1.0, 1.0]), "expected times >= 0"),
        (np.full((60, 1), 0.5), np.array([0.0]), "the last one > 0"),
        (np.full((60, 3), 0.5), np.array([1.0, 2.0]), "survival has shape"),
        (np.full((60, 2), 1.5), np.array([1.0, 2.0]), "outside"),
        (np.tile([0.4, 0.5], (60, 1)), np.array([1.0, 2.0]), "rises over time in 60 row"),
    ],
)
@pytest.mark.parametrize("function", [d_calibration, log_score])
def test_bad_curves_are_refused(function, survival, times, message):
    time, event, _ = cohort(26)
    with pytest.raises(MetricError, match=message):
        function(time, event, survival, times)


def test_tests_are_chosen_and_refused_by_name():
    time, event, signal = cohort(27)
    for function, data, published in (
        (d_calibration, (curves(signal), TIMES), "pearson"),
        (one_calibration, (chance(signal), HORIZON), "dagostino_nam"),
    ):
        with pytest.raises(MetricError, match='use test="robust"'):
            function(time, event, *data, weights=np.ones(60), test=published)
        with pytest.raises(MetricError, match=r"unknown test 'robus'\. Did you mean 'robust'"):
            function(time, event, *data, test="robus")


def test_competing_events_are_refused_where_they_have_no_meaning():
    time, event, signal = cohort(28, competing=True)
    for function in (calibration_slope, integrated_calibration_index):
        with pytest.raises(MetricError, match="does not know competing events"):
            function(time, event, chance(signal), HORIZON, cause=1)
        alone = np.where(event == 1, 3, 0)
        assert (
            function(time, alone, chance(signal), HORIZON, cause=3).estimate
            == function(time, event, chance(signal), HORIZON).estimate
        )
