from __future__ import annotations

import numpy as np
import pytest

from concordant.core.errors import MetricError
from concordant.core.survival import Outcomes
from concordant.metrics import kaplan_meier, median_follow_up
from concordant.metrics.censoring import censoring_curve
from concordant.metrics.inputs import checked_outcomes

TIME = np.array([1.0, 2.0, 2.0, 3.0, 4.0, 4.0, 5.0])
EVENT = np.array([1, 1, 0, 0, 1, 0, 1])


def test_kaplan_meier_by_hand():
    curve = kaplan_meier(TIME, EVENT)
    np.testing.assert_array_equal(curve.at_risk, [7, 6, 4, 3, 1])
    np.testing.assert_array_equal(curve.n_events, [1, 1, 0, 1, 1])
    np.testing.assert_allclose(curve.survival, [6 / 7, 5 / 7, 5 / 7, 10 / 21, 0])
    np.testing.assert_allclose(
        curve.at(np.array([0.5, 1.0, 3.9, 5.0, 5.1, np.nan])), [1, 6 / 7, 5 / 7, 0, np.nan, np.nan]
    )
    assert curve.median == 4.0


def test_censoring_lets_events_leave_first():
    curve = censoring_curve(checked_outcomes(TIME, EVENT))
    np.testing.assert_array_equal(curve.times, [2, 3, 4])
    np.testing.assert_array_equal(
        curve.at_risk, [5, 4, 2]
    )  # at 2: seven, less the events at 1 and 2
    np.testing.assert_allclose(curve.steps, [1, 4 / 5, 3 / 5, 3 / 10])
    np.testing.assert_allclose(curve.steps[curve.before(np.array([2.0, 4.0]))], [1, 3 / 5])
    np.testing.assert_allclose(curve.steps[curve.up_to(np.array([2.0, 4.0]))], [4 / 5, 3 / 10])


def test_influence_of_the_curve_is_its_derivative_by_the_weights():
    generator = np.random.default_rng(0)
    time, observed = np.ceil(generator.exponential(size=25) * 5), generator.random(25) < 0.5
    weights, read = generator.uniform(0.5, 2, 25), np.array([0.5, 1.0, 2.0, 3.0, 3.0])
    sensitivity = generator.normal(size=len(read))

    def functional(w):
        curve = censoring_curve(Outcomes(time, observed.astype(int), w))
        return sensitivity @ np.log(curve.steps[curve.before(read)])

    curve = censoring_curve(Outcomes(time, observed.astype(int), weights))
    influence = curve.row_influence(curve.before(read), sensitivity)
    for k in range(25):
        step = np.zeros(25)
        step[k] = 1e-6
        assert influence[k] == pytest.approx(
            (functional(weights + step) - functional(weights - step)) / 2e-6, abs=1e-8
        )


def test_a_weight_of_zero_is_an_absent_subject():
    kept = np.array([True, True, False, True, True, True, False])
    whole = censoring_curve(Outcomes(TIME, EVENT, kept.astype(float)))
    part = censoring_curve(checked_outcomes(TIME[kept], EVENT[kept]))
    np.testing.assert_array_equal(whole.times, part.times)
    np.testing.assert_allclose(whole.steps, part.steps)
    assert whole.last == 4.0


def test_log_log_interval_at_the_ends_of_the_curve():
    band = kaplan_meier(np.array([1.0, 2.0, 3.0]), np.array([0, 1, 1])).interval()
    assert (band.low[0], band.high[0]) == (1.0, 1.0)
    assert 0 < band.low[1] < 0.5 < band.high[1] < 1
    assert np.isnan(band.low[2])
    assert np.isnan(band.high[2])


def test_median_follow_up_turns_events_and_censorings_round():
    assert median_follow_up(TIME, EVENT) == 4.0
    assert median_follow_up(np.array([3.0, 5.0]), np.array([0, 0])) == 3.0
    assert np.isnan(
        median_follow_up(np.array([1.0, 2.0]), np.array([1, 2]))
    )  # a competing event ends no follow-up
    assert np.isnan(kaplan_meier(np.array([1.0, 2.0]), np.array([0, 0])).median)


def test_bad_outcomes_are_refused():
    with pytest.raises(MetricError, match="not finite and > 0"):
        kaplan_meier(np.array([-1.0, 2.0]), np.array([1, 0]))
