"""Calibration at a horizon: observed over expected, and the slope of the log-log."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Real, Shaped

from concordant.core.errors import MetricError
from concordant.core.survival import Outcomes
from concordant.metrics.competing_risks import event_timeline, incidence
from concordant.metrics.cox import fit_cox, has_spread
from concordant.metrics.inference import Estimate
from concordant.metrics.inputs import Codes, checked_horizon, checked_outcomes, checked_predicted

CLIP = 1e-8
"""A predicted probability is moved into [CLIP, 1 - CLIP] where log(-log(1 - p)) is taken
(infinite at 0 and 1), nowhere else.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationInTheLarge(Estimate):
    """Observed over expected probability of the event by the horizon.

    1 = right on average, above 1 = too low predictions.

    Attributes:
        observed: Kaplan-Meier (with competing events Aalen-Johansen) probability of the event by
            the horizon.
        expected: Mean predicted probability.
        horizon: The horizon.
    """

    observed: float
    expected: float
    horizon: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSlope(Estimate):
    """Slope of the log-log predictions.

    1 = perfect spread, below 1 = too extreme predictions, 0 = no information.

    Attributes:
        horizon: Follow-up was ended here; `n_events` counts the events until then.
        n_clipped: Predictions of 0 or 1, or closer to them than `CLIP`, which were moved inside.
    """

    horizon: float
    n_clipped: int


def calibration_in_the_large(
    time: Real[np.ndarray, " subject"],
    event: Codes,
    predicted: Real[np.ndarray, " subject"],
    horizon: float,
    *,
    weights: Real[np.ndarray, " subject"] | None = None,
    cluster: Shaped[np.ndarray, " subject"] | None = None,
    cause: int | None = None,
) -> CalibrationInTheLarge:
    """Compute the observed over the expected probability of the event by a horizon.

    Args:
        time: Follow-up, > 0.
        event: 1 = observed, anything else = censored; with `cause` see there.
        predicted: Probability of the event by the horizon, in [0, 1].
        horizon: In the unit of `time`, within the follow-up.
        weights: A weight of 2 equals two copies of the subject in one cluster.
        cluster: Rows with one label are one subject: their influences are summed.
        cause: This code is the event, 0 is censored, any other a competing event; observed is then
            the Aalen-Johansen estimate.

    Raises:
        MetricError: Invalid outcomes or predictions, a horizon beyond the follow-up, or predictions
            that are all 0.

    Source: McLernon et al., Annals of Internal Medicine 176 (2023), 105-114 (ratio); standard error
    by the influence function.
    """
    subjects = checked_outcomes(time, event, weights=weights, cluster=cluster, cause=cause)
    return observed_over_expected(subjects, predicted, horizon)


def observed_over_expected(
    subjects: Outcomes, predicted: Real[np.ndarray, " subject"], horizon: float
) -> CalibrationInTheLarge:
    """Compute `calibration_in_the_large` of checked outcomes."""
    chance = checked_predicted(predicted, len(subjects))
    end = checked_horizon(horizon)
    observed = observed_by(subjects, end)
    share = subjects.weights / subjects.weights.sum()
    expected = float(share @ chance)
    if expected == 0:
        raise MetricError("every predicted probability is 0; observed over expected has no value")
    ratio = observed.value / expected
    return CalibrationInTheLarge(
        estimate=ratio,
        influence=(observed.influence - ratio * share * (chance - expected)) / expected,
        n=len(subjects),
        n_events=subjects.n_events,
        cluster=subjects.cluster,
        observed=observed.value,
        expected=expected,
        horizon=end,
    )


def calibration_slope(
    time: Real[np.ndarray, " subject"],
    event: Codes,
    predicted: Real[np.ndarray, " subject"],
    horizon: float,
    *,
    weights: Real[np.ndarray, " subject"] | None = None,
    cluster: Shaped[np.ndarray, " subject"] | None = None,
    cause: int | None = None,
) -> CalibrationSlope:
    """Fit the slope of log(-log(1 - predicted)) in a Cox model of the time to the horizon.

    Args:
        time: Follow-up, > 0.
        event: 1 = observed, anything else = censored; with `cause` see there.
        predicted: Probability of the event by the horizon, in [0, 1]; 0 and 1 are moved inside by
            `CLIP`.
        horizon: In the unit of `time`; an event at the horizon counts, a later one does not.
        weights: A weight of 2 equals two copies of the subject in one cluster.
        cluster: Rows with one label are one subject: their influences are summed (Lin and Wei's
            robust variance).
        cause: This code is the event, 0 is censored. Competing events are refused: the slope of a
            cumulative incidence is no coefficient of a Cox model.

    Raises:
        MetricError: Invalid outcomes or predictions, a competing event, no event by the horizon,
            predictions that are all the same (or differ by rounding only), or that order the few
            events perfectly.

    Source: McLernon et al., Annals of Internal Medicine 176 (2023), 105-114; ties as Breslow.
    """
    subjects = checked_outcomes(time, event, weights=weights, cluster=cluster, cause=cause)
    return slope(subjects, predicted, horizon)


def slope(
    subjects: Outcomes, predicted: Real[np.ndarray, " subject"], horizon: float
) -> CalibrationSlope:
    """Compute `calibration_slope` of checked outcomes."""
    refuse_competing(subjects, "calibration_slope")
    chance = checked_predicted(predicted, len(subjects))
    end = checked_horizon(horizon)
    early = replace(
        subjects,
        time=np.minimum(subjects.time, end),
        event=np.where(subjects.time <= end, subjects.event, 0),
    )
    covariate = log_log(chance)
    if not has_spread(covariate, subjects.weights):
        raise MetricError(
            "predicted is the same for every row (or differs by rounding only): a constant has no "
            "calibration slope"
        )
    fit = fit_cox(early, covariate[:, None])
    clipped = int(((chance < CLIP) | (chance > 1 - CLIP)).sum())
    return CalibrationSlope(
        estimate=float(fit.coefficient[0]),
        influence=fit.influence[:, 0],
        n=len(subjects),
        n_events=early.n_events,
        cluster=subjects.cluster,
        note=f"{clipped} prediction(s) of 0 or 1 moved inside" if clipped else "",
        horizon=end,
        n_clipped=clipped,
    )


def refuse_competing(subjects: Outcomes, name: str) -> None:
    """Refuse a cohort with competing events, for what has no meaning there.

    Raises:
        MetricError: There is a competing event.
    """
    count = int(subjects.competing.sum())
    if count:
        raise MetricError(
            f"{name} does not know competing events; given {count}. Use calibration_in_the_large "
            "or kaplan_meier_calibration with `cause`, or leave `cause` out for the cause-specific "
            "hazard, to which competing events are censored"
        )


def log_log(chance: Float[np.ndarray, " subject"]) -> Float[np.ndarray, " subject"]:
    """Return log(-log(1 - p)), p clipped by `CLIP`: the log cumulative hazard."""
    return np.asarray(np.log(-np.log1p(-np.clip(chance, CLIP, 1 - CLIP))))


def weighted_quantile(
    values: Float[np.ndarray, " subject"],
    weights: Real[np.ndarray, " subject"],
    levels: Float[np.ndarray, " level"],
) -> Float[np.ndarray, " level"]:
    """Return weighted quantiles: the smallest values that these shares do not exceed."""
    order = np.argsort(values, kind="stable")
    below = np.cumsum(weights[order], dtype=np.float64)
    place = np.searchsorted(below / below[-1], levels, side="left")
    return np.asarray(values[order][np.minimum(place, len(values) - 1)])


@dataclass(frozen=True, slots=True)
class ObservedProbability:
    """Probability of the event by a horizon.

    Attributes:
        value: The Aalen-Johansen estimate, which is Kaplan-Meier's where there are no competing
            events.
        influence: Its derivative by every row's weight, times the weight.
    """

    value: float
    influence: Float[np.ndarray, " subject"]


def observed_by(subjects: Outcomes, horizon: float) -> ObservedProbability:
    """Estimate the probability of the event by a horizon from rows of weight above 0.

    Raises:
        MetricError: Nobody is under observation until the horizon.
    """
    table = incidence(event_timeline(subjects), subjects.weights)
    if not table.supports(horizon):
        count = int((table.weights > 0).sum())
        raise MetricError(
            f"nobody (of {count} rows) is followed to the horizon of {horizon:g}: the last time is "
            f"{table.last:g}. Choose an earlier one, or fewer groups where these rows are one of "
            "them"
        )
    return ObservedProbability(table.until(horizon), table.influence(table.timeline.until(horizon)))
