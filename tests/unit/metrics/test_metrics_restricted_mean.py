from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concordant.core.errors import MetricError
from concordant.metrics.restricted_mean import restricted_mean, restricted_mean_difference

FEW = settings(max_examples=30, deadline=None, derandomize=True)


def cohort(seed, n=60):
    generator = np.random.default_rng(seed)
    time = np.ceil(generator.exponential(size=n) * 10)
    time[:4] = 60.0  # someone is followed for long in either group
    event = generator.choice([0, 1, 2], size=n, p=[0.3, 0.5, 0.2])
    event[:4] = 0
    return time, event, np.arange(n) % 2, generator.integers(0, n // 3, n)


@st.composite
def cohorts(draw):
    """Small cohorts full of ties, with two groups."""
    n = draw(st.integers(2, 25))
    time = np.array(draw(st.lists(st.integers(1, 8), min_size=n, max_size=n)), float)
    event = np.array(draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)))
    return time, event, np.arange(n) % 2


def slow_area(time, event, tau, weights=None):
    """Sum the rectangles under the curve one by one."""
    weights = np.ones(len(time)) if weights is None else weights
    area, survival, since = 0.0, 1.0, 0.0
    for s in np.unique(time[event == 1]):
        if s < tau and weights[time >= s].sum() > 0:
            area += survival * (s - since)
            survival *= 1 - weights[(time == s) & (event == 1)].sum() / weights[time >= s].sum()
            since = s
    return area + survival * (tau - since)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("tau", [0.5, 7.0, 12.5, 60.0])
def test_it_is_the_area_under_the_curve(seed, tau):
    time, event, _, _ = cohort(seed)
    weights = np.random.default_rng(seed).uniform(0.5, 2, len(time))
    result = restricted_mean(time, event, tau, weights=weights)
    assert result.estimate == pytest.approx(slow_area(time, event, tau, weights), rel=1e-13)
    assert abs(result.influence.sum()) < 1e-12
    assert (result.tau, result.note, result.n, result.n_events) == (
        tau,
        f"until {tau:g}",
        60,
        (event == 1).sum(),
    )


@pytest.mark.parametrize("tau", [7.0, 12.5, 60.0])
def test_influence_is_the_derivative_by_the_weights(tau):
    time, event, _, _ = cohort(3, n=30)
    weights = np.random.default_rng(4).uniform(0.5, 2, len(time))
    result = restricted_mean(time, event, tau, weights=weights)
    for k in range(len(time)):
        step = 1e-5 * (np.arange(len(time)) == k)
        up, down = (slow_area(time, event, tau, weights + sign * step) for sign in (1, -1))
        assert result.influence[k] == pytest.approx(weights[k] * (up - down) / 2e-5, abs=1e-7)


def test_standard_error_is_near_the_leave_one_out_jackknife():
    time, event, _, _ = cohort(5, n=150)
    n = len(time)
    left_out = np.array(
        [slow_area(np.delete(time, k), np.delete(event, k), 15.0) for k in range(n)]
    )
    jackknife = np.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum())
    assert restricted_mean(time, event, 15.0).standard_error / jackknife == pytest.approx(
        1, abs=0.02
    )


def test_without_censoring_it_is_the_mean_of_the_times_cut_at_tau():
    time, _, _, _ = cohort(6)
    result = restricted_mean(time, np.ones(60, int), 9.0)
    cut = np.minimum(time, 9.0)
    assert result.estimate == pytest.approx(cut.mean(), rel=1e-14)
    assert result.standard_error == pytest.approx(cut.std() / np.sqrt(60), rel=1e-12)
    assert restricted_mean(time, np.ones(60, int), 1000.0).estimate == pytest.approx(
        time.mean(), rel=1e-14
    )  # the curve has reached 0


def test_nobody_with_the_event_lives_until_tau():
    result = restricted_mean(np.array([5.0, 6.0]), np.array([0, 2]), 4.0)
    assert (result.estimate, result.standard_error) == (4.0, 0.0)


def test_a_difference_is_that_of_two_separate_cohorts():
    time, event, group, _ = cohort(7)
    result = restricted_mean_difference(
        time, event, np.where(group == 1, "treated", "control"), 12.0
    )
    control, treated = (restricted_mean(time[group == k], event[group == k], 12.0) for k in (0, 1))
    assert result.difference == pytest.approx(treated.estimate - control.estimate, rel=1e-12)
    assert result.standard_error == pytest.approx(
        np.hypot(treated.standard_error, control.standard_error), rel=1e-12
    )
    assert (result.tau, result.n, result.n_events) == (12.0, 60, (event == 1).sum())


def test_clusters_shared_across_groups_are_summed():
    time, event, group, cluster = cohort(8)
    weights = np.random.default_rng(9).uniform(0.5, 2, len(time))
    result = restricted_mean_difference(time, event, group, 12.0, weights=weights, cluster=cluster)

    def difference(w):
        return slow_area(time[group == 1], event[group == 1], 12.0, w[group == 1]) - slow_area(
            time[group == 0], event[group == 0], 12.0, w[group == 0]
        )

    by_cluster = [
        (
            difference(weights * (1 + 1e-5 * (cluster == one)))
            - difference(weights * (1 - 1e-5 * (cluster == one)))
        )
        / 2e-5
        for one in np.unique(cluster)
    ]
    assert result.standard_error == pytest.approx(np.sqrt(np.square(by_cluster).sum()), rel=1e-7)


def test_the_same_subjects_in_both_groups_do_not_differ():
    time, event, _, _ = cohort(10)
    twice = [np.tile(array, 2) for array in (time, event, np.arange(60))]
    result = restricted_mean_difference(twice[0], twice[1], np.repeat([0, 1], 60), cluster=twice[2])
    assert (result.difference, result.p_value) == (0.0, 1.0)
    assert result.standard_error < 1e-12


def test_tau_is_by_default_the_largest_that_both_groups_support():
    time, event, group, _ = cohort(11)
    time[(group == 0) & (time == 60)] = 45.0
    assert restricted_mean_difference(time, event, group).tau == 45.0
    event[group == 0] = 1  # that curve reaches 0: the other one's follow-up is the limit
    assert restricted_mean_difference(time, event, group).tau == 60.0
    event[:] = 1
    assert restricted_mean_difference(time, event, group).tau == 60.0
    assert restricted_mean_difference(time, event, group, 500.0).difference == pytest.approx(
        time[group == 1].mean() - time[group == 0].mean(), rel=1e-12
    )


@FEW
@given(cohorts(), st.floats(0.1, 10))
def test_another_unit_of_time_scales_it(cohort, unit):
    time, event, group = cohort
    plain, scaled = (
        restricted_mean_difference(time, event, group),
        restricted_mean_difference(time * unit, event, group),
    )
    assert scaled.tau == plain.tau * unit
    assert scaled.difference == pytest.approx(plain.difference * unit, abs=1e-12)
    np.testing.assert_allclose(scaled.influence, plain.influence * unit, rtol=0, atol=1e-12)


@FEW
@given(cohorts(), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(cohort, random):
    time, event, group = cohort
    order = np.array(random.sample(range(len(time)), len(time)))
    plain, permuted = (
        restricted_mean_difference(time, event, group),
        restricted_mean_difference(time[order], event[order], group[order]),
    )
    assert permuted.difference == pytest.approx(plain.difference, abs=1e-13)
    np.testing.assert_allclose(permuted.influence, plain.influence[order], rtol=0, atol=1e-13)


@FEW
@given(cohorts(), st.data())
def test_a_weight_of_two_is_two_copies_in_one_cluster(cohort, data):
    time, event, group = cohort
    copies = np.array(
        data.draw(st.lists(st.integers(1, 3), min_size=len(time), max_size=len(time)))
    )
    rows = np.repeat(np.arange(len(time)), copies)
    weighted = restricted_mean_difference(time, event, group, weights=copies)
    copied = restricted_mean_difference(time[rows], event[rows], group[rows], cluster=rows)
    assert weighted.difference == pytest.approx(copied.difference, abs=1e-13)
    assert weighted.standard_error == pytest.approx(copied.standard_error, abs=1e-12)
    tau = weighted.tau
    assert restricted_mean(time, event, tau, weights=copies).standard_error == pytest.approx(
        restricted_mean(time[rows], event[rows], tau, cluster=rows).standard_error, abs=1e-12
    )


def test_bad_input_is_refused():
    time, event, group, _ = cohort(12)
    with pytest.raises(
        MetricError, match="tau is 61, but follow-up ends earlier; the largest tau supported is 60"
    ):
        restricted_mean(time, event, 61.0)
    time[(group == 0) & (time == 60)] = 45.0
    with pytest.raises(MetricError, match="the largest tau supported by all 2 groups is 45"):
        restricted_mean_difference(time, event, group, 61.0)
    for tau in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(MetricError, match=r"tau is .*; expected a finite time > 0"):
            restricted_mean(time, event, tau)
    with pytest.raises(MetricError, match="needs two groups; given 1"):
        restricted_mean_difference(time, event, np.zeros(60))
    with pytest.raises(MetricError, match="needs two groups; given 3"):
        restricted_mean_difference(time, event, np.arange(60) % 3)
    with pytest.raises(MetricError, match="needs two groups; given 1"):
        restricted_mean_difference(time, event, group, weights=(group == 0).astype(float))
    with pytest.raises(MetricError, match="group holds NaN"):
        restricted_mean_difference(time, event, np.where(group == 0, np.nan, 1.0))
    with pytest.raises(MetricError, match="group has shape"):
        restricted_mean_difference(time, event, group[:5])
    with pytest.raises(MetricError, match="not finite and > 0"):
        restricted_mean(-time, event, 5.0)
