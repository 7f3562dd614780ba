"""Concordance and the area under the ROC curve."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from lifelines.utils import concordance_index as lifelines_concordance
from sksurv import metrics as sksurv

from concordant import metrics
from concordant.metrics.antolini import concordance_index_antolini
from concordant.metrics.auc import auc_at, cumulative_dynamic_auc
from conformance_checks.cohorts import (
    GRID,
    SETS,
    cohorts,
    golden,
    linear_predictor,
    outcome,
    predicted_survival,
    simulated,
    small,
    tied_cohorts,
)
from conformance_checks.definitions import (
    loop_antolini,
    loop_auc,
    loop_censoring,
    loop_concordance,
    loop_concordance_ipcw,
)
from conformance_checks.registry import LIFELINES, LOOP, SKSURV, R, check, gap, relative


@check("concordance_index", against=R)
def _() -> Iterator[float]:
    for name in SETS:
        yield gap(
            metrics.concordance_index(*linear_predictor(name)).estimate,
            golden()[name]["harrell"]["C"],
        )


@check("concordance_index", against=R, quantity="standard error")
def _() -> Iterator[float]:
    for name in SETS:
        yield gap(
            metrics.concordance_index(*linear_predictor(name)).standard_error,
            golden()[name]["harrell"]["se"],
        )


@check("concordance_index", against=SKSURV)
def _() -> Iterator[float]:
    for time, event, risk in tied_cohorts():
        theirs = sksurv.concordance_index_censored(event == 1, time, risk)[0]
        yield gap(metrics.concordance_index(time, event, risk).estimate, theirs)


@check("concordance_index", against=LIFELINES)
def _() -> Iterator[float]:
    for time, event, risk in tied_cohorts():
        yield gap(
            metrics.concordance_index(time, event, risk).estimate,
            lifelines_concordance(time, -risk, event),
        )


@check("concordance_index", against=LOOP, quantity="estimate, also by cause")
def _() -> Iterator[float]:
    for time, event, risk in small(causes=2):
        yield gap(
            metrics.concordance_index(time, event, risk).estimate,
            loop_concordance(time, event, risk),
        )
        yield gap(
            metrics.concordance_index(time, event, risk, cause=2).estimate,
            loop_concordance(time, event, risk, cause=2),
        )


@check("concordance_index_ipcw", against=R, quantity="estimate, cases until tau and at tau")
def _() -> Iterator[float]:
    for name in SETS:
        for expected in golden()[name]["uno_ymax"]:
            tau = np.nextafter(expected["tau"], np.inf)
            yield gap(
                metrics.concordance_index_ipcw(*linear_predictor(name), tau=tau).estimate,
                expected["C"],
            )


@check(
    "concordance_index_ipcw",
    against=R,
    quantity="standard error without the censoring curve's part, as R has it",
)
def _() -> Iterator[float]:
    for name in SETS:
        time, event, risk = linear_predictor(name)
        for expected in golden()[name]["uno_ymax"]:
            tau = np.nextafter(expected["tau"], np.inf)
            apart = metrics.concordance_index_ipcw(
                time, event, risk, tau=tau, censoring=(time, event)
            )
            yield gap(np.sqrt(np.square(apart.influence).sum()), expected["se"])


@check("concordance_index_ipcw", against=SKSURV, quantity='estimate, convention="sksurv"')
def _() -> Iterator[float]:
    for time, event, risk in tied_cohorts():
        tau = np.quantile(time, 0.8)
        theirs = sksurv.concordance_index_ipcw(
            outcome(time, event), outcome(time, event), risk, tau=tau
        )[0]
        yield gap(
            metrics.concordance_index_ipcw(
                time, event, risk, tau=tau, convention="sksurv"
            ).estimate,
            theirs,
        )


@check(
    "concordance_index_ipcw", against=SKSURV, quantity="estimate, another cohort's censoring curve"
)
def _() -> Iterator[float]:
    for seed in range(5):
        (time, event, risk), train = simulated(seed), simulated(seed + 50)[:2]
        theirs = sksurv.concordance_index_ipcw(
            outcome(*train), outcome(time, event), risk, tau=1.0
        )[0]
        yield gap(
            metrics.concordance_index_ipcw(time, event, risk, tau=1.0, censoring=train).estimate,
            theirs,
        )


@check("concordance_index_ipcw", against=LOOP)
def _() -> Iterator[float]:
    for time, event, risk in small():
        weight = np.array(
            [
                loop_censoring(time, event != 1, t, inclusive=False) ** -2.0 if t < 1 else 0.0
                for t in time
            ]
        )
        slow = loop_concordance(time, event, risk, case_weight=weight)
        yield gap(metrics.concordance_index_ipcw(time, event, risk, tau=1.0).estimate, slow)


@check(
    "concordance_index_ipcw",
    "compare_concordance_ipcw",
    against=LOOP,
    quantity="estimate by cause, difference of two",
)
def _() -> Iterator[float]:
    for time, event, risk in small(causes=2):
        other = np.random.default_rng(0).permutation(risk)
        for cause in (1, 2):
            first, second = (
                loop_concordance_ipcw(time, event, one, cause, tau=1.0) for one in (risk, other)
            )
            yield gap(
                metrics.concordance_index_ipcw(time, event, risk, tau=1.0, cause=cause).estimate,
                first,
            )
            yield gap(
                metrics.compare_concordance_ipcw(
                    time, event, risk, other, tau=1.0, cause=cause
                ).difference,
                first - second,
            )


@check("concordance_index_antolini", against=LOOP, quantity="estimate, every method and both steps")
def _() -> Iterator[float]:
    for time, event, signal in small():
        shape = np.random.default_rng(0).uniform(0.5, 2, (len(time), 1))
        survival = np.exp(-np.exp(signal)[:, None] * GRID**shape).round(1)
        for method in ("harrell", "antolini", "adj_antolini"):
            for steps in ("post", "pre"):
                ours = concordance_index_antolini(
                    time, event, survival, GRID, method=method, steps=steps
                ).estimate
                yield gap(ours, loop_antolini(time, event, survival, GRID, method, steps))


@check(
    "concordance_index_antolini",
    against="concordance_index",
    quantity="estimate, proportional hazards",
)
def _() -> Iterator[float]:
    for time, event, signal in cohorts():
        hazard = np.exp((signal - signal.mean()) / signal.std())
        survival = np.exp(-np.outer(hazard, np.linspace(0.01, 0.1, 6)))
        ours = concordance_index_antolini(
            time,
            event,
            survival,
            np.quantile(time, np.linspace(0.1, 0.9, 6)) * (1 + 1e-9 * np.arange(6)),
        )
        yield gap(ours.estimate, metrics.concordance_index(time, event, signal).estimate)


@check("cumulative_dynamic_auc", "auc_at", against=R)
def _() -> Iterator[float]:
    for name in SETS:
        time, event, survival = predicted_survival(name)
        expected = golden()[name]["score_auc"]
        ours = cumulative_dynamic_auc(time, event, 1 - survival, np.array(expected["times"]))
        yield gap(ours.estimate, expected["AUC"])
        single = [
            auc_at(time, event, 1 - column, at).estimate
            for column, at in zip(survival.T, expected["times"], strict=True)
        ]
        yield gap(single, expected["AUC"])


@check(
    "cumulative_dynamic_auc",
    against=R,
    quantity="standard error, relative; R has another estimate of it",
    tolerance=0.02,
)
def _() -> Iterator[float]:
    for name in SETS:
        time, event, survival = predicted_survival(name)
        expected = golden()[name]["score_auc"]
        yield relative(
            cumulative_dynamic_auc(
                time, event, 1 - survival, np.array(expected["times"])
            ).standard_error,
            expected["se"],
        )


@check("cumulative_dynamic_auc", against=SKSURV, quantity='estimate and mean, convention="sksurv"')
def _() -> Iterator[float]:
    for time, event, risk in cohorts():
        times = np.unique(np.quantile(time, [0.1, 0.25, 0.4, 0.6, 0.8]))
        theirs, mean = sksurv.cumulative_dynamic_auc(
            outcome(time, event), outcome(time, event), risk, times
        )
        ours = cumulative_dynamic_auc(time, event, risk, times, convention="sksurv")
        yield gap(ours.estimate, theirs)
        yield gap(ours.mean.estimate, mean)


@check("cumulative_dynamic_auc", "auc_at", against=LOOP)
def _() -> Iterator[float]:
    for time, event, risk in small():
        slow = [loop_auc(time, event, risk, at) for at in (0.3, 0.7)]
        yield gap(cumulative_dynamic_auc(time, event, risk, np.array([0.3, 0.7])).estimate, slow)
        yield gap(auc_at(time, event, risk, 0.7).estimate, slow[1])
