"""Kaplan-Meier curves: of the event, and of censoring with its influence on metrics."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float, Int, Real
from numba import njit

from concordant.core.errors import MetricError, did_you_mean
from concordant.core.survival import Outcomes
from concordant.metrics.inference import Band, critical_value
from concordant.metrics.inputs import Codes, OtherCohort, checked_outcomes, other_cohort
from concordant.metrics.ordering import ascending

Convention = Literal["default", "sksurv"]
"""Where an event at T reads the censoring curve: `default` G(T-), as R does.

`sksurv` G(T), as scikit-survival 0.28 does.
"""


class EventWeights(NamedTuple):
    """Weights of events by the censoring curve.

    Where each reads it, and one over the curve there (0 where the curve is 0).
    """

    place: Int[np.ndarray, " any"]
    inverse: Float[np.ndarray, " any"]


class SplitInfluence(NamedTuple):
    """An influence through the censoring curve.

    Of the metric's own rows (0 where the curve is another cohort's), of the others.
    """

    own: Float[np.ndarray, " subject"]
    other: Float[np.ndarray, " other"]


@dataclass(frozen=True, slots=True)
class CensoringCurve:
    """Kaplan-Meier curve G of the time to censoring; at a tied time events leave before censorings.

    A place on the curve is the number of censoring times passed: `steps[place]` is G there.

    Attributes:
        times: Distinct censoring times, ascending.
        steps: G before the first of them, then after each.
        at_risk: Weight still under observation at each of them, the events of that time gone.
        drift: What each of them takes from log G per weight still under observation: censored /
            (at_risk (at_risk - censored)).
        last: Largest time of the sample the curve was estimated from.
        row_place: Per row of that sample, the censoring times before its own time, plus the number
            of places if it was censored.
        own_rows: How many rows of that sample are those of the metric that reads the curve; they
            come first. 0 where the curve is another cohort's.
        convention: Where an event reads the curve.
    """

    times: Float[np.ndarray, " censoring_time"]
    steps: Float[np.ndarray, " place"]
    at_risk: Float[np.ndarray, " censoring_time"]
    drift: Float[np.ndarray, " censoring_time"]
    last: float
    row_place: Int[np.ndarray, " subject"]
    own_rows: int
    convention: Convention = "default"

    def before(self, time: Float[np.ndarray, " any"]) -> Int[np.ndarray, " any"]:
        """Return the place of G(t-)."""
        return np.searchsorted(self.times, time, side="left")

    def up_to(self, time: Float[np.ndarray, " any"]) -> Int[np.ndarray, " any"]:
        """Return the place of G(t)."""
        return np.searchsorted(self.times, time, side="right")

    def weigh_events(self, time: Float[np.ndarray, " any"]) -> EventWeights:
        """Return what an event at each time weighs, and where it reads the curve."""
        place = self.up_to(time) if self.convention == "sksurv" else self.before(time)
        probability = self.steps[place]
        return EventWeights(
            place, np.divide(1.0, probability, out=np.zeros(len(time)), where=probability > 0)
        )

    def in_order(self, order: Int[np.ndarray, " own"]) -> CensoringCurve:
        """Return the curve as the metric's own rows in another order read it."""
        rows = self.row_place.copy()
        rows[: self.own_rows] = rows[order[: self.own_rows]]
        return replace(self, row_place=rows)

    def influence(
        self,
        place: Int[np.ndarray, " read"],
        sensitivity: Float[np.ndarray, " read"],
        weights: Real[np.ndarray, " own"],
    ) -> SplitInfluence:
        """Return the influence of every row through the curve, times the row's weight.

        Args:
            place: Where a functional of the curve reads it.
            sensitivity: Its derivative with respect to log G there.
            weights: Those of the metric's own rows.
        """
        rows = self.row_influence(place, sensitivity)
        own = np.zeros(len(weights))
        own[: self.own_rows] = rows[: self.own_rows] * weights[: self.own_rows]
        return SplitInfluence(own, rows[self.own_rows :])

    def row_influence(
        self, place: Int[np.ndarray, " read"], sensitivity: Float[np.ndarray, " read"]
    ) -> Float[np.ndarray, " subject"]:
        """Return how a functional of the curve changes with the weight of each row of its sample.

        Args:
            place: Where the functional reads the curve.
            sensitivity: Its derivative with respect to log G there.

        Source: derivative of log G = sum log(1 - q / Y), with q the censored and Y the weight at
        risk.
        """
        influence = np.empty(len(self.row_place))
        _influence_of_rows(place, sensitivity, self.at_risk, self.drift, self.row_place, influence)
        return influence


@njit(cache=True)
def _influence_of_rows(
    place: Any, sensitivity: Any, at_risk: Any, drift: Any, row_place: Any, influence: Any
) -> None:
    """Fill the influence of every row: two walks along the curve, the first back in time."""
    places = drift.size + 1
    beyond = np.zeros(places)  # the sensitivity that reads the curve at this place or later
    for number in range(place.size):
        beyond[place[number]] += sensitivity[number]
    for number in range(drift.size, 0, -1):
        beyond[number - 1] += beyond[number]
    # of who stays beyond a place's censoring time, then of who is censored there
    by_place = np.zeros(2 * places)
    for number in range(drift.size):
        by_place[number + 1] = by_place[number] + drift[number] * beyond[number + 1]
        by_place[places + number] = by_place[number] - beyond[number + 1] / at_risk[number]
    for row in range(row_place.size):
        influence[row] = by_place[row_place[row]]


def censoring_curve(
    subjects: Outcomes,
    other: OtherCohort | None = None,
    *,
    pooled: bool = False,
    convention: Convention = "default",
) -> CensoringCurve:
    """Estimate the Kaplan-Meier curve of censoring that a metric reads.

    A weight counts as so many copies.

    Args:
        subjects: The cohort the metric is computed on.
        other: None = the curve of `subjects`; else the cohort whose curve is used.
        pooled: With `other`: one curve from both cohorts together.
        convention: Where an event at T reads the curve.

    Raises:
        MetricError: An unknown convention, `pooled` without another cohort, or an invalid other
            cohort.
    """
    if convention not in get_args(Convention):
        raise MetricError(
            f"unknown convention {convention!r}.{did_you_mean(convention, get_args(Convention))}"
        )
    if other is None:
        if pooled:
            raise MetricError(
                "pooled=True needs `censoring`, the cohort to estimate the censoring curve "
                "together with"
            )
        return _estimated(subjects, len(subjects), convention)
    second = other_cohort(other, subjects.cause)
    if not pooled:
        return _estimated(second, 0, convention)
    joined = Outcomes(
        np.concatenate([subjects.time, second.time]),
        np.concatenate([subjects.event, second.event]),
        np.concatenate([subjects.weights, second.weights]),
        cause=subjects.cause,
    )
    return _estimated(joined, len(subjects), convention)


def _estimated(subjects: Outcomes, own_rows: int, convention: Convention) -> CensoringCurve:
    order = ascending(subjects.time)
    time, weights, is_censored = (
        subjects.time[order],
        subjects.weights[order].astype(np.float64),
        subjects.censored[order],
    )
    counted = is_censored & (weights > 0)
    times, index = np.unique(time[counted], return_inverse=True)
    censored = np.bincount(index, weights=weights[counted], minlength=len(times)).astype(np.float64)
    beyond = np.append(np.cumsum(weights[::-1])[::-1], 0.0)
    remaining = beyond[np.searchsorted(time, times, side="right")]
    at_risk = remaining + censored
    steps = np.concatenate([[1.0], np.cumprod(remaining / at_risk)])
    row_place = np.empty(len(order), np.int64)
    row_place[order] = np.searchsorted(times, time) + len(steps) * is_censored
    return CensoringCurve(
        times=times,
        steps=steps,
        at_risk=at_risk,
        drift=np.divide(
            censored, at_risk * remaining, out=np.zeros(len(times)), where=remaining > 0
        ),
        last=float(time[weights > 0][-1]),
        row_place=row_place,
        own_rows=own_rows,
        convention=convention,
    )


@dataclass(frozen=True, slots=True)
class SurvivalCurve:
    """Kaplan-Meier curve of the event.

    Attributes:
        times: Distinct times at which someone had the event or was censored, ascending.
        survival: S right after each of them.
        standard_error: Greenwood's standard error of S.
        at_risk: Under observation right before each of them.
        n_events: Events at each of them.
    """

    times: Float[np.ndarray, " time"]
    survival: Float[np.ndarray, " time"]
    standard_error: Float[np.ndarray, " time"]
    at_risk: Int[np.ndarray, " time"]
    n_events: Int[np.ndarray, " time"]

    def at(self, time: Real[np.ndarray, " any"]) -> Float[np.ndarray, " any"]:
        """Return S(t), right-continuous; NaN beyond the follow-up."""
        steps = np.concatenate([[1.0], self.survival])
        values = steps[np.searchsorted(self.times, time, side="right")]
        return np.asarray(np.where(np.asarray(time) <= self.times[-1], values, np.nan))

    def interval(self, level: float = 0.95) -> Band:
        """Return the pointwise log(-log S) interval: 1 while S is 1, NaN once S is 0."""
        quantile = critical_value(level)
        with np.errstate(divide="ignore", invalid="ignore"):
            width = quantile * self.standard_error / (self.survival * np.abs(np.log(self.survival)))
            low, high = self.survival ** np.exp(width), self.survival ** np.exp(-width)
        certain = self.survival == 1
        return Band(np.where(certain, 1.0, low), np.where(certain, 1.0, high))

    @property
    def median(self) -> float:
        """First time at which S is 1/2 or less; NaN where it never is."""
        return _first_time_at_half(self.times, self.survival)


def kaplan_meier(time: Real[np.ndarray, " subject"], event: Codes) -> SurvivalCurve:
    """Estimate the survival curve of the event.

    Args:
        time: Follow-up, > 0.
        event: 1 = observed, anything else = censored (a competing event too).

    Raises:
        MetricError: Invalid outcomes.

    Source: Kaplan and Meier 1958; Greenwood's variance; log(-log) limits as in Kalbfleisch and
    Prentice, section 1.4.
    """
    target = checked_outcomes(time, event)
    times, index, leaving = np.unique(target.time, return_inverse=True, return_counts=True)
    events = np.bincount(index, weights=target.observed, minlength=len(times)).astype(np.int64)
    at_risk = len(target) - np.concatenate([[0], np.cumsum(leaving)[:-1]])
    survival = np.cumprod((at_risk - events) / at_risk)
    with np.errstate(divide="ignore", invalid="ignore"):
        greenwood = survival * np.sqrt(np.cumsum(events / (at_risk * (at_risk - events))))
    return SurvivalCurve(times, survival, greenwood, at_risk, events)


def median_follow_up(time: Real[np.ndarray, " subject"], event: Codes) -> float:
    """Return the median follow-up by the reverse Kaplan-Meier method.

    NaN where fewer than half were ever censored.

    Args:
        time: Follow-up, > 0.
        event: 0 = follow-up ended without an event; any other code is an event, which hides how
            long follow-up would have been.

    Raises:
        MetricError: Invalid outcomes.

    Source: Schemper and Smith, Controlled Clinical Trials 17 (1996), 343-346.
    """
    target = checked_outcomes(time, event)
    curve = censoring_curve(checked_outcomes(target.time, target.event != 0))
    return _first_time_at_half(curve.times, curve.steps[1:])


def _first_time_at_half(
    times: Float[np.ndarray, " time"], survival: Float[np.ndarray, " time"]
) -> float:
    # a product of fractions may miss 1/2 by rounding
    reached = np.flatnonzero(survival <= 0.5 + 1e-12)
    return float(times[reached[0]]) if reached.size else float("nan")
