"""The Brier score of survival curves and its integral, with influence functions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Real, Shaped
from numba import njit

from concordant.core.errors import MetricError
from concordant.core.survival import Outcomes
from concordant.metrics.censoring import CensoringCurve, Convention, EventWeights, censoring_curve
from concordant.metrics.inference import (
    Band,
    Estimate,
    degrees_of_freedom,
    standard_error,
    wald_band,
)
from concordant.metrics.inputs import Codes, OtherCohort, checked_curves, checked_outcomes, numbers
from concordant.metrics.ordering import ascending

# of the given curves, one subject's values at so many times are two cache lines
_TIMES_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class BrierScores:
    """Brier scores at the supported times: 0 = perfect, 0.25 = a constant one half.

    Attributes:
        times: The given times that the follow-up supports.
        unsupported: The given times left out: nobody is observed, or the censoring curve not known,
            beyond them.
        estimate: Score at each of `times`.
        standard_error: Its standard error.
        degrees: Degrees of freedom of the interval's t quantile.
    """

    times: Float[np.ndarray, " time"]
    unsupported: Float[np.ndarray, " left_out"]
    estimate: Float[np.ndarray, " time"]
    standard_error: Float[np.ndarray, " time"]
    degrees: int

    def interval(self, level: float = 0.95) -> Band:
        """Return the pointwise confidence interval by a t quantile."""
        return wald_band(self.estimate, self.standard_error, level=level, degrees=self.degrees)


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegratedBrierScore(Estimate):
    """The mean of the Brier score over a range of time (trapezoid rule).

    Attributes:
        first_time: Start of the range.
        last_time: End of the range.
    """

    first_time: float
    last_time: float


def brier_score(
    time: Real[np.ndarray, " subject"],
    event: Codes,
    survival: Real[np.ndarray, "subject time"],
    times: Real[np.ndarray, " time"],
    *,
    censoring: OtherCohort | None = None,
    pooled: bool = False,
    convention: Convention = "default",
    weights: Real[np.ndarray, " subject"] | None = None,
    cluster: Shaped[np.ndarray, " subject"] | None = None,
    cause: int | None = None,
) -> BrierScores:
    """Compute the inverse-probability-of-censoring-weighted Brier score at each time.

    A subject with the event at T <= t adds S(t)^2 / G(T-), one followed beyond t adds (1 - S(t))^2
    / G(t), one censored by t adds 0; the mean runs over all.

    Args:
        time: Follow-up, > 0.
        event: 1 = observed, anything else = censored.
        survival: Probability of no event until each of `times`, between 0 and 1.
        times: Ascending, in the unit of `time`. Those at or beyond the last follow-up (of this
            cohort, or of the one that gives the censoring curve) are left out and listed in the
            result.
        censoring: `(time, event)` of the cohort whose censoring curve is used, its rows taken as
            independent of each other and of this cohort; None = this cohort's own. The curve's
            uncertainty is in the standard error.
        pooled: With `censoring`: estimate one curve from both cohorts together.
        convention: Where an event at T reads the curve: "default" G(T-), "sksurv" G(T).
        weights: A weight of 2 equals two copies of the subject in one cluster.
        cluster: Rows with one label are one subject: their influences are summed.
        cause: None = event 1 is the event and every other code is censored; else the code of the
            event, `survival` being one minus its cumulative incidence: a subject with another event
            at T <= t adds (1 - S(t))^2 / G(T-), and only code 0 is censored.

    Raises:
        MetricError: Invalid outcomes, a survival that is no probability or of the wrong shape,
            times that do not ascend, or no supported time.

    Source: Graf et al., Statistics in Medicine 18 (1999), 2529-2545; Gerds and Schumacher,
    Biometrical Journal 48 (2006), 1029-1040; competing risks: Schoop et al., Biometrical Journal 53
    (2011), 88-112.
    """
    subjects = checked_outcomes(time, event, weights=weights, cluster=cluster, cause=cause)
    curve = censoring_curve(subjects, censoring, pooled=pooled, convention=convention)
    supported = _supported(subjects, curve, survival, times)
    cluster_now = supported.weighting.subjects.cluster
    values, errors = np.empty(len(supported.times)), np.empty(len(supported.times))
    for number, score in enumerate(supported.scores()):
        values[number], errors[number] = (
            score.value,
            standard_error(score.influence, cluster_now, score.through_other),
        )
    degrees = degrees_of_freedom(len(subjects), supported.cluster)
    return BrierScores(supported.times, supported.unsupported, values, errors, degrees)


def brier_score_at(
    time: Real[np.ndarray, " subject"],
    event: Codes,
    survival: Real[np.ndarray, " subject"],
    horizon: float,
    *,
    censoring: OtherCohort | None = None,
    pooled: bool = False,
    convention: Convention = "default",
    weights: Real[np.ndarray, " subject"] | None = None,
    cluster: Shaped[np.ndarray, " subject"] | None = None,
    cause: int | None = None,
) -> Estimate:
    """Compute the Brier score at one time, with the influence of every subject.

    Two of them can be subtracted.

    Args:
        time: As in `brier_score`.
        event: As in `brier_score`.
        survival: Probability of no event until the horizon.
        horizon: The time, in the unit of `time`.
        censoring: As in `brier_score`.
        pooled: As in `brier_score`.
        convention: As in `brier_score`.
        weights: As in `brier_score`.
        cluster: As in `brier_score`.
        cause: As in `brier_score`.

    Raises:
        MetricError: As `brier_score`.
    """
    subjects = checked_outcomes(time, event, weights=weights, cluster=cluster, cause=cause)
    curve = censoring_curve(subjects, censoring, pooled=pooled, convention=convention)
    return score_at(subjects, curve, survival, horizon)


def score_at(
    subjects: Outcomes,
    curve: CensoringCurve,
    survival: Real[np.ndarray, " subject"],
    horizon: float,
) -> Estimate:
    """Compute `brier_score_at` of checked outcomes and their censoring curve."""
    column = numbers("survival", survival)[..., None]
    grid = np.atleast_1d(numbers("horizon", horizon))
    supported = _supported(subjects, curve, column, grid)
    return Estimate(**supported.fields(next(supported.scores())))


def integrated_brier_score(
    time: Real[np.ndarray, " subject"],
    event: Codes,
    survival: Real[np.ndarray, "subject time"],
    times: Real[np.ndarray, " time"],
    *,
    censoring: OtherCohort | None = None,
    pooled: bool = False,
    convention: Convention = "default",
    weights: Real[np.ndarray, " subject"] | None = None,
    cluster: Shaped[np.ndarray, " subject"] | None = None,
    cause: int | None = None,
) -> IntegratedBrierScore:
    """Compute the mean of the Brier score over the supported range of `times` (trapezoid rule).

    Args:
        time: As in `brier_score`.
        event: As in `brier_score`.
        survival: As in `brier_score`.
        times: As in `brier_score`; at least two of them supported.
        censoring: As in `brier_score`.
        pooled: As in `brier_score`.
        convention: As in `brier_score`.
        weights: As in `brier_score`.
        cluster: As in `brier_score`.
        cause: As in `brier_score`.

    Raises:
        MetricError: As `brier_score`, or fewer than two supported times.
    """
    subjects = checked_outcomes(time, event, weights=weights, cluster=cluster, cause=cause)
    curve = censoring_curve(subjects, censoring, pooled=pooled, convention=convention)
    return integrated_score(subjects, curve, survival, times)


def integrated_score(
    subjects: Outcomes,
    curve: CensoringCurve,
    survival: Real[np.ndarray, "subject time"],
    times: Real[np.ndarray, " time"],
) -> IntegratedBrierScore:
    """Compute `integrated_brier_score` of checked outcomes and their censoring curve."""
    supported = _supported(subjects, curve, survival, times)
    grid = supported.times
    if len(grid) < 2:
        raise MetricError(
            f"an integral needs two supported times or more; only {grid[0]:g} is supported"
        )
    value, influence, through_other = 0.0, 0.0, 0.0
    for share, score in zip(_trapezoid(grid), supported.scores(), strict=True):
        value += share * score.value
        influence = influence + share * score.influence
        through_other = through_other + share * score.through_other
    return IntegratedBrierScore(
        **supported.fields(_Score(value, np.asarray(influence), np.asarray(through_other))),
        note=f"times {grid[0]:g} to {grid[-1]:g}",
        first_time=float(grid[0]),
        last_time=float(grid[-1]),
    )


def _trapezoid(times: Float[np.ndarray, " time"]) -> Float[np.ndarray, " time"]:
    """Return the weights of the trapezoid rule over the length of the range; they sum to 1."""
    steps = np.diff(times)
    return np.asarray((np.append(steps, 0) + np.append(0, steps)) / 2 / (times[-1] - times[0]))


@dataclass(frozen=True, slots=True)
class _Weighting:
    """The cohort in order of time: a step along the censoring curve is a step through memory."""

    order: Int[np.ndarray, " subject"]  # the given rows in order of time
    subjects: Outcomes
    share: Float[np.ndarray, " subject"]  # of the whole weight
    curve: CensoringCurve
    events: EventWeights


class _Score(NamedTuple):
    """A score and its influences, in order of time."""

    value: float
    influence: Float[np.ndarray, " subject"]
    through_other: Float[np.ndarray, " other"]


@dataclass(frozen=True, slots=True)
class _Supported:
    """What a score is computed from, at the supported times; few scores are in memory at a time."""

    weighting: _Weighting
    cluster: Int[np.ndarray, " subject"] | None  # as given
    survival: Float[np.ndarray, "subject time"]  # as given
    times: Float[np.ndarray, " supported"]
    unsupported: Float[np.ndarray, " left_out"]

    def scores(self) -> Iterator[_Score]:
        """Yield the score at each time."""
        for start in range(0, len(self.times), _TIMES_AT_ONCE):
            times = self.times[start : start + _TIMES_AT_ONCE]
            survival = np.ascontiguousarray(self.survival[:, start : start + len(times)].T)
            for time, column in zip(times.tolist(), survival, strict=True):
                yield _score(self.weighting, column, time)

    def fields(self, score: _Score) -> dict[str, Any]:
        """Return the fields of an Estimate, the influence in the order of the given rows."""
        influence = np.empty_like(score.influence)
        influence[self.weighting.order] = score.influence
        subjects = self.weighting.subjects
        return {
            "estimate": float(score.value),
            "influence": influence,
            "n": len(subjects),
            "n_events": subjects.n_events,
            "cluster": self.cluster,
            "censoring_influence": score.through_other,
        }


def _supported(
    given: Outcomes,
    curve: CensoringCurve,
    survival: Real[np.ndarray, "subject time"],
    times: Real[np.ndarray, " time"],
) -> _Supported:
    grid, curves = checked_curves(survival, times, len(given))
    order = ascending(given.time)
    subjects, curve = given.take(order), curve.in_order(order)
    end = min(float(subjects.time[subjects.weights > 0].max()), curve.last)
    inside = grid < end
    if not inside.any():
        raise MetricError(
            f"no time is supported: times start at {grid[0]:g}, follow-up ends at {end:g}"
        )
    share = subjects.weights / subjects.weights.sum()
    weighting = _Weighting(order, subjects, share, curve, curve.weigh_events(subjects.time))
    return _Supported(weighting, given.cluster, curves, grid[inside], grid[~inside])


def _score(weighting: _Weighting, survival: Float[np.ndarray, " subject"], time: float) -> _Score:
    """Compute the score at a time; the influence is through own loss and the censoring curve."""
    subjects, curve = weighting.subjects, weighting.curve
    place_now = int(curve.up_to(np.array([time]))[0])
    loss, place = np.empty(len(subjects)), np.empty(len(subjects), np.int64)
    _losses(
        (weighting.order, subjects.time, subjects.observed, subjects.censored),
        weighting.events,
        (time, place_now, 1 / float(curve.steps[place_now])),
        survival,
        loss,
        place,
    )
    weighted = weighting.share * loss
    value = float(weighted.sum())
    # A loss is proportional to 1 / G where it reads the curve: hence the sensitivity -loss.
    through = curve.influence(place, -weighted, subjects.weights)
    return _Score(value, weighted - weighting.share * value + through.own, through.other)


@njit(cache=True)
def _losses(outcome: Any, reading: Any, now: Any, survival: Any, loss: Any, place: Any) -> None:
    """Fill, in order of time, subjects' weighted losses and their places on the censoring curve."""
    order, times, observed, censored = outcome
    place_of_event, event_weight = reading
    time, place_now, weight_now = now
    # the event, or a competing one, by this time
    for row in range(times.size):
        known = times[row] <= time and not censored[row]
        place[row] = place_of_event[row] if known else place_now
        weight = event_weight[row] if known else weight_now if times[row] > time else 0.0
        predicted = survival[order[row]]
        error = predicted if known and observed[row] else 1.0 - predicted
        loss[row] = error * error * weight
