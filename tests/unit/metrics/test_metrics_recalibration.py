from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concordant.core.errors import MetricError
from concordant.metrics.calibration import d_calibration, log_score
from concordant.metrics.recalibration import Recalibration, fit_recalibration
from concordant.metrics.weak_calibration import calibration_in_the_large, calibration_slope

FEW = settings(max_examples=25, deadline=None, derandomize=True)
TIMES = np.arange(1, 13) / 8
METHOD = pytest.mark.parametrize("method", ["slope", "baseline"])


def cohort(seed, n=100, *, ties=False):
    generator = np.random.default_rng(seed)
    signal = generator.normal(size=n)
    time, censored = generator.exponential(np.exp(-signal)), generator.exponential(2.0, size=n)
    event = (time <= censored).astype(int)
    time = np.minimum(time, censored)
    return (np.ceil(time * 8) / 8 if ties else time), event, signal


def curves(log_hazard, times=TIMES):
    return np.exp(-np.outer(np.exp(log_hazard), times))


def slow_baseline(time, event, relative, t):
    return sum(
        ((time == s) & (event == 1)).sum() / relative[time >= s].sum()
        for s in np.unique(time)
        if s <= t
    )


@METHOD
def test_recalibration_is_a_cox_model_of_the_log_log_curve(method):
    time, event, signal = cohort(0, ties=True)
    fitted = fit_recalibration(
        time, event, curves(0.5 * signal), TIMES, method=method, reference_time=0.5
    )
    relative = np.exp(fitted.slope * 0.5 * signal)
    slow = np.array([np.exp(-slow_baseline(time, event, relative, t) * relative) for t in TIMES]).T
    np.testing.assert_allclose(fitted.apply(curves(0.5 * signal), TIMES), slow, rtol=0, atol=1e-12)
    if method == "slope":
        step = 1e-4

        def likelihood(slope):
            hazard = np.exp(slope * 0.5 * signal)
            return sum(
                np.log(hazard[i] / hazard[time >= time[i]].sum()) for i in np.flatnonzero(event)
            )

        assert likelihood(fitted.slope) > max(
            likelihood(fitted.slope - step), likelihood(fitted.slope + step)
        )
    else:
        assert fitted.slope == 1


def test_a_miscalibrated_model_becomes_calibrated_on_new_subjects():
    tuning_time, tuning_event, tuning = cohort(1, n=1500)
    time, event, signal = cohort(2, n=1500)
    wrong = [2 * values + 1 for values in (tuning, signal)]
    fitted = fit_recalibration(
        tuning_time, tuning_event, curves(wrong[0]), TIMES, reference_time=0.125
    )
    assert fitted.slope == pytest.approx(0.5, abs=0.06)
    before, after = curves(wrong[1]), fitted.apply(curves(wrong[1]), TIMES)
    assert d_calibration(time, event, before, TIMES).p_value < 1e-10
    assert d_calibration(time, event, after, TIMES).p_value > 0.01
    assert (
        log_score(time, event, after, TIMES).estimate
        < log_score(time, event, before, TIMES).estimate - 0.1
    )
    low, high = calibration_slope(time, event, 1 - after[:, 3], 0.5).interval(0.99)
    assert low < 1 < high
    assert calibration_in_the_large(time, event, 1 - after[:, 3], 0.5).estimate == pytest.approx(
        1, abs=0.1
    )


def test_the_baseline_method_keeps_the_spread():
    time, event, signal = cohort(3, n=800)
    fitted = fit_recalibration(
        time, event, curves(signal - 1.5), TIMES, method="baseline", reference_time=0.5
    )
    after = fitted.apply(curves(signal - 1.5), TIMES)
    np.testing.assert_allclose(np.ptp(np.log(-np.log(after)), axis=0), np.ptp(signal), rtol=1e-6)
    assert calibration_in_the_large(time, event, 1 - after[:, 3], 0.5).estimate == pytest.approx(
        1, abs=0.05
    )


def test_a_slope_is_never_below_zero():
    time, event, signal = cohort(4)
    turned = fit_recalibration(time, event, curves(-signal), TIMES)
    assert turned.slope == 0
    same = turned.apply(curves(signal), TIMES)
    assert (np.ptp(same, axis=0) == 0).all()
    np.testing.assert_allclose(
        -np.log(same[0]), [slow_baseline(time, event, np.ones(100), t) for t in TIMES]
    )
    constant = fit_recalibration(time, event, curves(np.zeros(100)), TIMES)
    np.testing.assert_allclose(constant.apply(curves(np.zeros(100)), TIMES), same)


@METHOD
@FEW
@given(seed=st.integers(0, 10_000), scale=st.floats(0.2, 20))
def test_recalibrated_curves_are_curves(method, seed, scale):
    time, event, signal = cohort(seed, n=40, ties=True)
    survival = curves(scale * signal)  # saturates at 0 and 1
    fitted = fit_recalibration(time, event, survival, TIMES, method=method)
    later = np.append(np.append(0.0, TIMES), [50.0, 1e6])
    after = fitted.apply(curves(scale * signal, later), later)
    assert after.shape == (40, len(later))
    assert ((after >= 0) & (after <= 1)).all()
    assert (np.diff(after, axis=1) <= 0).all()
    assert (after[:, 0] == 1).all()
    order = np.argsort(signal)
    assert (np.diff(after[order], axis=0) <= 1e-12).all()


@METHOD
def test_weights_count_copies_and_order_does_not_matter(method):
    time, event, signal = cohort(5, ties=True)
    copies = np.random.default_rng(0).integers(1, 4, 100)
    rows = np.random.default_rng(1).permutation(np.repeat(np.arange(100), copies))
    weighted = fit_recalibration(time, event, curves(signal), TIMES, method=method, weights=copies)
    copied = fit_recalibration(time[rows], event[rows], curves(signal)[rows], TIMES, method=method)
    assert weighted.reference_time == copied.reference_time
    np.testing.assert_allclose(
        weighted.apply(curves(signal), TIMES),
        copied.apply(curves(signal), TIMES),
        rtol=0,
        atol=1e-10,
    )


def test_it_is_saved_as_plain_arrays(tmp_path):
    time, event, signal = cohort(6)
    fitted = fit_recalibration(time, event, curves(signal), TIMES)
    np.savez(tmp_path / "recalibration.npz", **asdict(fitted))
    with np.load(tmp_path / "recalibration.npz", allow_pickle=False) as saved:
        again = Recalibration(
            **{
                name: saved[name] if saved[name].ndim else saved[name].item()
                for name in saved.files
            }
        )
    np.testing.assert_array_equal(
        again.apply(curves(signal), TIMES), fitted.apply(curves(signal), TIMES)
    )
    assert again.method == "slope"


def test_the_reference_time_is_the_median_event_time_within_the_curves():
    time, event, signal = cohort(7)
    median = np.sort(time[event == 1])[(event.sum() - 1) // 2]
    assert fit_recalibration(time, event, curves(signal), TIMES).reference_time == median
    assert fit_recalibration(
        time, event, curves(signal, TIMES[:2]), TIMES[:2]
    ).reference_time == min(median, TIMES[1])


def test_bad_input_is_refused():
    time, event, signal = cohort(8)
    survival = curves(signal)
    for change, message in (
        ({"event": np.zeros(100)}, "nothing to recalibrate on"),
        ({"time": np.zeros(100)}, "not finite and > 0"),
        ({"survival": survival[:, ::-1]}, "rises over time"),
        ({"survival": survival[:9]}, "survival has shape"),
        ({"method": "slop"}, "Did you mean 'slope'"),
        ({"reference_time": 5.0}, "at most the curves' last time of 1.5"),
        ({"reference_time": -1.0}, "reference_time is -1"),
        ({"weights": np.full(100, np.nan)}, "weights must be finite"),
    ):
        with pytest.raises(MetricError, match=message):
            fit_recalibration(
                **{"time": time, "event": event, "survival": survival, "times": TIMES, **change}
            )
    fitted = fit_recalibration(time, event, survival, TIMES, reference_time=1.0)
    with pytest.raises(MetricError, match="before the reference time of 1"):
        fitted.apply(survival[:, :4], TIMES[:4])
    with pytest.raises(MetricError, match="outside"):
        fitted.apply(survival + 1, TIMES)
    perfect = np.arange(1.0, 13.0)
    with pytest.raises(MetricError, match="run off"):
        fit_recalibration(perfect, np.ones(12), curves(-perfect / 4), TIMES)
