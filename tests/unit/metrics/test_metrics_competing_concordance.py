from __future__ import annotations

import numpy as np
import pytest

from concordant.core.survival import Outcomes
from concordant.metrics import (
    compare_concordance_ipcw,
    concordance_index,
    concordance_index_ipcw,
    joint_covariance,
    subtract,
)
from survival_fixture import jackknife


def cohort(seed, n=50, *, ties=True):
    """Outcomes of two causes, about a quarter censored, and a risk of the first."""
    generator = np.random.default_rng(seed)
    signal = generator.normal(size=n)
    first, second, censored = (
        generator.exponential(size=n) * scale for scale in (np.exp(-signal), 1.5, 2.0)
    )
    time = np.minimum(np.minimum(first, second), censored)
    event = np.select([time == first, time == second], [1, 2], 0)
    risk = signal + generator.normal(size=n)
    if ties:
        time, risk = np.ceil(time * 6), np.round(risk, 1)
    return time + 0.5, event, risk


def slow_censoring(time, event, at, weights, *, left):
    """G(at-), or G(at), by the definition.

    Events of any kind leave before the censorings of the same time.
    """
    g = 1.0
    for s in np.unique(time[event == 0]):
        if s < at or (s == at and not left):
            q = weights[(time == s) & (event == 0)].sum()
            g *= 1 - q / (weights[time > s].sum() + q)
    return g


def slow_concordance(
    time,
    event,
    risk,
    cause,
    *,
    tau=np.inf,
    weights=None,
    cluster=None,
    convention="default",
    curve=None,
):
    """Every ordered pair, one at a time, with the weights of Wolbers et al.

    And our rule for tied times.
    """
    w = np.ones(len(time)) if weights is None else weights
    curve_time, curve_event, curve_weights = (
        (time, event, w) if curve is None else (*curve, np.ones(len(curve[0])))
    )
    g = np.array(
        [
            slow_censoring(curve_time, curve_event, t, curve_weights, left=convention == "default")
            for t in time
        ]
    )
    credit = total = pairs = 0.0
    for i in np.flatnonzero((event == cause) & (time < tau)):
        for j in range(len(time)):
            if i == j or (cluster is not None and cluster[i] == cluster[j]):
                continue
            other = event[j] not in (0, cause)
            if time[j] > time[i] or (time[j] == time[i] and event[j] != cause):
                weight = w[i] * w[j] / g[i] ** 2
            elif other:  # before the case
                weight = w[i] * w[j] / (g[i] * g[j])
            else:
                continue
            pairs += 1
            total += weight
            credit += weight * (1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0)
    return credit / total, pairs


@pytest.mark.parametrize("cause", [1, 2])
@pytest.mark.parametrize("tau", [None, 7.5])
@pytest.mark.parametrize("convention", ["default", "sksurv"])
@pytest.mark.parametrize("clustered", [False, True])
def test_uno_of_a_cause_equals_the_pairwise_definition(cause, tau, convention, clustered):
    time, event, risk = cohort(1)
    event[np.argmax(time)] = cause  # G(T) stays above 0
    generator = np.random.default_rng(2)
    weights, cluster = (
        generator.uniform(0.5, 2, len(time)),
        generator.integers(0, 20, len(time)) if clustered else None,
    )
    result = concordance_index_ipcw(
        time,
        event,
        risk,
        tau=tau,
        convention=convention,
        weights=weights,
        cluster=cluster,
        cause=cause,
    )
    limit = np.inf if tau is None else tau
    slow, pairs = slow_concordance(
        time, event, risk, cause, tau=limit, weights=weights, cluster=cluster, convention=convention
    )
    assert result.estimate == pytest.approx(slow, abs=1e-13)
    assert result.n_pairs == pairs
    every = slow_concordance(
        time, event, risk, cause, weights=weights, cluster=cluster, convention=convention
    )[1]
    assert result.pairs_kept == pytest.approx(pairs / every)


@pytest.mark.parametrize("pooled", [False, True])
def test_another_cohort_s_censoring_curve_weighs_the_competitors_too(pooled):
    time, event, risk = cohort(3)
    other = cohort(4, n=70)[:2]
    result = concordance_index_ipcw(
        time, event, risk, tau=6.0, censoring=other, pooled=pooled, cause=1
    )
    curve = (
        tuple(np.concatenate(both) for both in zip((time, event), other, strict=True))
        if pooled
        else other
    )
    assert result.estimate == pytest.approx(
        slow_concordance(time, event, risk, 1, tau=6.0, curve=curve)[0], abs=1e-13
    )


@pytest.mark.parametrize("clustered", [False, True])
@pytest.mark.parametrize("tau", [None, 7.5])
def test_the_influence_is_the_derivative_by_the_weights(clustered, tau):
    time, event, risk = cohort(5, n=40)
    generator = np.random.default_rng(6)
    weights = generator.uniform(0.5, 2, len(time))
    options = {
        "tau": tau,
        "cluster": generator.integers(0, 15, len(time)) if clustered else None,
        "cause": 1,
    }
    result = concordance_index_ipcw(time, event, risk, weights=weights, **options)
    step = 1e-5
    for k in range(len(time)):
        up, down = (
            concordance_index_ipcw(
                time, event, risk, weights=weights + sign * step * (np.arange(40) == k), **options
            ).estimate
            for sign in (1, -1)
        )
        assert result.influence[k] == pytest.approx(weights[k] * (up - down) / (2 * step), abs=1e-8)
    assert abs(result.influence.sum()) < 1e-13


@pytest.mark.parametrize("seed", range(2))
def test_standard_errors_are_near_the_leave_one_out_jackknife(seed):
    time, event, risk = cohort(seed + 7, n=150, ties=seed == 0)
    other = risk + np.random.default_rng(seed).normal(size=len(risk))
    tau = float(np.quantile(time, 0.85))

    def value(rows):
        return concordance_index_ipcw(
            time[rows], event[rows], risk[rows], tau=tau, cause=1
        ).estimate

    def difference(rows):
        return compare_concordance_ipcw(
            time[rows], event[rows], risk[rows], other[rows], tau=tau, cause=1
        ).difference

    single = concordance_index_ipcw(time, event, risk, tau=tau, cause=1)
    paired = compare_concordance_ipcw(time, event, risk, other, tau=tau, cause=1)
    assert 0.95 < single.standard_error / jackknife(value, len(time)) < 1.03
    assert 0.95 < paired.standard_error / jackknife(difference, len(time)) < 1.03


def test_without_censoring_it_is_harrell_s_with_competitors_followed_for_ever():
    time, event, risk = cohort(9)
    event[event == 0] = 2
    plain, weighted = (
        function(time, event, risk, cause=1)
        for function in (concordance_index, concordance_index_ipcw)
    )
    assert weighted.estimate == pytest.approx(plain.estimate, abs=1e-14)
    np.testing.assert_allclose(weighted.influence, plain.influence, rtol=0, atol=1e-14)
    assert (weighted.n_pairs, weighted.pairs_kept) == (plain.n_pairs, 1.0)


def test_without_competing_events_a_cause_changes_nothing():
    time, event, risk = cohort(10)
    event[event == 2] = 0
    plain, of_cause = (
        concordance_index_ipcw(time, event, risk, cause=cause) for cause in (None, 1)
    )
    assert of_cause.estimate == plain.estimate
    np.testing.assert_array_equal(of_cause.influence, plain.influence)


def test_it_tends_to_the_index_without_censoring():
    generator = np.random.default_rng(12)
    n = 100_000
    signal = generator.normal(size=n)
    first, second = (
        generator.exponential(np.exp(-signal)),
        generator.exponential(np.exp(-0.5 * signal)),
    )
    time, event = np.minimum(first, second), np.where(first < second, 1, 2)
    censored = generator.exponential(1.5, size=n)
    seen, code = np.minimum(time, censored), np.where(time <= censored, event, 0)
    is_case = (event == 1) & (time < 1)
    until_tau = (
        np.where(is_case | (event == 2), time, 1.0),
        np.where(is_case | (event == 2), event, 0),
    )
    truth = concordance_index(*until_tau, signal, cause=1)
    found = concordance_index_ipcw(seen, code, signal, tau=1.0, cause=1)
    assert found.estimate == pytest.approx(truth.estimate, abs=4 * found.standard_error)


@pytest.mark.parametrize("cause", [None, 1])
@pytest.mark.parametrize("external", [False, True])
def test_a_comparison_is_the_paired_difference_of_the_two(cause, external):
    time, event, risk = cohort(11)
    other = -0.5 * risk + np.random.default_rng(0).normal(size=len(risk))
    options = {
        "tau": 5.0,
        "cause": cause,
        "censoring": Outcomes(*cohort(13, n=90)[:2]) if external else None,
    }
    result = compare_concordance_ipcw(time, event, risk, other, **options)
    a, b = (concordance_index_ipcw(time, event, one, **options) for one in (risk, other))
    assert result.difference == a.estimate - b.estimate
    assert result.standard_error == subtract(a, b).standard_error
    contrast = np.array([1.0, -1.0])
    assert np.sqrt(contrast @ joint_covariance([a, b]) @ contrast) == pytest.approx(
        result.standard_error, rel=1e-10
    )
    assert (result.censoring_influence.size > 0) == external
    itself = compare_concordance_ipcw(time, event, risk, np.exp(risk), **options)
    assert (itself.difference, itself.standard_error, itself.p_value) == (0.0, 0.0, 1.0)
