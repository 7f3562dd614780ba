"""Prediction error and calibration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lifelines
import numpy as np
import pandas as pd
from sksurv import metrics as sksurv
from sksurv.linear_model import CoxPHSurvivalAnalysis

from concordant import metrics
from conformance_checks.cohorts import (
    GRID,
    HORIZON,
    SETS,
    chance,
    cohorts,
    curves,
    golden,
    kaplan_meier_fit,
    outcome,
    predicted_survival,
    simulated,
    small,
)
from conformance_checks.definitions import loop_baseline, loop_brier, loop_incidence
from conformance_checks.registry import LIFELINES, LOOP, SKSURV, R, check, gap, relative


@check("brier_score", against=R)
def _() -> Iterator[float]:
    for name in SETS:
        ours, expected, model = _brier_of_r(name)
        yield gap(ours.estimate, np.array(expected["Brier"])[model])


@check(
    "brier_score",
    against=R,
    quantity="standard error, relative; R has another estimate of it",
    tolerance=0.006,
)
def _() -> Iterator[float]:
    for name in SETS:
        ours, expected, model = _brier_of_r(name)
        yield relative(ours.standard_error, np.array(expected["se"])[model])


def _brier_of_r(name: str) -> tuple[metrics.BrierScores, dict[str, Any], np.ndarray]:
    expected = golden()[name]["score_brier"]
    model = np.array(expected["model"]) == "cox"
    return (
        metrics.brier_score(*predicted_survival(name), np.array(expected["times"])[model]),
        expected,
        model,
    )


@check(
    "brier_score",
    "integrated_brier_score",
    against=SKSURV,
    quantity='estimate, convention="sksurv"',
)
def _() -> Iterator[float]:
    for time, event, risk in cohorts():
        times = np.unique(np.quantile(time, [0.1, 0.25, 0.4, 0.6, 0.8]))
        survival, true = curves(risk - risk.mean(), times / np.median(time)), outcome(time, event)
        ours = metrics.brier_score(time, event, survival, times, convention="sksurv").estimate
        yield gap(ours, sksurv.brier_score(true, true, survival, times)[1])
        whole = metrics.integrated_brier_score(
            time, event, survival, times, convention="sksurv"
        ).estimate
        yield gap(whole, sksurv.integrated_brier_score(true, true, survival, times))


@check(
    "brier_score",
    "brier_score_at",
    "integrated_brier_score",
    against=LOOP,
    quantity="estimate, also by cause",
)
def _() -> Iterator[float]:
    times = GRID[:4]
    for time, event, signal in small(causes=2):
        survival = curves(signal, times)
        for cause in (None, 2):
            slow = [
                loop_brier(time, event, survival[:, k], at, cause) for k, at in enumerate(times)
            ]
            yield gap(metrics.brier_score(time, event, survival, times, cause=cause).estimate, slow)
            yield gap(
                metrics.brier_score_at(time, event, survival[:, 1], times[1], cause=cause).estimate,
                slow[1],
            )
            whole = metrics.integrated_brier_score(
                time, event, survival, times, cause=cause
            ).estimate
            yield gap(whole, np.trapezoid(slow, times) / (times[-1] - times[0]))


@check("log_score", against=LOOP)
def _() -> Iterator[float]:
    for time, event, signal in small():
        survival = curves(signal)
        padded = np.column_stack([np.ones(60), survival, np.zeros(60)])
        loss = []
        for i in range(60):
            k = int(np.searchsorted(GRID, time[i]))
            seen = (
                padded[i, k] - padded[i, k + 1]
                if event[i] == 1
                else np.interp(time[i], np.append(0, GRID), padded[i, :-1])
            )
            loss.append(-np.log(max(seen, 1e-8)))
        yield gap(metrics.log_score(time, event, survival, GRID).estimate, np.mean(loss))


@check("log_score", against=LOOP, quantity="estimate by cause")
def _() -> Iterator[float]:
    for time, event, signal in small(causes=2):
        free = curves(signal)
        first = (1 - free) * 0.4  # the incidence of the first of two proportional causes
        loss = []
        for own, code, none, gained in zip(time, event, free, first, strict=True):
            k = int(np.searchsorted(GRID, own))
            if code == 0 or k == len(GRID):
                seen = np.interp(own, np.append(0, GRID), np.append(1, none))
            else:
                incidence = np.append(0, gained if code == 1 else 1 - none - gained)
                seen = incidence[k + 1] - incidence[k]
            loss.append(-np.log(max(seen, 1e-8)))
        yield gap(
            metrics.log_score(time, event, 1 - first, GRID, cause=1, event_free=free).estimate,
            np.mean(loss),
        )


@check("d_calibration", against=LOOP, quantity="share per bin")
def _() -> Iterator[float]:
    for time, event, signal in small():
        share = np.zeros(10)
        for i in range(60):
            s = np.interp(
                min(time[i], GRID[-1]), np.append(0, GRID), np.append(1, curves(signal)[i])
            )
            if event[i] == 1 and time[i] <= GRID[-1]:
                share[min(int(s * 10), 9)] += 1 / 60
            else:
                share += np.clip(s - np.arange(10) / 10, 0, 0.1) / s / 60
        yield gap(metrics.d_calibration(time, event, curves(signal), GRID).estimate, share)


@check("one_calibration", against=LOOP, quantity="published statistic, relative")
def _() -> Iterator[float]:
    for seed in range(5):
        time, event, signal = simulated(seed, 200)
        predicted = chance(signal)
        total = 0.0
        for rows in np.split(np.argsort(predicted), 5):
            mean = predicted[rows].mean()
            total += (
                40
                * (loop_incidence(time[rows], event[rows], HORIZON) - mean) ** 2
                / (mean * (1 - mean))
            )
        yield relative(
            metrics.one_calibration(time, event, predicted, HORIZON, groups=5).statistic, total
        )


@check("kaplan_meier_calibration", "calibration_in_the_large", against=LIFELINES)
def _() -> Iterator[float]:
    for seed in range(5):
        time, event, signal = simulated(seed, 400)
        predicted = chance(signal)
        parts = metrics.kaplan_meier_calibration(time, event, predicted, HORIZON, groups=4)
        theirs = [
            1 - kaplan_meier_fit(time[parts.group == k], event[parts.group == k]).predict(HORIZON)
            for k in range(4)
        ]
        yield gap(parts.estimate, theirs)
        whole = (1 - kaplan_meier_fit(time, event).predict(HORIZON)) / predicted.mean()
        yield gap(metrics.calibration_in_the_large(time, event, predicted, HORIZON).estimate, whole)


@check(
    "calibration_slope",
    against=LIFELINES,
    quantity="estimate and robust standard error (a Cox fit)",
    tolerance=1e-6,
)
def _() -> Iterator[float]:
    for seed in range(5):
        time, event, signal = simulated(seed, 400)
        predicted = chance(0.6 * signal - 0.3)
        table = pd.DataFrame(
            {
                "x": np.log(-np.log(1 - predicted)),
                "t": np.minimum(time, HORIZON),
                "e": event * (time <= HORIZON),
            }
        )
        theirs = lifelines.CoxPHFitter().fit(
            table, "t", "e", robust=True, fit_options={"precision": 1e-12}
        )
        ours = metrics.calibration_slope(time, event, predicted, HORIZON)
        yield gap(
            [ours.estimate, ours.standard_error],
            [theirs.params_["x"], theirs.standard_errors_["x"]],
        )


@check(
    "integrated_calibration_index",
    against=SKSURV,
    quantity="estimate and smooth curve (a Cox fit of the same spline)",
    tolerance=1e-6,
)
def _() -> Iterator[float]:
    for seed in range(5):
        time, event, signal = simulated(seed, 400)
        predicted = chance(0.6 * signal + 0.2)
        ours = metrics.integrated_calibration_index(time, event, predicted, HORIZON)
        x, (first, middle, last) = np.log(-np.log(1 - predicted)), ours.knots
        beyond = [
            (np.maximum(x - knot, 0) ** 3 - np.maximum(x - last, 0) ** 3) / (last - knot)
            for knot in (first, middle)
        ]
        design = np.column_stack([x, beyond[0] - beyond[1]])
        model = CoxPHSurvivalAnalysis(ties="breslow", tol=1e-14).fit(design, outcome(time, event))
        observed = 1 - np.array(
            [curve(HORIZON) for curve in model.predict_survival_function(design)]
        )
        yield gap(ours.observed, observed)
        yield gap(ours.estimate, np.abs(observed - predicted).mean())


@check("fit_recalibration", against=LOOP, quantity="recalibrated curves, given the slope")
def _() -> Iterator[float]:
    for time, event, signal in small():
        survival = curves(0.5 * signal)
        for method in ("slope", "baseline"):
            fitted = metrics.fit_recalibration(
                time, event, survival, GRID, method=method, reference_time=GRID[2]
            )
            hazard = np.exp(fitted.slope * 0.5 * signal)
            slow = np.exp(
                -np.outer(hazard, [loop_baseline(time, event, hazard, at) for at in GRID])
            )
            yield gap(fitted.apply(survival, GRID), slow)
