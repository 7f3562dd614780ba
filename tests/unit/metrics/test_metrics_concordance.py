from __future__ import annotations

import numpy as np
import pytest

from concordant.core.errors import MetricError
from concordant.core.survival import Outcomes
from concordant.metrics import (
    compare_concordance,
    concordance_covariance,
    concordance_index,
    concordance_index_ipcw,
)
from concordant.metrics.inference import critical_value
from survival_fixture import jackknife


def cohort(seed, n=60, *, ties=True):
    generator = np.random.default_rng(seed)
    signal = generator.normal(size=n)
    time, censored = generator.exponential(np.exp(-signal)), generator.exponential(1.5, size=n)
    event = (time <= censored).astype(np.int64)
    time = np.minimum(time, censored)
    risk = signal + generator.normal(size=n)
    if ties:
        time, risk = np.ceil(time * 8), np.round(risk, 1)
    return time + 0.5, event, risk


def slow_concordance(time, event, risk, *, case_weight=None, weights=None, cluster=None):
    """Every ordered pair, one at a time."""
    n = len(time)
    w = np.ones(n) if weights is None else weights
    v = (event == 1).astype(float) if case_weight is None else case_weight
    credit, total, count = np.zeros(n), np.zeros(n), 0
    for i in range(n):
        for j in range(n):
            comparable = event[i] == 1 and (
                time[i] < time[j] or (time[i] == time[j] and event[j] != 1)
            )
            if (
                i == j
                or not comparable
                or (cluster is not None and cluster[i] == cluster[j])
                or v[i] == 0
            ):
                continue
            count += 1
            c = 1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
            for k in (i, j):
                credit[k] += w[i] * v[i] * w[j] * c
                total[k] += w[i] * v[i] * w[j]
    estimate = credit.sum() / total.sum()
    return estimate, 2 * (credit - estimate * total) / total.sum(), count


def slow_censoring(time, event, at, weights=None):
    """G(at-) by the definition: events leave before the censorings of the same time."""
    w = np.ones(len(time)) if weights is None else weights
    g = 1.0
    for s in np.unique(time[event != 1]):
        if s < at:
            q = w[(time == s) & (event != 1)].sum()
            g *= 1 - q / (w[time > s].sum() + q)
    return g


def inverse_squared(time, event, tau=np.inf):
    return np.array(
        [
            1 / slow_censoring(time, event, t) ** 2 if e == 1 and t < tau else 0.0
            for t, e in zip(time, event, strict=True)
        ]
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("clustered", [False, True])
def test_harrell_equals_the_pairwise_definition(seed, weighted, clustered):
    time, event, risk = cohort(seed)
    generator = np.random.default_rng(seed + 100)
    weights = generator.uniform(0.2, 3, len(time)) if weighted else None
    cluster = generator.integers(0, 15, len(time)) if clustered else None
    result = concordance_index(time, event, risk, weights=weights, cluster=cluster)
    estimate, influence, count = slow_concordance(
        time, event, risk, weights=weights, cluster=cluster
    )
    np.testing.assert_allclose(result.estimate, estimate, rtol=0, atol=1e-14)
    np.testing.assert_allclose(result.influence, influence, rtol=0, atol=1e-14)
    assert result.n_pairs == count
    grouped = influence if cluster is None else np.bincount(cluster, weights=influence)
    np.testing.assert_allclose(result.standard_error, np.sqrt(grouped @ grouped), rtol=1e-12)
    assert abs(result.influence.sum()) < 1e-14


@pytest.mark.parametrize("tau", [None, 6.5])
@pytest.mark.parametrize("clustered", [False, True])
def test_uno_with_a_known_censoring_curve_equals_the_pairwise_definition(tau, clustered):
    time, event, risk = cohort(5)
    cluster = np.random.default_rng(1).integers(0, 20, len(time)) if clustered else None
    itself = Outcomes(time, event)  # as another cohort: its part of the influence comes apart
    result = concordance_index_ipcw(time, event, risk, tau=tau, censoring=itself, cluster=cluster)
    weight = inverse_squared(time, event, np.inf if tau is None else tau)
    estimate, influence, count = slow_concordance(
        time, event, risk, case_weight=weight, cluster=cluster
    )
    np.testing.assert_allclose(result.estimate, estimate, rtol=0, atol=1e-13)
    np.testing.assert_allclose(result.influence, influence, rtol=0, atol=1e-13)
    assert result.n_pairs == count
    assert result.pairs_kept == pytest.approx(
        count / slow_concordance(time, event, risk, cluster=cluster)[2]
    )
    assert result.tau == (np.inf if tau is None else tau)


@pytest.mark.parametrize("convention", ["default", "sksurv"])
@pytest.mark.parametrize("tau", [None, 7.5])
def test_uno_influence_is_the_derivative_by_the_weights(convention, tau):
    time, event, risk = cohort(11, n=40)
    event[np.argmax(time)] = 1  # the last one: G(T) stays above 0
    weights = np.random.default_rng(2).uniform(0.5, 2, len(time))

    def value(w):
        return concordance_index_ipcw(
            time, event, risk, tau=tau, convention=convention, weights=w
        ).estimate

    result = concordance_index_ipcw(
        time, event, risk, tau=tau, convention=convention, weights=weights
    )
    step = 1e-5
    for k in range(len(time)):
        up, down = weights.copy(), weights.copy()
        up[k] += step
        down[k] -= step
        derivative = (value(up) - value(down)) / (2 * step)
        assert result.influence[k] == pytest.approx(weights[k] * derivative, abs=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_standard_errors_are_near_the_leave_one_out_jackknife(seed):
    time, event, risk = cohort(seed + 20, n=120, ties=seed == 0)
    other = risk + np.random.default_rng(seed).normal(size=len(risk))
    tau = np.quantile(time, 0.9)

    def harrell(rows):
        return concordance_index(time[rows], event[rows], risk[rows]).estimate

    def difference(rows):
        return compare_concordance(time[rows], event[rows], risk[rows], other[rows]).difference

    def uno(rows):
        return concordance_index_ipcw(time[rows], event[rows], risk[rows], tau=tau).estimate

    n = len(time)
    assert concordance_index(time, event, risk).standard_error / jackknife(
        harrell, n
    ) == pytest.approx(0.985, abs=0.025)
    assert compare_concordance(time, event, risk, other).standard_error / jackknife(
        difference, n
    ) == pytest.approx(0.985, abs=0.025)
    assert (
        0.95
        < concordance_index_ipcw(time, event, risk, tau=tau).standard_error / jackknife(uno, n)
        < 1.03
    )


def test_an_external_censoring_curve_adds_its_own_variance():
    time, event, risk = cohort(31, n=100, ties=False)
    train = Outcomes(*cohort(32, n=400, ties=False)[:2])
    result = concordance_index_ipcw(time, event, risk, tau=1.2, censoring=train)
    left_out = []
    for k in range(400):
        without = train.take(np.delete(np.arange(400), k))
        left_out.append(
            result.estimate
            - concordance_index_ipcw(time, event, risk, tau=1.2, censoring=without).estimate
        )
    np.testing.assert_allclose(result.censoring_influence, left_out, rtol=0.03, atol=1e-6)
    assert np.corrcoef(result.censoring_influence, left_out)[0, 1] > 0.998
    assert result.standard_error**2 == pytest.approx(
        (result.influence**2).sum() + (result.censoring_influence**2).sum()
    )


def test_a_pooled_curve_of_a_cohort_with_itself_is_its_own_curve():
    time, event, risk = cohort(33)
    itself = Outcomes(time, event)
    pooled = concordance_index_ipcw(time, event, risk, censoring=itself, pooled=True)
    alone = concordance_index_ipcw(time, event, risk)
    assert pooled.estimate == pytest.approx(alone.estimate, abs=1e-13)
    np.testing.assert_allclose(
        pooled.influence + pooled.censoring_influence, alone.influence, rtol=0, atol=1e-13
    )


def test_longer_follow_up_than_the_censoring_cohort_is_cut_and_reported():
    time, event, risk = cohort(34, n=80, ties=False)
    short = time < 1.2
    result = concordance_index_ipcw(
        time, event, risk, censoring=Outcomes(time[short], event[short])
    )
    late = time[(event == 1) & (time > time[short].max())]
    assert result.tau == late.min()
    assert 0 < result.pairs_kept < 1
    assert "of comparable pairs" in result.note
    again = concordance_index_ipcw(
        time, event, risk, tau=result.tau, censoring=Outcomes(time[short], event[short])
    )
    assert again.estimate == result.estimate


def test_without_censoring_uno_is_harrell():
    time, _, risk = cohort(35)
    event = np.ones(len(time), np.int64)
    harrell, uno = concordance_index(time, event, risk), concordance_index_ipcw(time, event, risk)
    assert uno.estimate == pytest.approx(harrell.estimate, abs=1e-15)
    np.testing.assert_allclose(uno.influence, harrell.influence, rtol=0, atol=1e-15)


def test_competing_events_count_as_censored():
    time, event, risk = cohort(36)
    competing = np.where((event == 0) & (np.arange(len(time)) % 2 == 0), 2, event)
    assert (
        concordance_index(time, competing, risk).estimate
        == concordance_index(time, event, risk).estimate
    )
    assert (
        concordance_index(time, event == 1, risk).estimate
        == concordance_index(time, event, risk).estimate
    )


@pytest.mark.parametrize("function", [concordance_index, concordance_index_ipcw])
def test_a_constant_risk_is_exactly_chance_without_error(function):
    time, event, _ = cohort(37)
    result = function(time, event, np.full(len(time), 0.3))
    assert result.estimate == 0.5
    assert result.standard_error == pytest.approx(0, abs=1e-16)


def test_comparison_is_the_difference_of_the_two():
    time, event, risk = cohort(38)
    other = -0.5 * risk + np.random.default_rng(0).normal(size=len(risk))
    result = compare_concordance(time, event, risk, other)
    joint = concordance_covariance(time, event, np.column_stack([risk, other]))
    assert result.difference == result.a.estimate - result.b.estimate
    assert joint.contrast(np.array([1.0, -1.0])).standard_error == pytest.approx(
        result.standard_error, rel=1e-12
    )
    variance = joint.covariance[0, 0] + joint.covariance[1, 1] - 2 * joint.covariance[0, 1]
    assert np.sqrt(variance) == pytest.approx(result.standard_error, rel=1e-10)
    low, high = result.interval(0.9)
    assert (low + high) / 2 == pytest.approx(result.difference)
    assert (high - low) / result.standard_error == pytest.approx(
        2 * critical_value(0.9, len(time) - 1)
    )


def test_a_model_does_not_differ_from_a_monotone_map_of_itself():
    time, event, risk = cohort(39)
    result = compare_concordance(time, event, risk, np.exp(risk))
    assert (result.difference, result.standard_error, result.p_value) == (0.0, 0.0, 1.0)


def test_risks_are_tied_only_when_they_are_equal():
    time, event, risk = cohort(40, ties=False)
    assert (
        concordance_index(time, event, risk * 1e-12).estimate
        == concordance_index(time, event, risk).estimate
    )


def test_scans_of_one_subject_are_not_compared_with_each_other():
    result = concordance_index(
        np.array([1.0, 2.0, 3.0]),
        np.array([1, 0, 0]),
        np.array([1.0, 5.0, 0.0]),
        cluster=np.array(["a", "a", "b"]),
    )
    assert (result.estimate, result.n_pairs) == (1.0, 1)


@pytest.mark.parametrize(
    ("time", "event", "risk", "message"),
    [
        ([1.0, 2.0], [1, 0], [1.0], "risk has shape"),
        ([1.0, 2.0], [1], [1.0, 2.0], "event has shape"),
        ([], [], [], "at least one"),
        ([[1.0, 2.0]], [[1, 0]], [[1.0, 2.0]], "time has shape"),
        ([1.0, 2.0], [1, 0], [1.0, np.nan], "NaN or infinite"),
        ([1.0, 2.0], [1, 0], [1.0, np.inf], "NaN or infinite"),
        ([0.0, 2.0], [1, 0], [1.0, 2.0], "not finite and > 0"),
        ([np.nan, 2.0], [1, 0], [1.0, 2.0], "not finite and > 0"),
        ([1.0, 2.0], [np.nan, 1.0], [1.0, 2.0], "event has 1 code"),
        ([1.0, 2.0], [0, 0], [1.0, 2.0], "none of the 2 rows has event 1"),
        ([1.0, 2.0], [0, 1], [1.0, 2.0], "no comparable pair"),
        ([1.0, 1.0], [1, 1], [1.0, 2.0], "no comparable pair"),
    ],
)
@pytest.mark.parametrize("function", [concordance_index, concordance_index_ipcw])
def test_bad_input_is_refused(function, time, event, risk, message):
    with pytest.raises(MetricError, match=message):
        function(np.array(time), np.array(event), np.array(risk))


@pytest.mark.parametrize("cause", [None, 1])
@pytest.mark.parametrize("function", [concordance_index, concordance_index_ipcw])
def test_pairs_with_a_row_of_weight_zero_are_not_counted(function, cause):
    generator = np.random.default_rng(42)
    time, event = generator.integers(1, 9, 50).astype(float), generator.integers(0, 3, 50)
    risk, kept = generator.normal(size=50), generator.random(50) < 0.6
    options = (
        {"cause": cause, "tau": 6.0} if function is concordance_index_ipcw else {"cause": cause}
    )
    whole, part = (
        function(time, event, risk, weights=kept, **options),
        function(time[kept], event[kept], risk[kept], **options),
    )
    assert (whole.n_pairs, whole.pairs_kept) == (part.n_pairs, part.pairs_kept)
    assert whole.estimate == pytest.approx(part.estimate, abs=1e-14)


def test_other_bad_options_are_refused():
    time, event, risk = cohort(41)
    with pytest.raises(MetricError, match="no comparable pair"):
        concordance_index(time, event, risk, cluster=np.zeros(len(time)))
    with pytest.raises(MetricError, match="weights must be"):
        concordance_index(time, event, risk, weights=-np.ones(len(time)))
    with pytest.raises(MetricError, match="cluster has shape"):
        concordance_index(time, event, risk, cluster=np.zeros(3))
    with pytest.raises(MetricError, match="Did you mean 'sksurv'"):
        concordance_index_ipcw(time, event, risk, convention="skurv")
    with pytest.raises(MetricError, match="no comparable pair"):
        concordance_index_ipcw(time, event, risk, tau=0.1)
    with pytest.raises(MetricError, match="pooled=True needs"):
        concordance_index_ipcw(time, event, risk, pooled=True)
    with pytest.raises(MetricError, match=r"expected \(subject, model\)"):
        concordance_covariance(time, event, np.zeros((len(time), 0)))
    with pytest.raises(MetricError, match="1 coefficient"):
        concordance_covariance(time, event, np.column_stack([risk, -risk])).contrast(
            np.array([1.0])
        )
    with pytest.raises(MetricError, match="level is 95"):
        concordance_index(time, event, risk).interval(95)


def slow_competing(time, event, risk, cause):
    """All pairs of a case and a control; who had another event is a control of every case."""
    credit = total = 0.0
    for i in np.flatnonzero(event == cause):
        for j in range(len(time)):
            other = event[j] not in (0, cause)
            if i != j and (other or time[i] < time[j] or (time[i] == time[j] and event[j] == 0)):
                total += 1
                credit += 1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
    return credit / total


@pytest.mark.parametrize("cause", [1, 2])
def test_a_competing_event_makes_a_control_of_every_case(cause):
    generator = np.random.default_rng(11)
    time, event = generator.integers(1, 12, 60).astype(float), generator.integers(0, 4, 60)
    risk, weights = generator.integers(0, 9, 60).astype(float), generator.uniform(0.5, 2, 60)
    assert concordance_index(time, event, risk, cause=cause).estimate == pytest.approx(
        slow_competing(time, event, risk, cause), abs=1e-14
    )
    result = concordance_index(time, event, risk, cause=cause, weights=weights)
    step = 1e-5
    for k in range(0, 60, 7):
        moved = [
            concordance_index(
                time, event, risk, cause=cause, weights=weights + sign * step * (np.arange(60) == k)
            ).estimate
            for sign in (1, -1)
        ]
        assert result.influence[k] == pytest.approx(
            weights[k] * (moved[0] - moved[1]) / (2 * step), abs=1e-8
        )


@pytest.mark.parametrize(
    "event", [np.array([1, -1, 0]), np.array([1, 0.5, 0]), np.array(["yes", "no", "no"])]
)
def test_event_codes_outside_the_declared_set_are_refused(event):
    with pytest.raises(MetricError, match=r"event (has|holds)"):
        concordance_index(np.array([1.0, 2.0, 3.0]), event, np.zeros(3))


def test_a_cause_that_is_no_event_is_refused():
    with pytest.raises(MetricError, match="cause is 0"):
        concordance_index(np.array([1.0, 2.0]), np.array([1, 0]), np.zeros(2), cause=0)


def test_another_cohort_is_a_pair_or_a_target():
    generator = np.random.default_rng(12)
    time, event, risk = (
        generator.exponential(size=50),
        generator.integers(0, 2, 50),
        generator.normal(size=50),
    )
    pair = concordance_index_ipcw(time, event, risk, censoring=(time * 2, event))
    assert (
        pair.estimate
        == concordance_index_ipcw(time, event, risk, censoring=Outcomes(time * 2, event)).estimate
    )
    with pytest.raises(MetricError, match="pair of another cohort"):
        concordance_index_ipcw(time, event, risk, censoring=time)
