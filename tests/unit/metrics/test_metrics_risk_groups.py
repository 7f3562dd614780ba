from __future__ import annotations

import numpy as np
import pytest

from concordant.core.errors import MetricError
from concordant.metrics import kaplan_meier, log_rank, risk_groups
from concordant.metrics.restricted_mean import restricted_mean, restricted_mean_difference


def cohort(seed, n=90):
    generator = np.random.default_rng(seed)
    risk = generator.normal(size=n)
    time, censored = generator.exponential(np.exp(-risk)), generator.exponential(2, size=n)
    return np.ceil(np.minimum(time, censored) * 10), (time <= censored).astype(int), risk


def slow_log_rank(time, event, group):
    """Observed, expected and covariance, one event time at a time."""
    labels = np.unique(group)
    excess, covariance = np.zeros(len(labels)), np.zeros((len(labels), len(labels)))
    for t in np.unique(time[event == 1]):
        risk_set = np.array([((time >= t) & (group == g)).sum() for g in labels], float)
        events = np.array(
            [((time == t) & (event == 1) & (group == g)).sum() for g in labels], float
        )
        n, d = risk_set.sum(), events.sum()
        excess += events - d * risk_set / n
        if n > 1:
            covariance += (
                d
                * (n - d)
                / (n - 1)
                * (np.diag(risk_set / n) - np.outer(risk_set, risk_set) / n**2)
            )
    return excess[1:] @ np.linalg.solve(covariance[1:, 1:], excess[1:])


@pytest.mark.parametrize("seed", range(3))
def test_log_rank_equals_the_definition(seed):
    time, event, _ = cohort(seed)
    group = np.random.default_rng(seed).choice(["a", "b", "c"], len(time))
    result = log_rank(time, event, group)
    assert result.statistic == pytest.approx(slow_log_rank(time, event, group), rel=1e-10)
    assert result.degrees == 2
    assert result.observed.sum() == event.sum()
    assert result.expected.sum() == pytest.approx(event.sum())


def test_a_group_that_has_left_before_the_first_event_has_no_degree_of_freedom():
    time, event, group = (
        np.array([5.0, 6, 7, 8, 1, 1, 1]),
        np.array([1, 1, 1, 0, 0, 0, 0]),
        np.array([0, 0, 1, 1, 2, 2, 2]),
    )
    whole, rest = log_rank(time, event, group), log_rank(time[:4], event[:4], group[:4])
    assert (whole.degrees, whole.statistic, whole.p_value) == (
        1,
        pytest.approx(rest.statistic),
        pytest.approx(rest.p_value),
    )
    assert whole.observed.tolist() == [2, 1, 0]
    assert whole.expected[2] == 0
    one_left = log_rank(time[[0, 1, 4, 5]], event[[0, 1, 4, 5]], group[[0, 1, 4, 5]])
    assert (one_left.statistic, one_left.degrees, one_left.p_value) == (0.0, 0, 1.0)


def test_tertiles_of_risk_are_ordered_and_differ():
    time, event, risk = cohort(4)
    result = risk_groups(time, event, risk)
    assert np.bincount(result.group).tolist() == [30, 30, 30]
    assert [risk[result.group == k].max() for k in range(2)] < [
        risk[result.group == k].min() for k in (1, 2)
    ]
    assert result.log_rank.p_value < 0.001
    curves = [curve for curve in result.curves if curve is not None]
    at = np.array([5.0])
    assert curves[0].at(at) > curves[1].at(at) > curves[2].at(at)
    np.testing.assert_array_equal(
        curves[2].survival, kaplan_meier(time[result.group == 2], event[result.group == 2]).survival
    )


def test_thresholds_from_elsewhere_may_leave_a_group_empty():
    time, event, risk = cohort(5)
    result = risk_groups(time, event, risk, thresholds=[0.0, 100.0])
    assert result.curves[2] is None
    assert result.restricted_means[2] is None
    assert result.log_rank.degrees == 1
    low, high = result.restricted_means[:2]
    assert (
        result.restricted_mean_difference.difference == high.estimate - low.estimate
    )  # of the highest group that has subjects


def test_equal_risks_stay_in_one_group():
    time, event, risk = cohort(6)
    result = risk_groups(time, event, np.round(risk))
    assert all(
        len(np.unique(result.group[np.round(risk) == value])) == 1
        for value in np.unique(np.round(risk))
    )


def test_restricted_means_are_those_of_each_group_by_itself():
    time, event, risk = cohort(8)
    result = risk_groups(time, event, risk, tau=6.0)
    parts = [
        restricted_mean(time[result.group == k], event[result.group == k], 6.0) for k in range(3)
    ]
    for inside, alone in zip(result.restricted_means, parts, strict=True):
        assert inside.estimate == pytest.approx(alone.estimate, rel=1e-13)
        assert inside.standard_error == pytest.approx(alone.standard_error, rel=1e-12)
        assert (inside.n, inside.n_events) == (alone.n, alone.n_events)
    ends = result.group != 1
    pair = restricted_mean_difference(time[ends], event[ends], result.group[ends], 6.0)
    difference = result.restricted_mean_difference
    assert difference.difference == pytest.approx(pair.difference, rel=1e-12)
    assert difference.difference < 0  # those of highest risk live shorter
    assert difference.standard_error == pytest.approx(pair.standard_error, rel=1e-12)
    assert difference.influence.shape == time.shape
    assert (difference.n, difference.n_events) == (pair.n, pair.n_events)


def test_tau_is_by_default_the_largest_supported_by_all_groups_and_stated():
    time, event, risk = cohort(9)
    whole = risk_groups(time, event, risk)
    ends = []
    for k, curve in enumerate(whole.curves):
        if curve.survival[-1] > 0:
            ends.append(time[whole.group == k].max())
    assert whole.tau == min(ends) == whole.restricted_mean_difference.tau
    assert all(mean.tau == whole.tau for mean in whole.restricted_means)
    with pytest.raises(
        MetricError, match=f"the largest tau supported by all 3 groups is {whole.tau:g}"
    ):
        risk_groups(time, event, risk, tau=whole.tau + 1)


def test_scans_of_one_subject_are_one_cluster_of_the_restricted_means():
    time, event, risk = cohort(10)
    twice = [np.repeat(array, 2) for array in (time, event, risk)]
    single = risk_groups(time, event, risk, thresholds=[0.0], tau=5.0).restricted_mean_difference
    double = risk_groups(
        *twice, thresholds=[0.0], tau=5.0, cluster=np.repeat(np.arange(90), 2)
    ).restricted_mean_difference
    assert double.difference == pytest.approx(single.difference, rel=1e-12)
    assert double.standard_error == pytest.approx(single.standard_error, rel=1e-12)


def test_bad_input_is_refused():
    time, event, risk = cohort(7)
    with pytest.raises(MetricError, match="two groups"):
        risk_groups(time, event, np.zeros(len(time)))
    with pytest.raises(MetricError, match="groups is 1"):
        risk_groups(time, event, risk, groups=1)
    with pytest.raises(MetricError, match="ascend"):
        risk_groups(time, event, risk, thresholds=[1.0, 0.0])
    with pytest.raises(MetricError, match="tau is 0; expected a finite time > 0"):
        risk_groups(time, event, risk, tau=0)
    with pytest.raises(MetricError, match="and an event"):
        log_rank(time, np.zeros(len(time), int), risk > 0)
    with pytest.raises(MetricError, match="group has shape"):
        log_rank(time, event, np.array([0, 1]))
