"""The Brier score of survival curves and its integral over time, with influence-function standard errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Real, Shaped

from concordant.core.errors import MetricError
from concordant.core.survival import SurvivalTarget
from concordant.metrics.censoring import CensoringModel, Convention, censoring_model, checked_convention
from concordant.metrics.inference import Band, Estimate, critical_value
from concordant.metrics.inputs import Codes, Subjects, checked_subjects


@dataclass(frozen=True, slots=True)
class BrierScores:
    """Brier scores at the supported times: 0 = perfect, 0.25 = a constant one half.

    Attributes:
        times: The given times that the follow-up supports.
        unsupported: The given times left out: nobody is observed, or the censoring curve not known, beyond them.
        scores: The score at each of `times`, with its influence function.
    """

    times: Float[np.ndarray, " time"]
    unsupported: Float[np.ndarray, " left_out"]
    scores: tuple[Estimate, ...]

    @property
    def estimate(self) -> Float[np.ndarray, " time"]:
        """Score at each time."""
        return np.array([score.estimate for score in self.scores])

    @property
    def standard_error(self) -> Float[np.ndarray, " time"]:
        """Standard error at each time."""
        return np.array([score.standard_error for score in self.scores])

    def interval(self, level: float = 0.95) -> Band:
        """Return the pointwise normal confidence interval."""
        half = critical_value(level) * self.standard_error
        return Band(self.estimate - half, self.estimate + half)


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
    censoring: SurvivalTarget | None = None,
    pooled: bool = False,
    convention: Convention = "default",
    weights: Real[np.ndarray, " subject"] | None = None,
    cluster: Shaped[np.ndarray, " subject"] | None = None,
) -> BrierScores:
    """Compute the inverse-probability-of-censoring-weighted Brier score at each time.

    A subject with the event at T <= t adds S(t)^2 / G(T-), one followed beyond t adds (1 - S(t))^2 / G(t), one censored by t
    adds 0; the mean runs over all.

    Args:
        time: Follow-up, > 0.
        event: 1 = observed, anything else = censored.
        survival: Probability of no event until each of `times`, between 0 and 1.
        times: Ascending, in the unit of `time`. Those at or beyond the last follow-up (of this cohort, or of the one that gives
            the censoring curve) are left out and listed in the result.
        censoring: The cohort whose censoring curve is used, its rows taken as independent of each other and of this cohort; None =
            this cohort's own. The curve's uncertainty is in the standard error.
        pooled: With `censoring`: estimate one curve from both cohorts together.
        convention: Where an event at T reads the curve: "default" G(T-), "sksurv" G(T).
        weights: A weight of 2 equals two copies of the subject in one cluster.
        cluster: Rows with one label are one subject: their influences are summed.

    Raises:
        MetricError: Invalid outcomes, a survival that is no probability or of the wrong shape, times that do not ascend, or no
            supported time.

    Source: Graf et al., Statistics in Medicine 18 (1999), 2529-2545; Gerds and Schumacher, Biometrical Journal 48 (2006), 1029-1040.
    """
    checked_convention(convention)
    subjects = checked_subjects(time, event, weights=weights, cluster=cluster)
    grid, curves = _checked_curves(survival, times, len(subjects))
    model = censoring_model(subjects, censoring, pooled=pooled)
    end = min(float(subjects.time[subjects.weights > 0].max()), model.curve.last)
    supported = grid < end
    if not supported.any():
        raise MetricError(f"no time is supported: times start at {grid[0]:g}, follow-up ends at {end:g}")
    weighting = _weighting(subjects, model, convention)
    scores = tuple(_score(weighting, curves[:, column], float(grid[column])) for column in np.flatnonzero(supported))
    return BrierScores(grid[supported], grid[~supported], scores)


def integrated_brier_score(
    time: Real[np.ndarray, " subject"],
    event: Codes,
    survival: Real[np.ndarray, "subject time"],
    times: Real[np.ndarray, " time"],
    *,
    censoring: SurvivalTarget | None = None,
    pooled: bool = False,
    convention: Convention = "default",
    weights: Real[np.ndarray, " subject"] | None = None,
    cluster: Shaped[np.ndarray, " subject"] | None = None,
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

    Raises:
        MetricError: As `brier_score`, or fewer than two supported times.
    """
    curve = brier_score(
        time, event, survival, times, censoring=censoring, pooled=pooled, convention=convention, weights=weights, cluster=cluster
    )
    if len(curve.times) < 2:
        raise MetricError(f"an integral needs two supported times or more; only {curve.times[0]:g} is supported")
    share = _trapezoid(curve.times)
    first = curve.scores[0]
    return IntegratedBrierScore(
        estimate=float(share @ curve.estimate),
        influence=share @ np.stack([score.influence for score in curve.scores]),
        n=first.n,
        n_events=first.n_events,
        cluster=first.cluster,
        censoring_influence=share @ np.stack([score.censoring_influence for score in curve.scores]),
        note=f"times {curve.times[0]:g} to {curve.times[-1]:g}",
        first_time=float(curve.times[0]),
        last_time=float(curve.times[-1]),
    )


class _Curves(NamedTuple):
    times: Float[np.ndarray, " time"]
    survival: Float[np.ndarray, "subject time"]


def _checked_curves(survival: Real[np.ndarray, "subject time"], times: Real[np.ndarray, " time"], count: int) -> _Curves:
    grid = np.atleast_1d(np.asarray(times, dtype=np.float64))
    curves = np.asarray(survival, dtype=np.float64)
    if grid.ndim != 1 or grid.size == 0 or not np.isfinite(grid).all() or bool((np.diff(grid) <= 0).any()):
        raise MetricError("times must be a vector of finite, strictly ascending numbers, at least one")
    if curves.shape != (count, grid.size):
        raise MetricError(f"survival has shape {curves.shape}; expected ({count}, {grid.size}): a row per subject, a column per time")
    if not bool(((curves >= 0) & (curves <= 1)).all()):
        raise MetricError("survival holds values that are NaN or outside [0, 1]; expected probabilities of no event until each time")
    return _Curves(grid, curves)


def _trapezoid(times: Float[np.ndarray, " time"]) -> Float[np.ndarray, " time"]:
    """Return the weights of the trapezoid rule, divided by the length of the range; they sum to 1."""
    steps = np.diff(times)
    return np.asarray((np.append(steps, 0) + np.append(0, steps)) / 2 / (times[-1] - times[0]))


@dataclass(frozen=True, slots=True)
class _Weighting:
    subjects: Subjects
    model: CensoringModel
    place: Int[np.ndarray, " subject"]  # where an event at its own time reads the censoring curve
    case_weight: Float[np.ndarray, " subject"]  # one over the curve there


def _weighting(subjects: Subjects, model: CensoringModel, convention: Convention) -> _Weighting:
    place = model.curve.place_of_case(subjects.time, convention)
    probability = model.curve.steps[place]
    case_weight = np.divide(1.0, probability, out=np.zeros(len(subjects)), where=probability > 0)
    return _Weighting(subjects, model, place, case_weight)


def _score(weighting: _Weighting, survival: Float[np.ndarray, " subject"], time: float) -> Estimate:
    """Compute the score at one time: its influence is the row's own loss and, through the censoring curve, everybody's."""
    subjects, curve = weighting.subjects, weighting.model.curve
    controls = subjects.time > time
    cases = subjects.observed & ~controls
    place_now = curve.up_to(np.array([time]))
    loss = np.where(cases, survival**2 * weighting.case_weight, 0.0)
    loss[controls] = (1 - survival[controls]) ** 2 / curve.steps[place_now]
    share = subjects.weights / subjects.weights.sum()
    value = float(share @ loss)
    # A loss is proportional to 1 / G where it reads the curve: hence the sensitivity -loss.
    place = np.where(cases, weighting.place, place_now)
    through = weighting.model.influence(place, -share * loss, subjects.weights)
    return Estimate(
        estimate=value,
        influence=share * (loss - value) + through.own,
        n=len(subjects),
        n_events=subjects.n_events,
        cluster=subjects.cluster,
        censoring_influence=through.other,
    )
