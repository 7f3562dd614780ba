"""Post-hoc recalibration of survival curves: a new baseline and a slope."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Real

from concordant.core.errors import MetricError, did_you_mean
from concordant.core.survival import Outcomes
from concordant.metrics.calibration import checked_survival
from concordant.metrics.cox import CoxFit, fit_cox, has_spread
from concordant.metrics.inputs import Codes, checked_outcomes, numbers
from concordant.metrics.weak_calibration import log_log, weighted_quantile

RecalibrationMethod = Literal["slope", "baseline"]
"""`baseline`: a new baseline hazard, the subjects' log hazards kept; `slope`.

Their spread is multiplied by a slope >= 0 as well.
"""


@dataclass(frozen=True, slots=True)
class Recalibration:
    """A map from predicted survival curves to recalibrated ones, fitted on a tuning cohort.

    A subject whose curve is S gets exp(-cumulative_hazard(t) exp(slope log(-log S(reference_time))
    - shift)): a proportional-hazards curve, whatever the shape of S. The fields are text, numbers
    and plain arrays: save them as they are and build it from them again.

    Attributes:
        method: "slope" or "baseline".
        reference_time: Where the curves to recalibrate are read, linear between (0, 1) and their
            times.
        slope: Factor of log(-log S), >= 0; 1 with "baseline".
        shift: Subtracted from the log hazard.
        times: Distinct event times of the tuning cohort, ascending.
        cumulative_hazard: Breslow's baseline cumulative hazard right after each of them.
        last_time: End of the tuning cohort's follow-up; beyond it the curves stay as they are
            there, which nothing supports.
    """

    method: RecalibrationMethod
    reference_time: float
    slope: float
    shift: float
    times: Float[np.ndarray, " event_time"]
    cumulative_hazard: Float[np.ndarray, " event_time"]
    last_time: float

    def apply(
        self, survival: Real[np.ndarray, "subject time"], times: Real[np.ndarray, " time"]
    ) -> Float[np.ndarray, "subject time"]:
        """Recalibrate curves of the model it was fitted for.

        Args:
            survival: Probability of no event until each of `times`, in [0, 1], not rising.
            times: Ascending, >= 0, up to `reference_time` or beyond.

        Returns:
            Survival at the same times, in [0, 1] and not rising.

        Raises:
            MetricError: Invalid curves, or curves that end before `reference_time`.
        """
        log_hazard = (
            self.slope
            * _log_hazard(survival, times, len(np.asarray(survival)), self.reference_time)
            - self.shift
        )
        grid = np.atleast_1d(numbers("times", times))
        baseline = np.append(0.0, self.cumulative_hazard)[
            np.searchsorted(self.times, grid, side="right")
        ]
        # no hazard yet: log 0, and S = 1; a hazard beyond all bounds: S = 0
        with np.errstate(divide="ignore", over="ignore"):
            return np.asarray(np.exp(-np.exp(log_hazard[:, None] + np.log(baseline))))


def fit_recalibration(
    time: Real[np.ndarray, " subject"],
    event: Codes,
    survival: Real[np.ndarray, "subject time"],
    times: Real[np.ndarray, " time"],
    *,
    method: RecalibrationMethod = "slope",
    reference_time: float | None = None,
    weights: Real[np.ndarray, " subject"] | None = None,
) -> Recalibration:
    """Fit a recalibration on a tuning cohort, neither trained nor evaluated on.

    Args:
        time: Follow-up, > 0.
        event: 1 = observed, anything else = censored.
        survival: Probability of no event until each of `times`, in [0, 1], not rising. S of 0 or 1
            is moved inside by `weak_calibration.CLIP` within the log-log.
        times: Ascending, >= 0, the last one > 0.
        method: "slope" fits a slope >= 0 (a Cox coefficient; below 0 or without spread: 0,
            everybody gets the average curve) and a baseline; "baseline" keeps the slope at 1.
        reference_time: Where the curves are read; None = the median of the event times, at most the
            last of `times`.
        weights: A weight of 2 equals two copies of the subject.

    Raises:
        MetricError: Invalid outcomes or curves, no event, an unknown method, a reference time not
            within the curves, or too few events for a slope.

    Source: van Houwelingen, Statistics in Medicine 19 (2000), 3401-3415 (calibration of the slope
    and the baseline hazard).
    """
    subjects = checked_outcomes(time, event, weights=weights)
    if method not in get_args(RecalibrationMethod):
        raise MetricError(
            f"unknown method {method!r}.{did_you_mean(method, get_args(RecalibrationMethod))}"
        )
    reference = _checked_reference(reference_time, subjects, np.atleast_1d(numbers("times", times)))
    log_hazard = _log_hazard(survival, times, len(subjects), reference)
    fit = _fit(subjects, log_hazard, method)
    slope = 1.0 if method == "baseline" else float(fit.coefficient.sum())
    return Recalibration(
        method=method,
        reference_time=reference,
        slope=slope,
        shift=fit.shift + float(fit.centre @ fit.coefficient),
        times=fit.times,
        cumulative_hazard=fit.cumulative_hazard,
        last_time=float(subjects.time[subjects.weights > 0].max()),
    )


def _checked_reference(
    given: float | None, subjects: Outcomes, times: Float[np.ndarray, " time"]
) -> float:
    observed = subjects.observed & (subjects.weights > 0)
    if not bool(observed.any()):
        raise MetricError(
            f"none of the {len(subjects)} rows has event 1: there is nothing to recalibrate on"
        )
    if given is None:
        return float(
            min(
                weighted_quantile(
                    subjects.time[observed], subjects.weights[observed], np.array([0.5])
                )[0],
                times[-1],
            )
        )
    if not 0 < given <= times[-1]:
        raise MetricError(
            f"reference_time is {given}; expected a time > 0, at most the curves' last time of "
            f"{times[-1]:g}"
        )
    return float(given)


def _log_hazard(
    survival: Real[np.ndarray, "subject time"],
    times: Real[np.ndarray, " time"],
    count: int,
    reference: float,
) -> Float[np.ndarray, " subject"]:
    """Return log(-log S(reference))."""
    curves = checked_survival(survival, times, count)
    if reference > curves.times[-1]:
        raise MetricError(
            f"the curves end at {curves.times[-1]:g}, before the reference time of {reference:g} "
            "that they are read at"
        )
    return log_log(1 - curves.at(np.full(count, reference)))


def _fit(
    subjects: Outcomes, log_hazard: Float[np.ndarray, " subject"], method: RecalibrationMethod
) -> CoxFit:
    alone = np.zeros((len(subjects), 0))
    if method == "baseline":
        return fit_cox(subjects, alone, offset=log_hazard)
    if not has_spread(log_hazard, subjects.weights):
        return fit_cox(subjects, alone)
    fit = fit_cox(subjects, log_hazard[:, None])
    return fit if fit.coefficient[0] >= 0 else fit_cox(subjects, alone)
