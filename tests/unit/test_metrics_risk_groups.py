from __future__ import annotations

import numpy as np
import pytest

from concordant.core.errors import MetricError
from concordant.metrics import kaplan_meier, log_rank, risk_groups


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
        events = np.array([((time == t) & (event == 1) & (group == g)).sum() for g in labels], float)
        n, d = risk_set.sum(), events.sum()
        excess += events - d * risk_set / n
        if n > 1:
            covariance += d * (n - d) / (n - 1) * (np.diag(risk_set / n) - np.outer(risk_set, risk_set) / n**2)
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


def test_tertiles_of_risk_are_ordered_and_differ():
    time, event, risk = cohort(4)
    result = risk_groups(time, event, risk)
    assert np.bincount(result.group).tolist() == [30, 30, 30]
    assert [risk[result.group == k].max() for k in range(2)] < [risk[result.group == k].min() for k in (1, 2)]
    assert result.log_rank.p_value < 0.001
    curves = [curve for curve in result.curves if curve is not None]
    at = np.array([5.0])
    assert curves[0].at(at) > curves[1].at(at) > curves[2].at(at)
    np.testing.assert_array_equal(curves[2].survival, kaplan_meier(time[result.group == 2], event[result.group == 2]).survival)


def test_thresholds_from_elsewhere_may_leave_a_group_empty():
    time, event, risk = cohort(5)
    result = risk_groups(time, event, risk, thresholds=[0.0, 100.0])
    assert result.curves[2] is None
    assert result.log_rank.degrees == 1


def test_equal_risks_stay_in_one_group():
    time, event, risk = cohort(6)
    result = risk_groups(time, event, np.round(risk))
    assert all(len(np.unique(result.group[np.round(risk) == value])) == 1 for value in np.unique(np.round(risk)))


def test_bad_input_is_refused():
    time, event, risk = cohort(7)
    with pytest.raises(MetricError, match="two groups"):
        risk_groups(time, event, np.zeros(len(time)))
    with pytest.raises(MetricError, match="groups is 1"):
        risk_groups(time, event, risk, groups=1)
    with pytest.raises(MetricError, match="ascend"):
        risk_groups(time, event, risk, thresholds=[1.0, 0.0])
    with pytest.raises(MetricError, match="and an event"):
        log_rank(time, np.zeros(len(time), int), risk > 0)
    with pytest.raises(MetricError, match="group has shape"):
        log_rank(time, event, np.array([0, 1]))
