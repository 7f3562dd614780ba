"""Every function of `concordant.metrics` against scikit-survival, lifelines, R and plain loops: writes docs/reference/conformance.md.

Usage: python benchmarks/conformance.py [--out docs/reference/conformance.md]

Needs the test extra (scikit-survival, lifelines) and the folder golden_R, values computed by R on public data sets, below the
environment variable CONCORDANT_DATA (default ../shared/data). The numbers of the simulation study and of the benchmark are read from
benchmarks/inference_study.csv and benchmarks/metrics.csv where these are. Exit status 1: a difference is above its tolerance.
"""

from __future__ import annotations

import argparse
import csv
import inspect
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import lifelines
import numpy as np
import pandas as pd
from lifelines.statistics import multivariate_logrank_test
from lifelines.utils import concordance_index as lifelines_concordance
from lifelines.utils import restricted_mean_survival_time
from scipy import stats
from sksurv import metrics as sksurv
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.util import Surv

from concordant import metrics
from concordant.metrics.antolini import concordance_index_antolini
from concordant.metrics.auc import auc_at, cumulative_dynamic_auc
from concordant.metrics.censoring import Convention

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("CONCORDANT_DATA", ROOT / ".." / "shared" / "data")) / "golden_R"
SETS = ("lung", "veteran", "gbsg", "rotterdam", "pbc", "flchain", "nwtco")
EXACT = 1e-12
HORIZON = 0.5
GRID = np.linspace(0.1, 1.5, 8)
STEP = 1e-5  # of a weight, in a numerical derivative
LARGE, TICK = 1_000_000, 0.25  # of the cohort that shows what ties do

R, SKSURV, LIFELINES, SCIPY, LOOP, ALGEBRA, DERIVATIVE = (
    "R",
    "scikit-survival",
    "lifelines",
    "SciPy",
    "plain loop",
    "its definition",
    "numerical derivative",
)


@dataclass(frozen=True, slots=True)
class Check:
    """A comparison: the differences it yields, and the largest one allowed."""

    functions: tuple[str, ...]
    against: str
    quantity: str
    tolerance: float
    differences: Callable[[], Iterable[float]]


CHECKS: list[Check] = []


def check(*functions: str, against: str, quantity: str = "estimate", tolerance: float = EXACT) -> Callable[..., Any]:
    """Register a comparison; the function under it yields absolute differences unless the quantity says otherwise."""

    def register(differences: Callable[[], Iterator[float]]) -> Callable[[], Iterator[float]]:
        CHECKS.append(Check(functions, against, quantity, tolerance, differences))
        return differences

    return register


def gap(ours: Any, theirs: Any) -> float:
    """Return the largest absolute difference; infinite where only one of two is a number."""
    first, second = np.broadcast_arrays(np.asarray(ours, float), np.asarray(theirs, float))
    known = ~(np.isnan(first) & np.isnan(second))
    difference = np.abs(first - second)[known & (first != second)]
    return float(np.nan_to_num(difference, nan=np.inf).max(initial=0.0))


def relative(ours: Any, theirs: Any) -> float:
    """Return the largest difference as a share of the other's value."""
    return gap(np.asarray(ours, float) / np.asarray(theirs, float), 1.0)


# --- data ---


@cache
def golden() -> Any:
    """Return the values computed by R."""
    return json.loads((DATA / "golden.json").read_text())


@cache
def columns(name: str) -> np.ndarray:
    """Return a table of golden_R, one row per column."""
    return np.genfromtxt(DATA / "data" / f"{name}.csv", delimiter=",", skip_header=1).T


def linear_predictor(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return time, event and the risk of a Cox model."""
    time, status, risk = columns(f"{name}_lp")
    return time, status.astype(int), risk


def predicted_survival(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return time, event and S at the three times of R's scores."""
    time, status, *survival = columns(f"{name}_surv")
    return time, status.astype(int), np.column_stack(survival)


def simulated(seed: int, n: int = 300, *, ties: bool = False, causes: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return time, event (codes up to `causes`) and the log-hazard."""
    generator = np.random.default_rng(seed)
    signal = generator.normal(size=n)
    time, end = generator.exponential(np.exp(-signal)), generator.exponential(2.0, size=n)
    event, time = (time <= end) * generator.integers(1, causes + 1, n), np.minimum(time, end)
    return (np.ceil(time * 10) / 10, event, signal.round(1)) if ties else (time, event, signal)


def small(*, causes: int = 1) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield cohorts of 60 subjects with and without ties, for the plain loops."""
    for seed in range(6):
        yield simulated(seed, 60, ties=seed % 2 == 0, causes=causes)


def cohorts() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield the seven public cohorts and two simulated ones."""
    yield from (linear_predictor(name) for name in SETS)
    yield from (simulated(0, 400, ties=ties) for ties in (False, True))


def tied_cohorts() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield the same cohorts, each also with times and risks rounded."""
    for time, event, risk in cohorts():
        yield time, event, risk
        yield np.ceil(time / np.quantile(time, 0.05)), event, risk.round(1)


def outcome(time: np.ndarray, event: np.ndarray) -> Any:
    """Return outcomes as scikit-survival takes them."""
    return Surv.from_arrays(event == 1, time)


def curves(signal: np.ndarray, times: np.ndarray = GRID) -> np.ndarray:
    """Return proportional-hazards survival curves."""
    return np.exp(-np.outer(np.exp(signal), times))


def chance(signal: np.ndarray) -> np.ndarray:
    """Return the probability of the event by the horizon."""
    return 1 - curves(signal, np.array([HORIZON]))[:, 0]


# --- definitions, as plain loops ---


def loop_concordance(
    time: np.ndarray, event: np.ndarray, risk: np.ndarray, *, case_weight: np.ndarray | None = None, cause: int | None = None
) -> float:
    """Return the concordance, one pair after the other; with a cause a competing event makes a control of every case."""
    time = time if cause is None else np.where((event != 0) & (event != cause), np.inf, time)
    case = event == (cause or 1)
    credit = total = 0.0
    for i in np.flatnonzero(case):
        for j in range(len(time)):
            if time[i] < time[j] or (time[i] == time[j] and not case[j]):
                weight = 1.0 if case_weight is None else case_weight[i]
                total += weight
                credit += weight * (1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0)
    return credit / total


def loop_censoring(time: np.ndarray, censored: np.ndarray, at: float, *, inclusive: bool) -> float:
    """Return G(at) or G(at-): events leave before the censorings of their time."""
    value = 1.0
    for s in np.unique(time[censored]):
        if s < at or (inclusive and s == at):
            leaving = ((time == s) & censored).sum()
            value *= 1 - leaving / ((time > s).sum() + leaving)
    return value


def loop_incidence(time: np.ndarray, event: np.ndarray, horizon: float, cause: int = 1) -> float:
    """Return the Aalen-Johansen probability of a cause, every other code but 0 competing."""
    free, incidence = 1.0, 0.0
    for s in np.unique(time[(event != 0) & (time <= horizon)]):
        at_risk = (time >= s).sum()
        incidence += free * ((time == s) & (event == cause)).sum() / at_risk
        free *= 1 - ((time == s) & (event != 0)).sum() / at_risk
    return incidence


def loop_brier(time: np.ndarray, event: np.ndarray, survival: np.ndarray, at: float, cause: int | None = None) -> float:
    """Return the Brier score, one subject after the other."""
    censored = (event != 1) if cause is None else (event == 0)
    total = 0.0
    for own, code, gone, value in zip(time, event, censored, survival, strict=True):
        if own > at:
            total += (1 - value) ** 2 / loop_censoring(time, censored, at, inclusive=True)
        elif not gone:
            total += (float(code == (cause or 1)) - (1 - value)) ** 2 / loop_censoring(time, censored, own, inclusive=False)
    return total / len(time)


def loop_auc(time: np.ndarray, event: np.ndarray, risk: np.ndarray, at: float) -> float:
    """Return the area under the ROC curve at a time, one pair after the other."""
    credit = total = 0.0
    for i in np.flatnonzero((event == 1) & (time <= at)):
        weight = 1 / loop_censoring(time, event != 1, time[i], inclusive=False)
        for j in np.flatnonzero(time > at):
            total += weight
            credit += weight * (1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0)
    return credit / total


def loop_antolini(time: np.ndarray, event: np.ndarray, survival: np.ndarray, times: np.ndarray, method: str, steps: str) -> float:
    """Return Antolini's concordance, one ordered pair after the other."""
    equal = 0.0 if method == "antolini" else 0.5
    credit = total = 0.0
    for i in range(len(time)):
        position = np.searchsorted(times, time[i], side="right") - 1 if steps == "post" else np.searchsorted(times, time[i])
        column = min(max(position, 0), len(times) - 1)
        for j in range(len(time)):
            earned = _antolini_credit(i, j, time, event, survival[:, column], method, equal)
            total += earned is not None
            credit += earned or 0.0
    return credit / total


def _antolini_credit(i: int, j: int, time: np.ndarray, event: np.ndarray, survival: np.ndarray, method: str, equal: float) -> float | None:
    tied, same = time[i] == time[j], survival[i] == survival[j]
    if i != j and event[i] == 1 and (time[i] < time[j] or (tied and event[j] != 1)):
        return 1.0 if survival[i] < survival[j] else equal if same else 0.0
    if i == j or method != "adj_antolini" or not tied or event[j] != 1:
        return None
    if event[i] == 1:
        return 1.0 if same else 0.5
    return 1.0 if survival[i] > survival[j] else equal if same else 0.0


def loop_baseline(time: np.ndarray, event: np.ndarray, relative_hazard: np.ndarray, at: float) -> float:
    """Return Breslow's cumulative baseline hazard."""
    return float(sum(((time == s) & (event == 1)).sum() / relative_hazard[time >= s].sum() for s in np.unique(time[event == 1]) if s <= at))


# --- discrimination ---


@check("concordance_index", against=R)
def _() -> Iterator[float]:
    for name in SETS:
        yield gap(metrics.concordance_index(*linear_predictor(name)).estimate, golden()[name]["harrell"]["C"])


@check("concordance_index", against=R, quantity="standard error")
def _() -> Iterator[float]:
    for name in SETS:
        yield gap(metrics.concordance_index(*linear_predictor(name)).standard_error, golden()[name]["harrell"]["se"])


@check("concordance_index", against=SKSURV)
def _() -> Iterator[float]:
    for time, event, risk in tied_cohorts():
        theirs = sksurv.concordance_index_censored(event == 1, time, risk)[0]
        yield gap(metrics.concordance_index(time, event, risk).estimate, theirs)


@check("concordance_index", against=LIFELINES)
def _() -> Iterator[float]:
    for time, event, risk in tied_cohorts():
        yield gap(metrics.concordance_index(time, event, risk).estimate, lifelines_concordance(time, -risk, event))


@check("concordance_index", against=LOOP, quantity="estimate, also by cause")
def _() -> Iterator[float]:
    for time, event, risk in small(causes=2):
        yield gap(metrics.concordance_index(time, event, risk).estimate, loop_concordance(time, event, risk))
        yield gap(metrics.concordance_index(time, event, risk, cause=2).estimate, loop_concordance(time, event, risk, cause=2))


@check("concordance_index_ipcw", against=R, quantity="estimate, cases until tau and at tau")
def _() -> Iterator[float]:
    for name in SETS:
        for expected in golden()[name]["uno_ymax"]:
            tau = np.nextafter(expected["tau"], np.inf)
            yield gap(metrics.concordance_index_ipcw(*linear_predictor(name), tau=tau).estimate, expected["C"])


@check("concordance_index_ipcw", against=R, quantity="standard error without the censoring curve's part, as R has it")
def _() -> Iterator[float]:
    for name in SETS:
        time, event, risk = linear_predictor(name)
        for expected in golden()[name]["uno_ymax"]:
            tau = np.nextafter(expected["tau"], np.inf)
            apart = metrics.concordance_index_ipcw(time, event, risk, tau=tau, censoring=(time, event))
            yield gap(np.sqrt(np.square(apart.influence).sum()), expected["se"])


@check("concordance_index_ipcw", against=SKSURV, quantity='estimate, convention="sksurv"')
def _() -> Iterator[float]:
    for time, event, risk in tied_cohorts():
        tau = np.quantile(time, 0.8)
        theirs = sksurv.concordance_index_ipcw(outcome(time, event), outcome(time, event), risk, tau=tau)[0]
        yield gap(metrics.concordance_index_ipcw(time, event, risk, tau=tau, convention="sksurv").estimate, theirs)


@check("concordance_index_ipcw", against=SKSURV, quantity="estimate, another cohort's censoring curve")
def _() -> Iterator[float]:
    for seed in range(5):
        (time, event, risk), train = simulated(seed), simulated(seed + 50)[:2]
        theirs = sksurv.concordance_index_ipcw(outcome(*train), outcome(time, event), risk, tau=1.0)[0]
        yield gap(metrics.concordance_index_ipcw(time, event, risk, tau=1.0, censoring=train).estimate, theirs)


@check("concordance_index_ipcw", against=LOOP)
def _() -> Iterator[float]:
    for time, event, risk in small():
        weight = np.array([loop_censoring(time, event != 1, t, inclusive=False) ** -2.0 if t < 1 else 0.0 for t in time])
        slow = loop_concordance(time, event, risk, case_weight=weight)
        yield gap(metrics.concordance_index_ipcw(time, event, risk, tau=1.0).estimate, slow)


@check("concordance_index_antolini", against=LOOP, quantity="estimate, every method and both steps")
def _() -> Iterator[float]:
    for time, event, signal in small():
        shape = np.random.default_rng(0).uniform(0.5, 2, (len(time), 1))
        survival = np.exp(-np.exp(signal)[:, None] * GRID**shape).round(1)
        for method in ("harrell", "antolini", "adj_antolini"):
            for steps in ("post", "pre"):
                ours = concordance_index_antolini(time, event, survival, GRID, method=method, steps=steps).estimate
                yield gap(ours, loop_antolini(time, event, survival, GRID, method, steps))


@check("concordance_index_antolini", against="concordance_index", quantity="estimate, proportional hazards")
def _() -> Iterator[float]:
    for time, event, signal in cohorts():
        hazard = np.exp((signal - signal.mean()) / signal.std())
        survival = np.exp(-np.outer(hazard, np.linspace(0.01, 0.1, 6)))
        ours = concordance_index_antolini(time, event, survival, np.quantile(time, np.linspace(0.1, 0.9, 6)) * (1 + 1e-9 * np.arange(6)))
        yield gap(ours.estimate, metrics.concordance_index(time, event, signal).estimate)


@check("cumulative_dynamic_auc", "auc_at", against=R)
def _() -> Iterator[float]:
    for name in SETS:
        time, event, survival = predicted_survival(name)
        expected = golden()[name]["score_auc"]
        ours = cumulative_dynamic_auc(time, event, 1 - survival, np.array(expected["times"]))
        yield gap(ours.estimate, expected["AUC"])
        single = [auc_at(time, event, 1 - column, at).estimate for column, at in zip(survival.T, expected["times"], strict=True)]
        yield gap(single, expected["AUC"])


@check("cumulative_dynamic_auc", against=R, quantity="standard error, relative; R has another estimate of it", tolerance=0.02)
def _() -> Iterator[float]:
    for name in SETS:
        time, event, survival = predicted_survival(name)
        expected = golden()[name]["score_auc"]
        yield relative(cumulative_dynamic_auc(time, event, 1 - survival, np.array(expected["times"])).standard_error, expected["se"])


@check("cumulative_dynamic_auc", against=SKSURV, quantity='estimate and mean, convention="sksurv"')
def _() -> Iterator[float]:
    for time, event, risk in cohorts():
        times = np.unique(np.quantile(time, [0.1, 0.25, 0.4, 0.6, 0.8]))
        theirs, mean = sksurv.cumulative_dynamic_auc(outcome(time, event), outcome(time, event), risk, times)
        ours = cumulative_dynamic_auc(time, event, risk, times, convention="sksurv")
        yield gap(ours.estimate, theirs)
        yield gap(ours.mean.estimate, mean)


@check("cumulative_dynamic_auc", "auc_at", against=LOOP)
def _() -> Iterator[float]:
    for time, event, risk in small():
        slow = [loop_auc(time, event, risk, at) for at in (0.3, 0.7)]
        yield gap(cumulative_dynamic_auc(time, event, risk, np.array([0.3, 0.7])).estimate, slow)
        yield gap(auc_at(time, event, risk, 0.7).estimate, slow[1])


# --- comparison of models ---


@check("concordance_covariance", "compare_concordance", "subtract", against=R, quantity="estimates, covariance, difference and its error")
def _() -> Iterator[float]:
    time, status, first, second = columns("paired_lung")
    event, expected = status.astype(int), golden()["paired_lung"]
    joint = metrics.concordance_covariance(time, event, np.column_stack([first, second]))
    yield gap(joint.estimate, expected["C"])
    yield gap(joint.covariance, expected["vcov"])
    direct = metrics.compare_concordance(time, event, second, first)
    both = [metrics.concordance_index(time, event, risk) for risk in (second, first)]
    for difference in (joint.contrast(np.array([-1.0, 1.0])), direct, metrics.subtract(*both)):
        yield gap([difference.difference, difference.standard_error], [expected["diff"], expected["se_diff"]])


def _differences() -> list[metrics.Difference]:
    time, event, signal = simulated(3, 200)
    risks = signal[:, None] + np.random.default_rng(3).normal(size=(200, 5))
    joint = metrics.concordance_covariance(time, event, risks)
    return [joint.contrast(np.eye(5)[k] - np.eye(5)[0]) for k in range(1, 5)]


@check("joint_covariance", "average_over_seeds", against=ALGEBRA)
def _() -> Iterator[float]:
    family = _differences()
    table = np.array([[float(a.influence @ b.influence) for b in family] for a in family])
    yield gap(metrics.joint_covariance(family), table)
    average = metrics.average_over_seeds(family)
    yield gap(average.estimate, np.mean([one.difference for one in family]))
    yield gap(average.standard_error, np.sqrt(table.mean()))


@check("equivalence", "non_inferiority", "gain_over_both", against=SCIPY, quantity="p-values")
def _() -> Iterator[float]:
    first, second, *_ = _differences()
    value, error = first.difference, first.standard_error
    below, above = stats.norm.sf((0.03 + value) / error), stats.norm.sf((0.03 - value) / error)
    yield gap(metrics.equivalence(first, 0.03).p_value, max(below, above))
    yield gap(metrics.non_inferiority(first, 0.03).p_value, below)
    both = [stats.norm.sf(one.difference / one.standard_error) for one in (first, second)]
    yield gap(metrics.gain_over_both(first, second).p_value, max(both))


@check("holm", "benjamini_hochberg", against=LOOP)
def _() -> Iterator[float]:
    for seed in range(20):
        p = np.random.default_rng(seed).uniform(0, 0.3, 12).round(2)
        order = np.argsort(p)
        steps = [min(1.0, max((12 - j) * p[order[j]] for j in range(k + 1))) for k in range(12)]
        yield gap(metrics.holm(p)[order], steps)
        yield gap(metrics.benjamini_hochberg(p), stats.false_discovery_control(p))


@check("simultaneous", against=SCIPY, quantity="critical value: independent (Sidak), all pairs of means (Tukey)", tolerance=0.02)
def _() -> Iterator[float]:
    for count in (2, 5, 12):
        ours = metrics.simultaneous(np.zeros(count), np.eye(count)).critical_value
        yield gap(ours, stats.norm.ppf(0.5 + 0.95 ** (1 / count) / 2))
    for count in (3, 5):
        pairs = np.array([np.eye(count)[i] - np.eye(count)[j] for i in range(count) for j in range(i)])
        ours = metrics.simultaneous(np.zeros(len(pairs)), pairs @ pairs.T, degrees=30).critical_value
        yield gap(ours, stats.studentized_range.ppf(0.95, count, 30) / np.sqrt(2))


@check("simultaneous_differences", against="simultaneous", quantity="critical value and p-values")
def _() -> Iterator[float]:
    family = _differences()
    ours = metrics.simultaneous_differences(family)
    values = np.array([one.difference for one in family])
    theirs = metrics.simultaneous(values, metrics.joint_covariance(family), degrees=199)
    yield gap([ours.critical_value, *ours.p_value], [theirs.critical_value, *theirs.p_value])


@check("nadeau_bengio", against=SCIPY, quantity="p-value")
def _() -> Iterator[float]:
    values = np.random.default_rng(0).normal(0.02, 0.03, (10, 5))
    error = np.sqrt(values.var(ddof=1) * (1 / 50 + 0.25))
    yield gap(metrics.nadeau_bengio(values, 0.25).p_value, 2 * stats.t.sf(abs(values.mean() / error), 49))


@check("bootstrap_concordance", "bootstrap", "resamples", against="concordance_index", quantity="every replicate")
def _() -> Iterator[float]:
    time, event, signal = simulated(4, 100, ties=True)
    risks = signal[:, None] + np.random.default_rng(4).normal(size=(100, 2)).round(1)
    draws = metrics.resamples(100, replicates=100, seed=1)
    slow = [[metrics.concordance_index(time, event, risk, weights=draw).estimate for risk in risks.T] for draw in draws]
    yield gap(metrics.bootstrap_concordance(time, event, risks, replicates=100, seed=1).replicates, slow)

    def both(weights: np.ndarray) -> np.ndarray:
        return metrics.concordance_covariance(time, event, risks, weights=weights).estimate

    yield gap(metrics.bootstrap(both, 100, replicates=100, seed=1).replicates, slow)


# --- prediction error and calibration ---


@check("brier_score", against=R)
def _() -> Iterator[float]:
    for name in SETS:
        ours, expected, model = _brier_of_r(name)
        yield gap(ours.estimate, np.array(expected["Brier"])[model])


@check("brier_score", against=R, quantity="standard error, relative; R has another estimate of it", tolerance=0.006)
def _() -> Iterator[float]:
    for name in SETS:
        ours, expected, model = _brier_of_r(name)
        yield relative(ours.standard_error, np.array(expected["se"])[model])


def _brier_of_r(name: str) -> tuple[metrics.BrierScores, dict[str, Any], np.ndarray]:
    expected = golden()[name]["score_brier"]
    model = np.array(expected["model"]) == "cox"
    return metrics.brier_score(*predicted_survival(name), np.array(expected["times"])[model]), expected, model


@check("brier_score", "integrated_brier_score", against=SKSURV, quantity='estimate, convention="sksurv"')
def _() -> Iterator[float]:
    for time, event, risk in cohorts():
        times = np.unique(np.quantile(time, [0.1, 0.25, 0.4, 0.6, 0.8]))
        survival, true = curves(risk - risk.mean(), times / np.median(time)), outcome(time, event)
        ours = metrics.brier_score(time, event, survival, times, convention="sksurv").estimate
        yield gap(ours, sksurv.brier_score(true, true, survival, times)[1])
        whole = metrics.integrated_brier_score(time, event, survival, times, convention="sksurv").estimate
        yield gap(whole, sksurv.integrated_brier_score(true, true, survival, times))


@check("brier_score", "brier_score_at", "integrated_brier_score", against=LOOP, quantity="estimate, also by cause")
def _() -> Iterator[float]:
    times = GRID[:4]
    for time, event, signal in small(causes=2):
        survival = curves(signal, times)
        for cause in (None, 2):
            slow = [loop_brier(time, event, survival[:, k], at, cause) for k, at in enumerate(times)]
            yield gap(metrics.brier_score(time, event, survival, times, cause=cause).estimate, slow)
            yield gap(metrics.brier_score_at(time, event, survival[:, 1], times[1], cause=cause).estimate, slow[1])
            whole = metrics.integrated_brier_score(time, event, survival, times, cause=cause).estimate
            yield gap(whole, np.trapezoid(slow, times) / (times[-1] - times[0]))


@check("log_score", against=LOOP)
def _() -> Iterator[float]:
    for time, event, signal in small():
        survival = curves(signal)
        padded = np.column_stack([np.ones(60), survival, np.zeros(60)])
        loss = []
        for i in range(60):
            k = int(np.searchsorted(GRID, time[i]))
            seen = padded[i, k] - padded[i, k + 1] if event[i] == 1 else np.interp(time[i], np.append(0, GRID), padded[i, :-1])
            loss.append(-np.log(max(seen, 1e-8)))
        yield gap(metrics.log_score(time, event, survival, GRID).estimate, np.mean(loss))


@check("d_calibration", against=LOOP, quantity="share per bin")
def _() -> Iterator[float]:
    for time, event, signal in small():
        share = np.zeros(10)
        for i in range(60):
            s = np.interp(min(time[i], GRID[-1]), np.append(0, GRID), np.append(1, curves(signal)[i]))
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
            total += 40 * (loop_incidence(time[rows], event[rows], HORIZON) - mean) ** 2 / (mean * (1 - mean))
        yield relative(metrics.one_calibration(time, event, predicted, HORIZON, groups=5).statistic, total)


@check("kaplan_meier_calibration", "calibration_in_the_large", against=LIFELINES)
def _() -> Iterator[float]:
    for seed in range(5):
        time, event, signal = simulated(seed, 400)
        predicted = chance(signal)
        parts = metrics.kaplan_meier_calibration(time, event, predicted, HORIZON, groups=4)
        theirs = [1 - _kaplan_meier(time[parts.group == k], event[parts.group == k]).predict(HORIZON) for k in range(4)]
        yield gap(parts.estimate, theirs)
        whole = (1 - _kaplan_meier(time, event).predict(HORIZON)) / predicted.mean()
        yield gap(metrics.calibration_in_the_large(time, event, predicted, HORIZON).estimate, whole)


def _kaplan_meier(time: np.ndarray, event: np.ndarray) -> lifelines.KaplanMeierFitter:
    return lifelines.KaplanMeierFitter().fit(time, event)


@check("calibration_slope", against=LIFELINES, quantity="estimate and robust standard error (a Cox fit)", tolerance=1e-6)
def _() -> Iterator[float]:
    for seed in range(5):
        time, event, signal = simulated(seed, 400)
        predicted = chance(0.6 * signal - 0.3)
        table = pd.DataFrame({"x": np.log(-np.log(1 - predicted)), "t": np.minimum(time, HORIZON), "e": event * (time <= HORIZON)})
        theirs = lifelines.CoxPHFitter().fit(table, "t", "e", robust=True, fit_options={"precision": 1e-12})
        ours = metrics.calibration_slope(time, event, predicted, HORIZON)
        yield gap([ours.estimate, ours.standard_error], [theirs.params_["x"], theirs.standard_errors_["x"]])


@check("integrated_calibration_index", against=SKSURV, quantity="estimate and smooth curve (a Cox fit of the same spline)", tolerance=1e-6)
def _() -> Iterator[float]:
    for seed in range(5):
        time, event, signal = simulated(seed, 400)
        predicted = chance(0.6 * signal + 0.2)
        ours = metrics.integrated_calibration_index(time, event, predicted, HORIZON)
        x, (first, middle, last) = np.log(-np.log(1 - predicted)), ours.knots
        beyond = [(np.maximum(x - knot, 0) ** 3 - np.maximum(x - last, 0) ** 3) / (last - knot) for knot in (first, middle)]
        design = np.column_stack([x, beyond[0] - beyond[1]])
        model = CoxPHSurvivalAnalysis(ties="breslow", tol=1e-14).fit(design, outcome(time, event))
        observed = 1 - np.array([curve(HORIZON) for curve in model.predict_survival_function(design)])
        yield gap(ours.observed, observed)
        yield gap(ours.estimate, np.abs(observed - predicted).mean())


@check("fit_recalibration", against=LOOP, quantity="recalibrated curves, given the slope")
def _() -> Iterator[float]:
    for time, event, signal in small():
        survival = curves(0.5 * signal)
        for method in ("slope", "baseline"):
            fitted = metrics.fit_recalibration(time, event, survival, GRID, method=method, reference_time=GRID[2])
            hazard = np.exp(fitted.slope * 0.5 * signal)
            slow = np.exp(-np.outer(hazard, [loop_baseline(time, event, hazard, at) for at in GRID]))
            yield gap(fitted.apply(survival, GRID), slow)


# --- curves, groups, decisions ---


@check("kaplan_meier", against=R, quantity="curve and Greenwood's error")
def _() -> Iterator[float]:
    for name in SETS:
        time, event, _ = linear_predictor(name)
        expected, curve = golden()[name]["km"], metrics.kaplan_meier(time, event)
        last = np.searchsorted(curve.times, expected["times"], side="right") - 1
        yield gap([curve.survival[last], curve.standard_error[last]], [expected["surv"], expected["se"]])


@check("kaplan_meier", "median_follow_up", against=LIFELINES)
def _() -> Iterator[float]:
    for time, event, _ in cohorts():
        curve = metrics.kaplan_meier(time, event)
        yield gap(curve.survival, _kaplan_meier(time, event).survival_function_at_times(curve.times))
    for seed in range(5):  # no time with both an event and a censoring: lifelines turned round would not let events leave first
        time, event, _ = simulated(seed)
        yield gap(metrics.median_follow_up(time, event), _kaplan_meier(time, 1 - event).median_survival_time_)


@check("event_probability", against=R, quantity="estimate and Greenwood's error")
def _() -> Iterator[float]:
    for name in SETS:
        time, event, _ = linear_predictor(name)
        expected = golden()[name]["km"]
        ours = [metrics.event_probability(time, event, at) for at in expected["times"]]
        yield gap([1 - one.estimate for one in ours], expected["surv"])
        yield gap([one.standard_error for one in ours], expected["se"])


@check("aalen_johansen", against=R)
def _() -> Iterator[float]:
    time, event, *_ = columns("mgus2_cr")
    expected = golden()["mgus2_cuminc"]
    for cause in (1, 2):
        curve = metrics.aalen_johansen(time, event.astype(int), cause=cause)
        yield gap(curve.at(np.array(expected["times"])), expected["est"][cause - 1])


@check("aalen_johansen", against=LIFELINES)
def _() -> Iterator[float]:
    for seed in range(4):
        time, event, _ = simulated(seed, causes=2)
        theirs = lifelines.AalenJohansenFitter(calculate_variance=False).fit(time, event, event_of_interest=1).cumulative_density_
        yield gap(metrics.aalen_johansen(time, event).at(theirs.index.to_numpy()[1:]), theirs.to_numpy()[1:, 0])


@check("aalen_johansen", "event_probability", against=LOOP, quantity="estimate, by cause")
def _() -> Iterator[float]:
    for time, event, _ in small(causes=2):
        for cause in (1, 2):
            slow = loop_incidence(time, event, HORIZON, cause)
            yield gap(metrics.aalen_johansen(time, event, cause=cause).at(np.array([HORIZON])), slow)
            yield gap(metrics.event_probability(time, event, HORIZON, cause=cause).estimate, slow)


@check("restricted_mean", "restricted_mean_difference", against=LIFELINES, quantity="estimate, relative")
def _() -> Iterator[float]:
    for time, event, risk in cohorts():
        high, tau = risk > np.median(risk), np.quantile(time, 0.5)
        means = [restricted_mean_survival_time(_kaplan_meier(time[rows], event[rows]), tau) for rows in (high, ~high)]
        ours = [metrics.restricted_mean(time[rows], event[rows], tau).estimate for rows in (high, ~high)]
        yield relative(ours, means)
        yield abs(metrics.restricted_mean_difference(time, event, high, tau).difference - (means[0] - means[1])) / means[0]


@check("log_rank", "risk_groups", against=R, quantity="statistic of a median split, relative")
def _() -> Iterator[float]:
    for name in SETS:
        time, event, risk = linear_predictor(name)
        expected = golden()[name]["logrank_median_split"]["chisq"]
        yield relative(metrics.log_rank(time, event, risk > np.median(risk)).statistic, expected)
        cut = [float(np.nextafter(np.median(risk), np.inf))]
        yield relative(metrics.risk_groups(time, event, risk, thresholds=cut).log_rank.statistic, expected)


@check("log_rank", against=LIFELINES, quantity="statistic of 2, 3 and 5 groups, relative", tolerance=1e-9)
def _() -> Iterator[float]:
    for time, event, risk in cohorts():
        for count in (2, 3, 5):
            group = np.searchsorted(np.quantile(risk, np.arange(1, count) / count), risk)
            theirs = multivariate_logrank_test(time, group, event).test_statistic
            yield relative(metrics.log_rank(time, event, group).statistic, theirs)


@check("net_benefit", "compare_net_benefit", against=LIFELINES, quantity="its formula over Kaplan-Meier")
def _() -> Iterator[float]:
    for name in SETS:
        time, event, survival = predicted_survival(name)
        at, predicted = golden()[name]["km"]["times"][1], 1 - survival[:, 1]
        thresholds = np.quantile(predicted, [0.1, 0.5, 0.8])
        slow = np.array([_net_benefit(time, event, predicted >= threshold, at, threshold) for threshold in thresholds])
        yield gap(metrics.net_benefit(time, event, predicted, at, thresholds).estimate, slow)
        other = 1 - (1 - predicted) ** 1.2
        worse = np.array([_net_benefit(time, event, other >= threshold, at, threshold) for threshold in thresholds])
        yield gap(metrics.compare_net_benefit(time, event, predicted, other, at, thresholds).difference, slow - worse)


def _net_benefit(time: np.ndarray, event: np.ndarray, treated: np.ndarray, horizon: float, threshold: float) -> float:
    alive = float(_kaplan_meier(time[treated], event[treated]).predict(horizon))
    return float(((1 - alive) - alive * threshold / (1 - threshold)) * treated.mean())


# --- influence functions: every weighted function's standard error comes from them ---


def _weighted() -> dict[str, Callable[..., Any]]:
    """Return every scalar metric as a function of the weights; `result` has an estimate and an influence."""
    time, event, signal = simulated(7, 40, ties=True)
    other = simulated(8, 40, ties=True)[:2]
    predicted, survival, times = chance(signal), curves(signal), GRID[:4]
    return {
        "concordance_index": lambda w: metrics.concordance_index(time, event, signal, weights=w),
        "concordance_index_ipcw": lambda w: metrics.concordance_index_ipcw(time, event, signal, tau=1.0, weights=w),
        "concordance_index_antolini": lambda w: concordance_index_antolini(time, event, survival, GRID, weights=w),
        "auc_at": lambda w: auc_at(time, event, signal, HORIZON, weights=w),
        "cumulative_dynamic_auc": lambda w: cumulative_dynamic_auc(time, event, signal, times, weights=w).mean,
        "brier_score_at": lambda w: metrics.brier_score_at(time, event, survival[:, 2], GRID[2], weights=w),
        "integrated_brier_score": lambda w: metrics.integrated_brier_score(
            time, event, survival[:, :4], times, weights=w, censoring=other, pooled=True
        ),
        "log_score": lambda w: metrics.log_score(time, event, survival, GRID, weights=w),
        "calibration_slope": lambda w: metrics.calibration_slope(time, event, predicted, HORIZON, weights=w),
        "calibration_in_the_large": lambda w: metrics.calibration_in_the_large(time, event, predicted, HORIZON, weights=w),
        "integrated_calibration_index": lambda w: metrics.integrated_calibration_index(time, event, predicted, HORIZON, weights=w),
        "event_probability": lambda w: metrics.event_probability(time, event, HORIZON, weights=w),
        "restricted_mean": lambda w: metrics.restricted_mean(time, event, 1.0, weights=w),
    }


def _influence_gaps(name: str) -> Iterator[float]:
    function = _weighted()[name]
    weights = np.random.default_rng(2).uniform(0.5, 2, 40)
    influence = function(weights).influence
    for k in range(40):
        moved = [function(weights + sign * STEP * (np.arange(40) == k)).estimate for sign in (1, -1)]
        yield gap(influence[k], weights[k] * (moved[0] - moved[1]) / (2 * STEP))


for _name in _weighted():
    check(_name, against=DERIVATIVE, quantity="influence of every subject", tolerance=1e-7)(lambda name=_name: _influence_gaps(name))


# --- the page ---


@dataclass(frozen=True, slots=True)
class Finding:
    """A comparison that was made."""

    check: Check
    count: int
    largest: float

    @property
    def passed(self) -> bool:
        """True where no difference is above the tolerance."""
        return self.count > 0 and self.largest <= self.check.tolerance


def findings() -> list[Finding]:
    """Make all comparisons."""
    made = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the other libraries, about ties and dtypes
        for one in CHECKS:
            differences = list(one.differences())
            made.append(Finding(one, len(differences), max(differences, default=np.inf)))
            print(*one.functions, one.against, one.quantity, f"{made[-1].largest:.1e}", "" if made[-1].passed else "ABOVE", flush=True)
    return made


def uncovered() -> list[str]:
    """Return the functions of `concordant.metrics` that no comparison names."""
    named = {name for one in CHECKS for name in one.functions}
    return sorted(name for name in metrics.__all__ if inspect.isfunction(getattr(metrics, name)) and name not in named)


def table(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return a table in Markdown."""
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def comparison_table(made: list[Finding]) -> str:
    """Return the comparisons, in the order of the functions' names."""
    return table(
        ["function", "against", "what", "comparisons", "largest difference", "allowed"],
        (
            [
                ", ".join(f"`{name}`" for name in one.check.functions),
                one.check.against,
                one.check.quantity,
                one.count,
                ("0" if one.largest == 0 else f"{one.largest:.1e}") if one.passed else f"**{one.largest:.1e}**",
                f"{one.check.tolerance:g}",
            ]
            for one in sorted(made, key=lambda one: one.check.functions[0])
        ),
    )


def tie_bias() -> str:
    """Return how far G(T-) and G(T) are from Uno's C without censoring, in one large cohort with tied times."""
    generator = np.random.default_rng(11)
    signal = generator.normal(size=LARGE)
    event_time, risk = np.ceil(generator.exponential(np.exp(-signal)) / TICK) * TICK, signal + generator.normal(size=LARGE)
    rows = []
    for last in (12, 6, 3):  # censoring is uniform on the first so many ticks, so that more of those left are censored later on
        end = generator.integers(1, last + 1, LARGE) * TICK
        time, event, tau = np.minimum(event_time, end), event_time <= end, last * TICK
        truth = metrics.concordance_index(event_time, event_time < tau, risk).estimate
        errors = [
            metrics.concordance_index_ipcw(time, event, risk, tau=tau, convention=convention).estimate - truth
            for convention in get_args(Convention)
        ]
        rows.append([f"{1 - event.mean():.0%}", f"{truth:.4f}", *(f"{error:+.4f}" for error in errors)])
    return table(["censored", "C without censoring", *(f"error with {read}" for read in ("G(T-)", "G(T)"))], rows)


def read_csv(name: str) -> list[dict[str, str]]:
    """Return the rows of a table in benchmarks/, none where it is not there."""
    path = ROOT / "benchmarks" / name
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def study_tables(rows: list[dict[str, str]]) -> str:
    """Return the simulation study: one line per quantity and design, one column per censoring and ties."""
    if not rows:
        return "Not run yet: `python benchmarks/inference_study.py`."
    cells = sorted({(row["censoring"], row["ties"]) for row in rows})
    lines: dict[tuple[str, str], dict[tuple[str, str], dict[str, str]]] = {}
    for row in rows:
        lines.setdefault((row["quantity"], row["design"]), {})[row["censoring"], row["ties"]] = row
    wide = [cell for cell in cells if sum(cell in found for found in lines.values()) > len(lines) / 2]
    several = {key: found for key, found in lines.items() if len(found) > 1}
    single = [found_row for found in lines.values() if len(found) == 1 for found_row in found.values()]
    heads = [f"{censoring} censored{', ties' if ties == 'yes' else ''}" for censoring, ties in wide]
    first = table(
        ["quantity", "design", "replicates", *heads, "bounds"],
        (
            [*key, shared(found, "replicates"), *(value_cell(found.get(cell)) for cell in wide), bounds_cell(found)]
            for key, found in several.items()
        ),
    )
    second = table(
        ["quantity", "design", "censored", "replicates", "value", "bounds"],
        (
            [
                row["quantity"],
                row["design"],
                row["censoring"],
                row["replicates"],
                value_cell(row),
                bounds_text(float(row["bound_low"]), float(row["bound_high"])),
            ]
            for row in single
        ),
    )
    return f"{first}\n\nWhere the censoring curve's own uncertainty matters most:\n\n{second}"


def value_cell(row: dict[str, str] | None) -> str:
    """Return a value with its Monte Carlo error, bold where it is outside its bounds."""
    if row is None:
        return ""
    text = f"{float(row['value']):.4f} ± {float(row['monte_carlo_error']):.2g}"
    return text if row["passed"] == "yes" else f"**{text}**"


def shared(found: dict[tuple[str, str], dict[str, str]], column: str) -> str:
    """Return what the cells of a line have in a column."""
    return ", ".join(sorted({row[column] for row in found.values()}, key=float))


def bounds_cell(found: dict[tuple[str, str], dict[str, str]]) -> str:
    """Return the bounds of a line, cell by cell where they differ."""
    bounds = dict.fromkeys((float(row["bound_low"]), float(row["bound_high"])) for row in found.values())
    return "; ".join(bounds_text(low, high) for low, high in bounds)


def bounds_text(low: float, high: float) -> str:
    """Return bounds in words."""
    if not np.isfinite(high):
        return f"at least {low:g}"
    return f"at most {high:g}" if low == 0 else f"{low:.3g} to {high:.3g}"


def benchmark_table(rows: list[dict[str, str]]) -> str:
    """Return the benchmark as it was written."""
    return table(rows[0], (row.values() for row in rows)) if rows else "Not run yet: `python benchmarks/metrics.py`."


def page(made: list[Finding]) -> str:
    """Return the whole page."""
    study = read_csv("inference_study.csv")
    outside = sum(row["passed"] != "yes" for row in study)
    above = [one for one in made if not one.passed]
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "scikit-survival", "lifelines", "scipy"))
    r = golden()["meta"]
    missing = ", ".join(f"`{name}`" for name in uncovered()) or "none"
    return PAGE.format(
        packages=packages,
        r=", ".join(f"{name} {number}" for name, number in r.items()).replace("R R version", "R"),
        n_sets=len(SETS),
        n_checks=len(made),
        n_numbers=sum(one.count for one in made),
        verdict="All are within what is allowed." if not above else f"**Above what is allowed (bold): {len(above)}.**",
        missing=missing,
        comparisons=comparison_table(made),
        tie_bias=tie_bias(),
        tied_tol=inspect.signature(sksurv.concordance_index_censored).parameters["tied_tol"].default,
        study=study_tables(study),
        n_study=len(study),
        study_verdict="All are within their bounds." if not outside else f"**Outside their bounds (bold): {outside}.**",
        benchmark=benchmark_table(read_csv("metrics.csv")),
    )


PAGE = """# Conformance

Written by `python benchmarks/conformance.py`; every number is computed by it or read from a table in `benchmarks/`. Do not edit.

## Functions against other software

Every function of `concordant.metrics` is compared with independent software where such software exists, and with a plain loop over its
definition. {n_checks} rows, {n_numbers} comparisons. {verdict} Functions without a comparison: {missing}.

* **R** ({r}): values stored with the {n_sets} public data sets they were computed on.
* **Libraries**: {packages}. Compared on those data sets and on simulated cohorts, with and without ties; Harrell's C and Uno's C also with
  all times and risks rounded to create more ties.
* **Plain loop**: the definition, one pair or one subject after the other, on small simulated cohorts full of ties.
* **Numerical derivative**: a standard error is the root of the summed squares of influences, and the influence of a subject is the
  derivative of the estimate by its weight. It is compared with a central difference, which is itself only that exact.

Differences are absolute unless "relative" is said. Two rows are not meant to be zero: R has another estimate of the standard error of
the area under the ROC curve and of the Brier score.

{comparisons}

## Tied times

Where event times, censoring times and horizons coincide, tools follow different conventions. Ours:

| quantity | default | R | scikit-survival |
|---|---|---|---|
| comparable pair, Harrell's C | a case and everyone with a later time, or censored at the same time | same | same |
| censoring curve G (Kaplan-Meier) | at a tied time events leave before censorings | same | same |
| Uno's C | case weight 1/G(T-)², cases with T < tau | G(T-), cases with T ≤ tau: `tau=np.nextafter(tau, np.inf)` | G(T), T < tau |
| area under the ROC curve at t | cases T ≤ t weigh 1/G(T-), controls T > t | same | cases 1/G(T) |
| Brier score at t | cases T ≤ t weigh 1/G(T-), controls 1/G(t) | same | cases 1/G(T), weight 0 where G = 0 |
| equal risks | tied only where they are equal | same | tied where they differ by {tied_tol:g} or less |

Someone censored exactly at t is neither case nor control; means run over all subjects. `convention="sksurv"` follows scikit-survival.

**Why G(T-).** A subject whose event is at T was not censored before T. Whether it would have been censored at T does not matter, since
at a tied time the event is seen first. So the probability that its event was seen is G(T-). With G(T) a case at a time at which others are
censored weighs too much, and the estimate tends to a wrong value however large the cohort. Uno's C of one large cohort, all times
rounded up to a coarse grid and everyone's follow-up ending at a random one of them, minus its value without censoring:

{tie_bias}

**Equal risks.** A tolerance would make C depend on the unit of the risk: a risk in very small units would be all ties. Round the risk if
its last digits mean nothing.

**Antolini's C.** With curves as steps, an event at T reads S at the last grid time ≤ T (`steps="post"`); for discrete-time models, at the
first grid time ≥ T (`steps="pre"`). Equal curves earn one half; `method="antolini"` gives them nothing, as the paper and pycox do, and
`method="adj_antolini"` follows pycox's adjusted rule.

## Simulation study

`python benchmarks/inference_study.py`; designs in its first lines, the table in `benchmarks/inference_study.csv`. A value stands with
its Monte Carlo standard error. Paired tests of near-identical models are conservative, and are listed apart. The bounds of the power
are those of a normal test that knows the true standard error of the difference, with a margin. {n_study} numbers. {study_verdict}

{study}

## Speed

{benchmark}
"""


def main() -> None:
    """Compare, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "reference" / "conformance.md")
    options = parser.parse_args()
    if not DATA.is_dir():
        sys.exit(f"no reference data at {DATA}; set CONCORDANT_DATA to the folder that holds golden_R")
    made = findings()
    options.out.write_text(page(made))
    print("functions without a comparison:", ", ".join(uncovered()) or "none")
    sys.exit(0 if all(one.passed for one in made) else 1)


if __name__ == "__main__":
    main()
