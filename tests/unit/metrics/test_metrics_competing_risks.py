from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concordant.core.errors import MetricError
from concordant.metrics import kaplan_meier
from concordant.metrics.competing_risks import aalen_johansen, event_probability

FEW = settings(max_examples=30, deadline=None, derandomize=True)


def cohort(seed, n=60, *, ties=True):
    """Times, codes 0, 1, 2, and more clusters than one."""
    generator = np.random.default_rng(seed)
    time = generator.exponential(size=n) * 10
    event = generator.choice([0, 1, 2], size=n, p=[0.3, 0.4, 0.3])
    return (np.ceil(time) if ties else time), event, generator.integers(0, n // 3, n)


@st.composite
def cohorts(draw):
    """Small cohorts full of ties."""
    n = draw(st.integers(1, 25))
    time = np.array(draw(st.lists(st.integers(1, 8), min_size=n, max_size=n)), float)
    event = np.array(draw(st.lists(st.sampled_from([0, 1, 2, 3]), min_size=n, max_size=n)))
    return time, event


def slow_incidence(time, event, horizon, *, cause=None, weights=None):
    """Step by step: those without any event so far, times the share of them that has the event
    now.
    """
    weights = np.ones(len(time)) if weights is None else weights
    wanted = event == (1 if cause is None else cause)
    ends = wanted if cause is None else event != 0
    free, incidence = 1.0, 0.0
    for s in np.unique(time[ends & (weights > 0)]):
        if s <= horizon:
            at_risk = weights[time >= s].sum()
            incidence += free * weights[(time == s) & wanted].sum() / at_risk
            free *= 1 - weights[(time == s) & ends].sum() / at_risk
    return incidence


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("cause", [1, 2])
def test_the_curve_equals_the_definition(seed, cause):
    time, event, _ = cohort(seed)
    curve = aalen_johansen(time, event, cause=cause)
    np.testing.assert_array_equal(curve.times, np.unique(time))
    np.testing.assert_array_equal(curve.at_risk, [(time >= s).sum() for s in curve.times])
    np.testing.assert_allclose(
        curve.estimate,
        [slow_incidence(time, event, s, cause=cause) for s in curve.times],
        rtol=0,
        atol=1e-14,
    )
    assert (curve.n, curve.n_events) == (60, (event == cause).sum())


@pytest.mark.parametrize("cause", [None, 1, 2])
@pytest.mark.parametrize("horizon", [0.5, 4.0, 9.5, 20.0])
def test_one_probability_equals_the_definition(cause, horizon):
    time, event, _ = cohort(3)
    weights = np.random.default_rng(4).uniform(0.5, 2, len(time))
    result = event_probability(time, event, horizon, cause=cause, weights=weights)
    assert result.estimate == pytest.approx(
        slow_incidence(time, event, horizon, cause=cause, weights=weights), abs=1e-14
    )
    assert abs(result.influence.sum()) < 1e-14
    assert result.note == f"by {horizon:g}"


@pytest.mark.parametrize("cause", [None, 1, 2])
@pytest.mark.parametrize("horizon", [4.0, 9.5, 20.0])
def test_influence_is_the_derivative_by_the_weights(cause, horizon):
    time, event, _ = cohort(5, n=30)
    weights = np.random.default_rng(6).uniform(0.5, 2, len(time))
    result = event_probability(time, event, horizon, cause=cause, weights=weights)
    for k in range(len(time)):
        step = 1e-5 * (np.arange(len(time)) == k)
        up, down = (
            slow_incidence(time, event, horizon, cause=cause, weights=weights + sign * step)
            for sign in (1, -1)
        )
        assert result.influence[k] == pytest.approx(weights[k] * (up - down) / 2e-5, abs=1e-9)


@pytest.mark.parametrize("cause", [None, 2])
def test_standard_error_is_near_the_leave_one_out_jackknife(cause):
    time, event, _ = cohort(7, n=150)
    n = len(time)
    left_out = np.array(
        [
            slow_incidence(np.delete(time, k), np.delete(event, k), 8.0, cause=cause)
            for k in range(n)
        ]
    )
    jackknife = np.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum())
    assert event_probability(
        time, event, 8.0, cause=cause
    ).standard_error / jackknife == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("cause", [1, 2])
@pytest.mark.parametrize("options", ["plain", "weights", "cluster", "both"])
def test_standard_errors_of_the_curve_are_those_of_its_single_times(cause, options):
    time, event, cluster = cohort(8)
    weights = np.random.default_rng(9).choice([0.0, 0.5, 1.0, 2.5], len(time))
    given_options = {
        "weights": weights if options in ("weights", "both") else None,
        "cluster": cluster if options in ("cluster", "both") else None,
    }
    curve = aalen_johansen(time, event, cause=cause, **given_options)
    single = [event_probability(time, event, s, cause=cause, **given_options) for s in curve.times]
    np.testing.assert_allclose(curve.estimate, [one.estimate for one in single], rtol=0, atol=1e-14)
    np.testing.assert_allclose(
        curve.standard_error, [one.standard_error for one in single], rtol=1e-10, atol=1e-13
    )


def test_without_competing_events_it_is_kaplan_meier_with_greenwood():
    time, event, _ = cohort(10)
    event = (event == 1).astype(int)
    plain, curve = kaplan_meier(time, event), aalen_johansen(time, event)
    known = plain.survival > 0
    np.testing.assert_allclose(curve.estimate, 1 - plain.survival, rtol=0, atol=1e-14)
    np.testing.assert_allclose(
        curve.standard_error[known], plain.standard_error[known], rtol=1e-9, atol=1e-13
    )
    np.testing.assert_allclose(
        curve.interval(0.9).low, 1 - plain.interval(0.9).high, rtol=1e-9, atol=1e-12
    )
    np.testing.assert_allclose(
        curve.interval(0.9).high, 1 - plain.interval(0.9).low, rtol=1e-9, atol=1e-12
    )


def test_without_censoring_it_is_a_share():
    time, event, _ = cohort(11)
    event = np.maximum(event, 1)
    curve = aalen_johansen(time, event, cause=2)
    share = np.array([((time <= s) & (event == 2)).mean() for s in curve.times])
    np.testing.assert_allclose(curve.estimate, share, rtol=0, atol=1e-14)
    np.testing.assert_allclose(
        curve.standard_error, np.sqrt(share * (1 - share) / len(time)), rtol=1e-9, atol=1e-13
    )


def test_taking_competing_events_for_censored_lies_above():
    time, event, _ = cohort(12, n=200)
    assert (
        event_probability(time, event, 15.0).estimate
        > event_probability(time, event, 15.0, cause=1).estimate + 0.05
    )


def test_reading_the_curve():
    curve = aalen_johansen(np.array([1.0, 2.0, 2.0, 3.0]), np.array([2, 1, 0, 0]))
    np.testing.assert_allclose(
        curve.at(np.array([0.5, 1.0, 1.9, 2.0, 3.0, 3.1, np.nan])),
        [0, 0, 0, 1 / 4, 1 / 4, np.nan, np.nan],
    )
    np.testing.assert_array_equal(curve.at_risk, [4, 3, 1])
    assert curve.standard_error[0] == 0
    band = curve.interval()
    assert (band.low[0], band.high[0]) == (0, 0)
    assert 0 < band.low[1] < 1 / 4 < band.high[1] < 1


def test_once_everybody_had_the_event_it_is_exactly_one():
    time = np.arange(1.0, 50.0)
    curve = aalen_johansen(time, np.ones(49, int))
    assert curve.estimate[-1] == 1
    assert curve.standard_error[-1] < 1e-14
    assert np.isnan(curve.interval().low[-1])
    assert (
        event_probability(time, np.ones(49, int), 1000.0).estimate == 1
    )  # nobody is left: known at any time


def test_nobody_with_the_event_is_a_probability_of_zero():
    time = np.array([1.0, 2.0, 3.0])
    for event, cause in ((np.array([0, 0, 0]), None), (np.array([0, 2, 0]), 1)):
        result = event_probability(time, event, 2.0, cause=cause)
        assert (result.estimate, result.standard_error, result.n_events) == (0, 0, 0)
    np.testing.assert_array_equal(aalen_johansen(time, np.array([0, 2, 0])).estimate, 0)
    np.testing.assert_array_equal(aalen_johansen(time, np.array([0, 2, 0])).standard_error, 0)


@FEW
@given(cohorts())
def test_the_causes_and_no_event_sum_to_one(cohort):
    time, event = cohort
    parts = [aalen_johansen(time, event, cause=cause).estimate for cause in (1, 2, 3)]
    np.testing.assert_allclose(
        sum(parts), 1 - kaplan_meier(time, event != 0).survival, rtol=0, atol=1e-13
    )
    assert all((np.diff(np.append(0, part)) >= 0).all() for part in parts)


@FEW
@given(cohorts())
def test_an_increasing_map_of_time_changes_nothing(cohort):
    time, event = cohort
    plain, mapped = aalen_johansen(time, event), aalen_johansen(np.exp(time), event)
    np.testing.assert_array_equal(plain.estimate, mapped.estimate)
    np.testing.assert_array_equal(plain.standard_error, mapped.standard_error)


@FEW
@given(cohorts(), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(cohort, random):
    time, event = cohort
    order = np.array(random.sample(range(len(time)), len(time)))
    horizon = float(np.median(time))
    plain = event_probability(time, event, horizon, cause=1)
    permuted = event_probability(time[order], event[order], horizon, cause=1)
    np.testing.assert_allclose(permuted.influence, plain.influence[order], rtol=0, atol=1e-13)
    curves = aalen_johansen(time, event), aalen_johansen(time[order], event[order])
    np.testing.assert_allclose(
        curves[0].standard_error, curves[1].standard_error, rtol=0, atol=1e-12
    )


@FEW
@given(cohorts(), st.data())
def test_a_weight_of_two_is_two_copies_in_one_cluster(cohort, data):
    time, event = cohort
    copies = np.array(
        data.draw(st.lists(st.integers(1, 3), min_size=len(time), max_size=len(time)))
    )
    rows = np.repeat(np.arange(len(time)), copies)
    horizon = float(np.median(time))
    weighted = event_probability(time, event, horizon, weights=copies, cause=2)
    copied = event_probability(time[rows], event[rows], horizon, cluster=rows, cause=2)
    assert weighted.estimate == pytest.approx(copied.estimate, abs=1e-14)
    assert weighted.standard_error == pytest.approx(copied.standard_error, abs=1e-13, nan_ok=True)
    curves = (
        aalen_johansen(time, event, weights=copies),
        aalen_johansen(time[rows], event[rows], cluster=rows),
    )
    np.testing.assert_array_equal(curves[0].at_risk, curves[1].at_risk)
    np.testing.assert_allclose(curves[0].estimate, curves[1].estimate, rtol=0, atol=1e-14)
    np.testing.assert_allclose(
        curves[0].standard_error, curves[1].standard_error, rtol=0, atol=1e-12
    )


def test_a_weight_of_zero_is_an_absent_subject():
    time, event, _ = cohort(13)
    kept = np.random.default_rng(14).random(len(time)) < 0.6
    kept &= time < time.max()
    whole, part = (
        aalen_johansen(time, event, weights=kept.astype(float)),
        aalen_johansen(time[kept], event[kept]),
    )
    np.testing.assert_array_equal(whole.times, part.times)
    np.testing.assert_allclose(whole.estimate, part.estimate, rtol=0, atol=1e-14)
    with pytest.raises(MetricError, match="the largest horizon supported"):
        event_probability(time, np.zeros(len(time)), time.max(), weights=kept.astype(float))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"horizon": 3.5},
            "horizon is 3.5, but follow-up ends at 3, the largest horizon supported",
        ),
        ({"horizon": 0.0}, "finite time > 0"),
        ({"horizon": np.nan}, "finite time > 0"),
        ({"event": np.array([1, 0])}, "event has shape"),
        ({"event": np.array([1.0, np.nan, 0.0])}, "NaN"),
        ({"time": np.array([1.0, -2.0, 3.0])}, "not finite and > 0"),
        ({"weights": np.array([1.0, -1.0, 1.0])}, "weights must be finite"),
    ],
)
@pytest.mark.parametrize("cause", [None, 1])
def test_bad_input_is_refused(change, message, cause):
    arguments = {
        "time": np.array([1.0, 2.0, 3.0]),
        "event": np.array([1, 2, 0]),
        "horizon": 2.0,
        "cause": cause,
        **change,
    }
    with pytest.raises(MetricError, match=message):
        event_probability(**arguments)
    if "horizon" not in change:
        del arguments["horizon"]
        with pytest.raises(MetricError, match=message):
            aalen_johansen(**{**arguments, "cause": 1})


def test_a_cause_that_is_no_event_is_refused():
    for function in (
        aalen_johansen,
        lambda *rows, cause: event_probability(*rows, 1.0, cause=cause),
    ):
        with pytest.raises(MetricError, match="cause is 0"):
            function(np.array([1.0, 2.0]), np.array([0, 1]), cause=0)
