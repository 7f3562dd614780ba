from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concordant.core.errors import MetricError
from concordant.metrics.competing_risks import event_probability
from concordant.metrics.inference import critical_value
from concordant.metrics.net_benefit import compare_net_benefit, net_benefit

FEW = settings(max_examples=30, deadline=None, derandomize=True)
THRESHOLDS = np.array([0.0, 0.2, 0.35, 0.6])
HORIZON = 6.0


def cohort(seed, n=80):
    """Two predictions of the event by the horizon; follow-up beyond it at every level of both."""
    generator = np.random.default_rng(seed)
    first = generator.uniform(0.05, 0.95, n)
    second = np.clip(first + generator.normal(size=n) * 0.2, 0, 1)
    time = np.ceil(generator.exponential(-HORIZON / np.log1p(-first)))
    event = generator.choice([0, 1, 2], size=n, p=[0.25, 0.55, 0.2])
    time[:8], event[:8], first[:8], second[:8] = 30.0, 0, 0.9, 0.95
    return time, event, np.round(first, 2), np.round(second, 2)


@st.composite
def cohorts(draw):
    """Small cohorts full of ties; someone followed beyond the horizon is always treated."""
    n = draw(st.integers(2, 25))
    time = np.array(draw(st.lists(st.integers(1, 8), min_size=n, max_size=n)), float)
    event = np.array(draw(st.lists(st.sampled_from([0, 1, 1, 2]), min_size=n, max_size=n)))
    predicted = np.array(draw(st.lists(st.integers(0, 10), min_size=n, max_size=n))) / 10
    time[0], event[0], predicted[0] = 9.0, 0, 1.0
    return time, event, predicted


def slow_net_benefit(time, event, predicted, horizon, threshold, *, cause=None, weights=None):
    """True positives less false ones, the curve inside those treated taken step by step."""
    weights = np.ones(len(time)) if weights is None else weights
    treated = predicted >= threshold
    wanted = event == (1 if cause is None else cause)
    ends = wanted if cause is None else event != 0
    free, probability = 1.0, 0.0
    for s in np.unique(time[ends & treated]):
        if s <= horizon:
            at_risk = weights[treated & (time >= s)].sum()
            probability += free * weights[treated & (time == s) & wanted].sum() / at_risk
            free *= 1 - weights[treated & (time == s) & ends].sum() / at_risk
    share = weights[treated].sum() / weights.sum()
    return share * probability - share * (1 - probability) * threshold / (1 - threshold)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("cause", [None, 1, 2])
def test_it_equals_the_definition(seed, cause):
    time, event, predicted, _ = cohort(seed)
    weights = np.random.default_rng(seed).uniform(0.5, 2, len(time))
    curve = net_benefit(time, event, predicted, HORIZON, THRESHOLDS, cause=cause, weights=weights)
    slow = [
        slow_net_benefit(time, event, predicted, HORIZON, p, cause=cause, weights=weights)
        for p in THRESHOLDS
    ]
    np.testing.assert_allclose(curve.estimate, slow, rtol=0, atol=1e-14)
    np.testing.assert_array_equal(curve.thresholds, THRESHOLDS)
    assert curve.unsupported.size == 0
    assert all(abs(point.influence.sum()) < 1e-14 for point in curve.points)
    everybody = [
        slow_net_benefit(time, event, np.ones(len(time)), HORIZON, p, cause=cause, weights=weights)
        for p in THRESHOLDS
    ]
    np.testing.assert_allclose(curve.treat_all, everybody, rtol=0, atol=1e-14)
    np.testing.assert_array_equal(curve.treat_none, np.zeros(4))


@pytest.mark.parametrize("cause", [None, 1])
def test_influence_is_the_derivative_by_the_weights(cause):
    time, event, first, second = cohort(3, n=40)
    weights = np.random.default_rng(4).uniform(0.5, 2, len(time))
    curve = net_benefit(time, event, first, HORIZON, THRESHOLDS, cause=cause, weights=weights)
    pair = compare_net_benefit(
        time, event, first, second, HORIZON, THRESHOLDS, cause=cause, weights=weights
    )

    def slow(predicted, threshold, w):
        return slow_net_benefit(time, event, predicted, HORIZON, threshold, cause=cause, weights=w)

    for k in range(len(time)):
        step = 1e-5 * (np.arange(len(time)) == k)
        for threshold, point, difference in zip(THRESHOLDS, curve.points, pair.points, strict=True):
            of_first, of_second = (
                weights[k]
                * (
                    slow(predicted, threshold, weights + step)
                    - slow(predicted, threshold, weights - step)
                )
                / 2e-5
                for predicted in (first, second)
            )
            assert point.influence[k] == pytest.approx(of_first, abs=1e-9)
            assert difference.influence[k] == pytest.approx(of_first - of_second, abs=1e-9)


def test_standard_errors_are_near_the_leave_one_out_jackknife():
    time, event, first, second = cohort(5, n=200)
    n = len(time)
    kept = [np.delete(np.arange(n), k) for k in range(n)]
    slow = np.array(
        [
            [slow_net_benefit(time[r], event[r], p[r], HORIZON, 0.35) for p in (first, second)]
            for r in kept
        ]
    )
    slow = np.column_stack([slow[:, 0], slow[:, 0] - slow[:, 1]])
    jackknife = np.sqrt((n - 1) / n * ((slow - slow.mean(0)) ** 2).sum(0))
    curve = net_benefit(time, event, first, HORIZON, [0.35])
    pair = compare_net_benefit(time, event, first, second, HORIZON, [0.35])
    assert curve.standard_error[0] / jackknife[0] == pytest.approx(1, abs=0.02)
    assert pair.standard_error[0] / jackknife[1] == pytest.approx(1, abs=0.04)


def test_without_censoring_it_counts_true_and_false_positives():
    time, _, predicted, _ = cohort(6)
    had_it = time <= HORIZON
    curve = net_benefit(time, np.ones(80, int), predicted, HORIZON, THRESHOLDS)
    value = np.array([(predicted >= p) * np.where(had_it, 1, -p / (1 - p)) for p in THRESHOLDS])
    np.testing.assert_allclose(curve.estimate, value.mean(1), rtol=0, atol=1e-14)
    np.testing.assert_allclose(curve.standard_error, value.std(1) / np.sqrt(80), rtol=1e-12)
    band = curve.interval(0.9)
    np.testing.assert_allclose((band.low + band.high) / 2, curve.estimate)
    np.testing.assert_allclose(
        band.high - band.low, 2 * critical_value(0.9, len(time) - 1) * curve.standard_error
    )


def test_a_prediction_equal_to_the_threshold_is_treated():
    time, event, _, _ = cohort(7)
    same = np.full(80, 0.3)
    result = net_benefit(time, event, same, HORIZON, [0.3, np.nextafter(0.3, 1)])
    assert result.estimate[0] == result.treat_all[0] != 0
    assert result.estimate[1] == 0


def test_nobody_above_a_threshold_is_zero_and_certain():
    time, event, predicted, _ = cohort(8)
    curve = net_benefit(time, event, predicted, HORIZON, [0.2, 0.99])
    assert curve.estimate[1] == 0
    assert curve.standard_error[1] == 0
    weights = (predicted < 0.6).astype(float)
    time[weights > 0] = np.append(30.0, time[weights > 0][1:])
    np.testing.assert_array_equal(
        net_benefit(time, event, predicted, HORIZON, [0.6], weights=weights).estimate, 0
    )


def test_threshold_zero_is_the_probability_of_the_event():
    time, event, predicted, _ = cohort(9)
    curve, whole = (
        net_benefit(time, event, predicted, HORIZON, [0.0]),
        event_probability(time, event, HORIZON),
    )
    assert curve.estimate[0] == pytest.approx(whole.estimate, abs=1e-15)
    np.testing.assert_allclose(curve.points[0].influence, whole.influence, rtol=0, atol=1e-15)


def test_thresholds_whose_treated_are_not_followed_are_left_out_and_named():
    time, event, first, second = cohort(10)
    time, event, first = (
        np.append(time, [2.0, 3.0]),
        np.append(event, [1, 0]),
        np.append(first, [0.97, 0.99]),
    )
    second = np.append(second, [0.5, 0.5])
    curve = net_benefit(time, event, first, HORIZON, [0.2, 0.96, 0.98])
    np.testing.assert_array_equal(curve.thresholds, [0.2])
    np.testing.assert_array_equal(curve.unsupported, [0.96, 0.98])
    pair = compare_net_benefit(time, event, second, first, HORIZON, [0.2, 0.96, 0.98])
    np.testing.assert_array_equal(pair.thresholds, [0.2])
    np.testing.assert_array_equal(pair.unsupported, [0.96, 0.98])
    with pytest.raises(
        MetricError,
        match="no threshold is supported: above each, follow-up ends before the horizon 6",
    ):
        net_benefit(time, event, first, HORIZON, [0.96, 0.98])
    with pytest.raises(MetricError, match="no threshold is supported"):
        compare_net_benefit(time, event, second, first, HORIZON, [0.96, 0.98])
    event[-1] = 1  # everyone treated had the event: nothing about them is unknown
    assert net_benefit(time, event, first, HORIZON, [0.96]).estimate[0] == pytest.approx(
        2 / 82, abs=1e-15
    )


def test_no_threshold_that_both_predictions_support():
    time, event = np.array([9.0, 9.0, 2.0, 2.0]), np.zeros(4, int)
    first, second = np.array([0.2, 0.3, 0.4, 0.1]), np.array([0.4, 0.1, 0.6, 0.1])
    assert net_benefit(time, event, first, HORIZON, [0.35, 0.5]).thresholds.tolist() == [
        0.5
    ]  # nobody there: 0
    assert net_benefit(time, event, second, HORIZON, [0.35, 0.5]).thresholds.tolist() == [0.35]
    with pytest.raises(MetricError, match="supported by both"):
        compare_net_benefit(time, event, first, second, HORIZON, [0.35, 0.5])


def test_a_difference_is_that_of_two_curves_and_turns_round():
    time, event, first, second = cohort(11)
    forth = compare_net_benefit(time, event, first, second, HORIZON, THRESHOLDS)
    back = compare_net_benefit(time, event, second, first, HORIZON, THRESHOLDS)
    curves = [
        net_benefit(time, event, predicted, HORIZON, THRESHOLDS) for predicted in (first, second)
    ]
    np.testing.assert_array_equal(forth.difference, curves[0].estimate - curves[1].estimate)
    np.testing.assert_array_equal(forth.difference, -back.difference)
    np.testing.assert_array_equal(forth.standard_error, back.standard_error)
    np.testing.assert_array_equal(forth.p_value, back.p_value)
    assert forth.p_value[0] == 1  # at threshold 0 both treat everybody
    assert (forth.interval().low[1:] < forth.difference[1:]).all()
    assert (
        forth.standard_error[1:] < np.hypot(*(curve.standard_error for curve in curves))[1:]
    ).all()


def test_against_treating_everybody():
    time, event, predicted, _ = cohort(12)
    pair = compare_net_benefit(time, event, predicted, np.ones(80), HORIZON, THRESHOLDS)
    curve = net_benefit(time, event, predicted, HORIZON, THRESHOLDS)
    np.testing.assert_allclose(
        pair.difference, curve.estimate - curve.treat_all, rtol=0, atol=1e-14
    )


@FEW
@given(cohorts())
def test_only_the_side_of_the_threshold_counts(cohort):
    time, event, predicted = cohort
    plain = net_benefit(time, event, predicted, 4.0, [0.3, 0.7])
    coarse = net_benefit(
        time,
        event,
        np.select([predicted >= 0.7, predicted >= 0.3], [0.7, 0.3], 0.0),
        4.0,
        [0.3, 0.7],
    )
    np.testing.assert_array_equal(plain.estimate, coarse.estimate)
    np.testing.assert_array_equal(plain.standard_error, coarse.standard_error)


@FEW
@given(cohorts())
def test_it_never_exceeds_the_probability_of_the_event(cohort):
    time, event, predicted = cohort
    whole = event_probability(time, event, 4.0, cause=1).estimate
    thresholds = np.array([0.3, 0.7])
    curve = net_benefit(time, event, predicted, 4.0, thresholds, cause=1)
    assert (curve.estimate >= -thresholds / (1 - thresholds) - 1e-12).all()
    assert (curve.treat_all <= whole + 1e-12).all()


@FEW
@given(cohorts(), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(cohort, random):
    time, event, predicted = cohort
    order = np.array(random.sample(range(len(time)), len(time)))
    plain = net_benefit(time, event, predicted, 4.0, [0.5], cause=1)
    permuted = net_benefit(time[order], event[order], predicted[order], 4.0, [0.5], cause=1)
    assert permuted.estimate[0] == pytest.approx(plain.estimate[0], abs=1e-14)
    np.testing.assert_allclose(
        permuted.points[0].influence, plain.points[0].influence[order], rtol=0, atol=1e-14
    )


@FEW
@given(cohorts(), st.data())
def test_a_weight_of_two_is_two_copies_in_one_cluster(cohort, data):
    time, event, predicted = cohort
    copies = np.array(
        data.draw(st.lists(st.integers(1, 3), min_size=len(time), max_size=len(time)))
    )
    rows = np.repeat(np.arange(len(time)), copies)
    weighted = net_benefit(time, event, predicted, 4.0, [0.2, 0.5], weights=copies)
    copied = net_benefit(time[rows], event[rows], predicted[rows], 4.0, [0.2, 0.5], cluster=rows)
    np.testing.assert_allclose(weighted.estimate, copied.estimate, rtol=0, atol=1e-14)
    np.testing.assert_allclose(weighted.standard_error, copied.standard_error, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predicted": np.full(80, 1.2)}, "outside \\[0, 1\\]"),
        ({"predicted": np.full(80, np.nan)}, "NaN"),
        ({"predicted": np.ones(3)}, "predicted has shape"),
        ({"thresholds": np.array([0.5, 0.2])}, "strictly ascending"),
        ({"thresholds": np.array([0.5, 1.0])}, "0 <= p < 1"),
        ({"thresholds": np.array([-0.1])}, "0 <= p < 1"),
        ({"thresholds": np.array([np.nan])}, "0 <= p < 1"),
        ({"thresholds": np.array([])}, "at least one"),
        (
            {"horizon": 31.0},
            "horizon is 31, but follow-up ends at 30, the largest horizon supported",
        ),
        ({"horizon": np.inf}, "finite time > 0"),
        ({"time": np.zeros(80)}, "not finite and > 0"),
    ],
)
def test_bad_input_is_refused(change, message):
    time, event, predicted, _ = cohort(13)
    time = np.minimum(time, 30.0)
    event[time == 30] = 0
    arguments = {
        "time": time,
        "event": event,
        "predicted": predicted,
        "horizon": HORIZON,
        "thresholds": THRESHOLDS,
        **change,
    }
    with pytest.raises(MetricError, match=message):
        net_benefit(**arguments)
