"""Decision curves: the net benefit of treating from a predicted probability on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Real, Shaped

from concordant.core.errors import MetricError
from concordant.core.survival import Outcomes
from concordant.metrics.competing_risks import (
    EventTimeline,
    check_support,
    event_timeline,
    incidence,
)
from concordant.metrics.inference import Band, Difference, Estimate, subtract
from concordant.metrics.inputs import (
    Codes,
    checked_horizon,
    checked_outcomes,
    checked_predicted,
    numbers,
)


@dataclass(frozen=True, slots=True)
class DecisionCurve:
    """Net benefit at the supported thresholds, in true positives per subject.

    Higher = better, 0 = treating nobody.

    Attributes:
        horizon: Time by which the event counts.
        thresholds: The given thresholds at which those above are followed until the horizon.
        unsupported: The given thresholds left out: follow-up of those above ends before the
            horizon.
        points: Net benefit at each of `thresholds`, with its influence function.
        treat_all: Net benefit of treating everybody, at each of `thresholds`.
    """

    horizon: float
    thresholds: Float[np.ndarray, " threshold"]
    unsupported: Float[np.ndarray, " left_out"]
    points: tuple[Estimate, ...]
    treat_all: Float[np.ndarray, " threshold"]

    @property
    def treat_none(self) -> Float[np.ndarray, " threshold"]:
        """Net benefit of treating nobody: 0 at every threshold."""
        return np.zeros_like(self.thresholds)

    @property
    def estimate(self) -> Float[np.ndarray, " threshold"]:
        """Net benefit at each threshold."""
        return np.array([point.estimate for point in self.points])

    @property
    def standard_error(self) -> Float[np.ndarray, " threshold"]:
        """Standard error at each threshold."""
        return np.array([point.standard_error for point in self.points])

    def interval(self, level: float = 0.95) -> Band:
        """Return each threshold's interval, too narrow where only a few are treated."""
        return _band(self.points, level)


@dataclass(frozen=True, slots=True)
class NetBenefitDifference:
    """Net benefit of one prediction minus that of another on the same subjects.

    Attributes:
        horizon: Time by which the event counts.
        thresholds: The given thresholds that both predictions support.
        unsupported: The given thresholds left out.
        points: The difference at each of `thresholds`, with its influence function.
    """

    horizon: float
    thresholds: Float[np.ndarray, " threshold"]
    unsupported: Float[np.ndarray, " left_out"]
    points: tuple[Difference, ...]

    @property
    def difference(self) -> Float[np.ndarray, " threshold"]:
        """First minus second at each threshold."""
        return np.array([point.difference for point in self.points])

    @property
    def standard_error(self) -> Float[np.ndarray, " threshold"]:
        """Standard error of the difference at each threshold."""
        return np.array([point.standard_error for point in self.points])

    @property
    def p_value(self) -> Float[np.ndarray, " threshold"]:
        """Two-sided p-value of "no difference" at each threshold: these are many tests."""
        return np.array([point.p_value for point in self.points])

    def interval(self, level: float = 0.95) -> Band:
        """Return the confidence interval at each threshold by itself."""
        return _band(self.points, level)


def _band(points: Sequence[Estimate], level: float) -> Band:
    intervals = [point.interval(level) for point in points]
    return Band(np.array([one.low for one in intervals]), np.array([one.high for one in intervals]))


def net_benefit(
    time: Real[np.ndarray, " subject"],
    event: Codes,
    predicted: Real[np.ndarray, " subject"],
    horizon: float,
    thresholds: Real[np.ndarray, " threshold"],
    *,
    weights: Real[np.ndarray, " subject"] | None = None,
    cluster: Shaped[np.ndarray, " subject"] | None = None,
    cause: int | None = None,
) -> DecisionCurve:
    """Compute the net benefit of a prediction at each threshold.

    With F the probability of the event by the horizon among those with predicted >= p, and s their
    share of all subjects, it is s F - s (1 - F) p / (1 - p). Nobody at or above p: 0, with standard
    error 0.

    Args:
        time: Follow-up, > 0.
        event: 1 = observed, anything else = censored; with `cause`: 0 = censored, `cause` = the
            event, others compete with it.
        predicted: Probability of the event by the horizon, between 0 and 1. Equal to the threshold
            is treated.
        horizon: Time in the unit of `time`; an event at exactly this time counts.
        thresholds: Strictly ascending, 0 <= p < 1. Those at which follow-up of the treated ends
            before the horizon, with someone still without the event, are left out and listed in the
            result.
        weights: A weight of 2 equals two copies of the subject in one cluster.
        cluster: Rows with one label are one subject: their influences are summed.
        cause: None: F is 1 - Kaplan-Meier. A code: F is the Aalen-Johansen incidence of that cause.

    Raises:
        MetricError: Invalid outcomes, predictions that are no probabilities, thresholds or a
            horizon that are none, a horizon beyond the follow-up of the cohort, or no supported
            threshold.

    Source: Vickers and Elkin, Medical Decision Making 26 (2006), 565-574; survival data: Vickers,
    Cronin, Elkin and Gonen, BMC Medical Informatics and Decision Making 8 (2008), 53. Standard
    error: infinitesimal jackknife.
    """
    checked_horizon(horizon)
    subjects = checked_outcomes(time, event, weights=weights, cluster=cluster, cause=cause)
    limits = _checked_thresholds(thresholds)
    probability = checked_predicted(predicted, len(subjects))
    timeline = event_timeline(subjects)
    everybody = incidence(timeline, subjects.weights)
    check_support(everybody, horizon)
    points = [
        _point(subjects, timeline, probability >= limit, float(limit), horizon) for limit in limits
    ]
    supported = np.array([point is not None for point in points])
    if not supported.any():
        raise MetricError(
            "no threshold is supported: above each, follow-up ends before the horizon "
            f"{horizon:g}; shorten the horizon"
        )
    kept = limits[supported]
    treat_all = (everybody.until(horizon) - kept) / (1 - kept)
    return DecisionCurve(
        horizon,
        kept,
        limits[~supported],
        tuple(point for point in points if point is not None),
        treat_all,
    )


def compare_net_benefit(
    time: Real[np.ndarray, " subject"],
    event: Codes,
    predicted_a: Real[np.ndarray, " subject"],
    predicted_b: Real[np.ndarray, " subject"],
    horizon: float,
    thresholds: Real[np.ndarray, " threshold"],
    *,
    weights: Real[np.ndarray, " subject"] | None = None,
    cluster: Shaped[np.ndarray, " subject"] | None = None,
    cause: int | None = None,
) -> NetBenefitDifference:
    """Compare the net benefit of two predictions on the same subjects, paired, at each threshold.

    A `predicted_b` of 1 for everyone is "treat all"; of 0 for everyone, with thresholds above 0,
    "treat nobody".

    Args:
        time: As in `net_benefit`.
        event: As in `net_benefit`.
        predicted_a: As `predicted` in `net_benefit`.
        predicted_b: As `predicted_a`; the difference is a minus b.
        horizon: As in `net_benefit`.
        thresholds: As in `net_benefit`; those that either prediction does not support are left out
            and listed in the result.
        weights: As in `net_benefit`.
        cluster: As in `net_benefit`.
        cause: As in `net_benefit`.

    Raises:
        MetricError: As `net_benefit`, or no threshold that both support.
    """
    first, second = (
        net_benefit(
            time,
            event,
            predicted,
            horizon,
            thresholds,
            weights=weights,
            cluster=cluster,
            cause=cause,
        )
        for predicted in (predicted_a, predicted_b)
    )
    shared = np.intersect1d(first.thresholds, second.thresholds)
    if shared.size == 0:
        raise MetricError(
            "no threshold is supported by both predictions: follow-up above it ends before the "
            f"horizon {horizon:g}"
        )
    points = tuple(
        subtract(a, b)
        for a, b in zip(_points_at(first, shared), _points_at(second, shared), strict=True)
    )
    return NetBenefitDifference(
        horizon, shared, np.union1d(first.unsupported, second.unsupported), points
    )


def _points_at(curve: DecisionCurve, thresholds: Float[np.ndarray, " threshold"]) -> list[Estimate]:
    return [curve.points[place] for place in np.searchsorted(curve.thresholds, thresholds)]


def _point(
    subjects: Outcomes,
    timeline: EventTimeline,
    treated: Bool[np.ndarray, " subject"],
    threshold: float,
    horizon: float,
) -> Estimate | None:
    """Compute the net benefit of treating some, None where they are not followed long enough."""
    weights = subjects.weights * treated
    if not weights.any():
        return _estimate(subjects, 0.0, np.zeros(len(subjects)), threshold)
    group = incidence(timeline, weights)
    if not group.supports(horizon):
        return None
    total = subjects.weights.sum()
    share, excess = float(weights.sum() / total), group.until(horizon) - threshold
    influence = excess * subjects.weights * (treated - share) / total + share * group.influence(
        timeline.until(horizon)
    )
    return _estimate(
        subjects, share * excess / (1 - threshold), influence / (1 - threshold), threshold
    )


def _estimate(
    subjects: Outcomes, value: float, influence: Float[np.ndarray, " subject"], threshold: float
) -> Estimate:
    return Estimate(
        estimate=value,
        influence=influence,
        n=len(subjects),
        n_events=subjects.n_events,
        cluster=subjects.cluster,
        note=f"threshold {threshold:g}",
    )


def _checked_thresholds(
    thresholds: Real[np.ndarray, " threshold"],
) -> Float[np.ndarray, " threshold"]:
    limits = np.atleast_1d(numbers("thresholds", thresholds))
    if (
        limits.ndim != 1
        or limits.size == 0
        or not bool(((limits >= 0) & (limits < 1)).all())
        or bool((np.diff(limits) <= 0).any())
    ):
        raise MetricError(
            "thresholds must be a vector of strictly ascending numbers, 0 <= p < 1, at least one"
        )
    return limits
