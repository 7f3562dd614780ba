from __future__ import annotations

import numpy as np
import pytest

from concordant.core.errors import MetricError
from concordant.core.survival import Outcomes
from concordant.metrics import brier_score, brier_score_at, integrated_brier_score
from concordant.metrics.inference import critical_value


def cohort(seed, n=50, *, ties=True):
    generator = np.random.default_rng(seed)
    rate = np.exp(generator.normal(size=n))
    time, censored = generator.exponential(1 / rate), generator.exponential(1.2, size=n)
    event = (time <= censored).astype(np.int64)
    time = np.minimum(time, censored)
    if ties:
        time = np.ceil(time * 6) / 6
    times = np.array([0.2, 0.5, 0.9])
    return time, event, np.exp(-np.outer(rate, times)), times


def censoring_at(time, event, at, *, left):
    g = 1.0
    for s in np.unique(time[event != 1]):
        if s < at or (s == at and not left):
            q = ((time == s) & (event != 1)).sum()
            g *= 1 - q / ((time > s).sum() + q)
    return g


def slow_brier(time, event, survival, t, *, convention="default"):
    total = 0.0
    for i in range(len(time)):
        if time[i] > t:
            total += (1 - survival[i]) ** 2 / censoring_at(time, event, t, left=False)
        elif event[i] == 1:
            total += survival[i] ** 2 / censoring_at(
                time, event, time[i], left=convention == "default"
            )
    return total / len(time)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("convention", ["default", "sksurv"])
def test_brier_equals_the_definition(seed, convention):
    time, event, survival, times = cohort(seed)
    result = brier_score(time, event, survival, times, convention=convention)
    slow = [
        slow_brier(time, event, survival[:, k], t, convention=convention)
        for k, t in enumerate(times)
    ]
    np.testing.assert_allclose(result.estimate, slow, rtol=0, atol=1e-13)
    single = [
        brier_score_at(time, event, survival[:, k], t, convention=convention)
        for k, t in enumerate(times)
    ]
    np.testing.assert_array_equal(result.estimate, [one.estimate for one in single])
    np.testing.assert_allclose(
        result.standard_error, [one.standard_error for one in single], rtol=1e-14
    )  # summed in another order
    assert all(abs(one.influence.sum()) < 1e-14 for one in single)


@pytest.mark.parametrize("convention", ["default", "sksurv"])
def test_brier_influence_is_the_derivative_by_the_weights(convention):
    time, event, survival, times = cohort(7, n=30)
    weights = np.random.default_rng(2).uniform(0.5, 2, len(time))

    def values(w):
        curve = brier_score(time, event, survival, times, convention=convention, weights=w)
        whole = integrated_brier_score(
            time, event, survival, times, convention=convention, weights=w
        )
        return np.append(curve.estimate, whole.estimate)

    whole = integrated_brier_score(
        time, event, survival, times, convention=convention, weights=weights
    )
    single = [
        brier_score_at(time, event, survival[:, k], t, convention=convention, weights=weights)
        for k, t in enumerate(times)
    ]
    influence = np.stack([*(one.influence for one in single), whole.influence])
    step = 1e-5
    for k in range(len(time)):
        up, down = weights.copy(), weights.copy()
        up[k] += step
        down[k] -= step
        np.testing.assert_allclose(
            influence[:, k],
            weights[k] * (values(up) - values(down)) / (2 * step),
            rtol=0,
            atol=1e-8,
        )


def test_standard_error_is_near_the_leave_one_out_jackknife():
    time, event, survival, times = cohort(8, n=120)
    n = len(time)

    def integrated(rows):
        return integrated_brier_score(time[rows], event[rows], survival[rows], times).estimate

    left_out = np.array([integrated(np.delete(np.arange(n), k)) for k in range(n)])
    jackknife = np.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum())
    assert integrated_brier_score(
        time, event, survival, times
    ).standard_error / jackknife == pytest.approx(0.985, abs=0.025)


def test_integral_is_the_trapezoid_mean():
    time, event, survival, times = cohort(9)
    curve = brier_score(time, event, survival, times)
    whole = integrated_brier_score(time, event, survival, times)
    assert whole.estimate == pytest.approx(
        np.trapezoid(curve.estimate, times) / (times[-1] - times[0]), abs=1e-15
    )
    assert (whole.first_time, whole.last_time) == (0.2, 0.9)
    assert whole.note == "times 0.2 to 0.9"


def test_times_beyond_follow_up_are_left_out_and_named():
    time, event, survival, times = cohort(10)
    late = np.append(times, [time.max(), 1e6])
    wide = np.column_stack([survival, np.zeros(len(time)), np.zeros(len(time))])
    result = brier_score(time, event, wide, late)
    np.testing.assert_array_equal(result.times, times)
    np.testing.assert_array_equal(result.unsupported, late[3:])
    np.testing.assert_array_equal(
        result.estimate, brier_score(time, event, survival, times).estimate
    )
    short = Outcomes(time[time < 0.8], event[time < 0.8])
    assert brier_score(time, event, survival, times, censoring=short).times[-1] == 0.5


def test_an_external_curve_adds_its_own_variance():
    time, event, survival, times = cohort(11, n=100, ties=False)
    other_time, other_event, _, _ = cohort(12, n=80, ties=False)
    train = Outcomes(other_time, other_event)
    result = integrated_brier_score(time, event, survival, times, censoring=train)
    left_out = [
        result.estimate
        - integrated_brier_score(
            time, event, survival, times, censoring=train.take(np.delete(np.arange(80), k))
        ).estimate
        for k in range(80)
    ]
    np.testing.assert_allclose(result.censoring_influence, left_out, rtol=0.05, atol=1e-5)
    assert np.corrcoef(result.censoring_influence, left_out)[0, 1] > 0.998
    assert result.standard_error**2 == pytest.approx(
        (result.influence**2).sum() + (result.censoring_influence**2).sum()
    )


def test_clusters_are_summed():
    time, event, survival, times = cohort(13)
    twice = [np.repeat(array, 2, axis=0) for array in (time, event, survival)]
    copies = brier_score(*twice, times, cluster=np.repeat(np.arange(len(time)), 2))
    np.testing.assert_allclose(
        copies.estimate, brier_score(time, event, survival, times).estimate, rtol=1e-12
    )
    np.testing.assert_allclose(
        copies.standard_error, brier_score(time, event, survival, times).standard_error, rtol=1e-12
    )


def test_interval_holds_the_estimate_in_its_middle():
    time, event, survival, times = cohort(14)
    result = brier_score(time, event, survival, times)
    band = result.interval()
    np.testing.assert_allclose((band.low + band.high) / 2, result.estimate)
    np.testing.assert_allclose(
        band.high - band.low, 2 * critical_value(0.95, len(time) - 1) * result.standard_error
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"survival": np.full((50, 3), 1.2)}, "outside \\[0, 1\\]"),
        ({"survival": np.full((50, 3), np.nan)}, "NaN"),
        ({"survival": np.ones((50, 2))}, "survival has shape"),
        ({"times": np.array([0.2, 0.9, 0.5])}, "strictly ascending"),
        ({"times": np.array([1e6, 2e6, 3e6])}, "no time is supported"),
        ({"convention": "other"}, "unknown convention"),
    ],
)
def test_bad_input_is_refused(change, message):
    time, event, survival, times = cohort(15)
    arguments = {"survival": survival, "times": times, **change}
    with pytest.raises(MetricError, match=message):
        brier_score(time, event, **arguments)


def test_one_supported_time_has_no_integral():
    time, event, survival, times = cohort(16)
    with pytest.raises(MetricError, match="two supported times"):
        integrated_brier_score(time, event, survival[:, :2], np.array([0.2, 1e6]))
    with pytest.raises(MetricError, match="two supported times"):
        integrated_brier_score(time, event, survival[:, :1], times[:1])


def slow_competing_brier(time, event, survival, at, cause):
    """Of the definition: only code 0 is censored, events leave before censorings."""

    def curve_before(t, *, inclusive):
        value = 1.0
        for s in np.unique(time[event == 0]):
            if s < t or (inclusive and s == t):
                leaving = ((time == s) & (event == 0)).sum()
                value *= 1 - leaving / ((time > s).sum() + leaving)
        return value

    total = 0.0
    for t, code, value in zip(time, event, survival, strict=True):
        if t > at:
            total += (1 - value) ** 2 / curve_before(at, inclusive=True)
        elif code != 0:
            total += (float(code == cause) - (1 - value)) ** 2 / curve_before(t, inclusive=False)
    return total / len(time)


def test_competing_events_are_known_not_to_be_cases():
    time, event, survival, times = cohort(17)
    codes = np.where(np.random.default_rng(3).random(len(time)) < 0.4, 2 * event, event)
    for cause in (1, 2):
        result = brier_score(time, codes, survival, times, cause=cause)
        slow = [
            slow_competing_brier(time, codes, survival[:, k], t, cause) for k, t in enumerate(times)
        ]
        np.testing.assert_allclose(result.estimate, slow, rtol=0, atol=1e-13)
    weights = np.random.default_rng(4).uniform(0.5, 2, len(time))
    whole = integrated_brier_score(time, codes, survival, times, cause=2, weights=weights)

    def integral(w):
        return integrated_brier_score(time, codes, survival, times, cause=2, weights=w).estimate

    step = 1e-5
    for k in range(0, len(time), 5):
        nudge = step * (np.arange(len(time)) == k)
        slope = (integral(weights + nudge) - integral(weights - nudge)) / (2 * step)
        assert whole.influence[k] == pytest.approx(weights[k] * slope, abs=1e-8)
