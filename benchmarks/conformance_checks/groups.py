"""Curves, groups and decisions."""

from __future__ import annotations

from collections.abc import Iterator

import lifelines
import numpy as np
from lifelines.statistics import multivariate_logrank_test
from lifelines.utils import restricted_mean_survival_time

from concordant import metrics
from conformance_checks.cohorts import (
    HORIZON,
    SETS,
    cohorts,
    columns,
    golden,
    kaplan_meier_fit,
    linear_predictor,
    predicted_survival,
    simulated,
    small,
)
from conformance_checks.definitions import loop_incidence
from conformance_checks.registry import LIFELINES, LOOP, R, check, gap, relative


@check("kaplan_meier", against=R, quantity="curve and Greenwood's error")
def _() -> Iterator[float]:
    for name in SETS:
        time, event, _ = linear_predictor(name)
        expected, curve = golden()[name]["km"], metrics.kaplan_meier(time, event)
        last = np.searchsorted(curve.times, expected["times"], side="right") - 1
        yield gap(
            [curve.survival[last], curve.standard_error[last]], [expected["surv"], expected["se"]]
        )


@check("kaplan_meier", "median_follow_up", against=LIFELINES)
def _() -> Iterator[float]:
    for time, event, _ in cohorts():
        curve = metrics.kaplan_meier(time, event)
        yield gap(
            curve.survival, kaplan_meier_fit(time, event).survival_function_at_times(curve.times)
        )
    for seed in range(
        5
        # no time with both an event and a censoring: lifelines turned round would not let events
        # leave
        # first
    ):
        time, event, _ = simulated(seed)
        yield gap(
            metrics.median_follow_up(time, event),
            kaplan_meier_fit(time, 1 - event).median_survival_time_,
        )


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
        theirs = (
            lifelines.AalenJohansenFitter(calculate_variance=False)
            .fit(time, event, event_of_interest=1)
            .cumulative_density_
        )
        yield gap(
            metrics.aalen_johansen(time, event).at(theirs.index.to_numpy()[1:]),
            theirs.to_numpy()[1:, 0],
        )


@check("aalen_johansen", "event_probability", against=LOOP, quantity="estimate, by cause")
def _() -> Iterator[float]:
    for time, event, _ in small(causes=2):
        for cause in (1, 2):
            slow = loop_incidence(time, event, HORIZON, cause)
            yield gap(
                metrics.aalen_johansen(time, event, cause=cause).at(np.array([HORIZON])), slow
            )
            yield gap(metrics.event_probability(time, event, HORIZON, cause=cause).estimate, slow)


@check(
    "restricted_mean",
    "restricted_mean_difference",
    against=LIFELINES,
    quantity="estimate, relative",
)
def _() -> Iterator[float]:
    for time, event, risk in cohorts():
        high, tau = risk > np.median(risk), np.quantile(time, 0.5)
        means = [
            restricted_mean_survival_time(kaplan_meier_fit(time[rows], event[rows]), tau)
            for rows in (high, ~high)
        ]
        ours = [
            metrics.restricted_mean(time[rows], event[rows], tau).estimate for rows in (high, ~high)
        ]
        yield relative(ours, means)
        yield (
            abs(
                metrics.restricted_mean_difference(time, event, high, tau).difference
                - (means[0] - means[1])
            )
            / means[0]
        )


@check("log_rank", "risk_groups", against=R, quantity="statistic of a median split, relative")
def _() -> Iterator[float]:
    for name in SETS:
        time, event, risk = linear_predictor(name)
        expected = golden()[name]["logrank_median_split"]["chisq"]
        yield relative(metrics.log_rank(time, event, risk > np.median(risk)).statistic, expected)
        cut = [float(np.nextafter(np.median(risk), np.inf))]
        yield relative(
            metrics.risk_groups(time, event, risk, thresholds=cut).log_rank.statistic, expected
        )


@check(
    "log_rank",
    against=LIFELINES,
    quantity="statistic of 2, 3 and 5 groups, relative",
    tolerance=1e-9,
)
def _() -> Iterator[float]:
    for time, event, risk in cohorts():
        for count in (2, 3, 5):
            group = np.searchsorted(np.quantile(risk, np.arange(1, count) / count), risk)
            theirs = multivariate_logrank_test(time, group, event).test_statistic
            yield relative(metrics.log_rank(time, event, group).statistic, theirs)


@check(
    "net_benefit",
    "compare_net_benefit",
    against=LIFELINES,
    quantity="its formula over Kaplan-Meier",
)
def _() -> Iterator[float]:
    for name in SETS:
        time, event, survival = predicted_survival(name)
        at, predicted = golden()[name]["km"]["times"][1], 1 - survival[:, 1]
        thresholds = np.quantile(predicted, [0.1, 0.5, 0.8])
        slow = np.array(
            [
                _net_benefit(time, event, predicted >= threshold, at, threshold)
                for threshold in thresholds
            ]
        )
        yield gap(metrics.net_benefit(time, event, predicted, at, thresholds).estimate, slow)
        other = 1 - (1 - predicted) ** 1.2
        worse = np.array(
            [
                _net_benefit(time, event, other >= threshold, at, threshold)
                for threshold in thresholds
            ]
        )
        yield gap(
            metrics.compare_net_benefit(time, event, predicted, other, at, thresholds).difference,
            slow - worse,
        )


def _net_benefit(
    time: np.ndarray, event: np.ndarray, treated: np.ndarray, horizon: float, threshold: float
) -> float:
    alive = float(kaplan_meier_fit(time[treated], event[treated]).predict(horizon))
    return float(((1 - alive) - alive * threshold / (1 - threshold)) * treated.mean())
