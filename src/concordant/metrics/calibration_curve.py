"""Predicted against observed probability at a horizon, by groups and as a smooth curve."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int, Real, Shaped

from concordant.core.errors import MetricError
from concordant.core.survival import Outcomes
from concordant.metrics.calibration import ChiSquare, checked_test, rao_scott
from concordant.metrics.cox import fit_cox, has_spread
from concordant.metrics.inference import Band, Estimate, critical_value, standard_error
from concordant.metrics.inputs import Codes, checked_horizon, checked_outcomes, checked_predicted
from concordant.metrics.weak_calibration import (
    log_log,
    observed_by,
    refuse_competing,
    weighted_quantile,
)

GroupTest = Literal["dagostino_nam", "robust"]
"""`dagostino_nam`: the published statistic with binomial variances; `robust`.

The same, corrected for the real ones (Rao and Scott).
"""

KNOTS = (0.1, 0.5, 0.9)
"""Quantiles at which the restricted cubic spline has its knots."""

_CERTAIN = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationGroups:
    """Predicted and observed probability of the event per group of the prediction, lowest first.

    Attributes:
        predicted: Mean prediction per group.
        estimate: Observed probability per group: Kaplan-Meier, with competing events
            Aalen-Johansen.
        influence: Influence of every row on each observed probability.
        predicted_influence: Influence of every row on each mean prediction.
        n: Rows per group.
        weight: Weight per group, its rows where none was given.
        n_events: Rows with the event by the horizon per group.
        n_known: Rows (with clusters: clusters) per group that had an event, or were followed to the
            horizon.
        group: Group per row.
        horizon: The horizon.
        cluster: Cluster number per row, or None.
    """

    predicted: Float[np.ndarray, " group"]
    estimate: Float[np.ndarray, " group"]
    influence: Float[np.ndarray, "group subject"]
    predicted_influence: Float[np.ndarray, "group subject"]
    n: Int[np.ndarray, " group"]
    weight: Float[np.ndarray, " group"]
    n_events: Int[np.ndarray, " group"]
    n_known: Int[np.ndarray, " group"]
    group: Int[np.ndarray, " subject"]
    horizon: float
    cluster: Int[np.ndarray, " subject"] | None = None

    @property
    def standard_error(self) -> Float[np.ndarray, " group"]:
        """Standard error of each observed probability; 0 where it is 0 or 1."""
        return np.array([standard_error(row, self.cluster) for row in self.influence])

    def interval(self, level: float = 0.95) -> Band:
        """Return each observed probability's log(-log) interval, within [0, 1].

        Where it is 0 or 1 there is no standard error: one limit is the estimate, the other Clopper
        and Pearson's for `n_known` rows that all ended alike.
        """
        quantile, rest = critical_value(level), 1 - self.estimate
        none, every = self.estimate < _CERTAIN, rest < _CERTAIN
        inside = np.where(none | every, 0.5, rest)
        width = np.exp(quantile * self.standard_error / (inside * np.abs(np.log(inside))))
        reach = 1 - ((1 - level) / 2) ** (1 / self.n_known)
        low, high = 1 - inside ** (1 / width), 1 - inside**width
        return Band(
            np.where(none, 0.0, np.where(every, 1 - reach, low)),
            np.where(every, 1.0, np.where(none, reach, high)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OneCalibration:
    """The test that every group's observed probability is its mean prediction.

    Attributes:
        statistic: Chi-square statistic.
        degrees: Its degrees of freedom.
        p_value: Probability of a statistic as large if the model is calibrated.
        test: Which test it is.
        groups: The groups, with standard errors and intervals.
    """

    statistic: float
    degrees: float
    p_value: float
    test: GroupTest
    groups: CalibrationGroups

    @property
    def predicted(self) -> Float[np.ndarray, " group"]:
        """Mean prediction per group."""
        return self.groups.predicted

    @property
    def observed(self) -> Float[np.ndarray, " group"]:
        """Observed probability per group."""
        return self.groups.estimate

    @property
    def n(self) -> Int[np.ndarray, " group"]:
        """Rows per group."""
        return self.groups.n


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegratedCalibrationIndex(Estimate):
    """Mean absolute difference between predicted and smoothly observed probability at a horizon.

    0 = calibrated.

    Attributes:
        e50: Median of the absolute differences.
        e90: Their 90 % quantile.
        emax: The largest.
        predicted: The predictions, per row.
        observed: The smooth curve at each of them, per row (sort both by `predicted` to draw it).
        horizon: The horizon.
        knots: Knots of the spline in log(-log(1 - predicted)); empty where it was a line or a
            constant.
    """

    e50: float
    e90: float
    emax: float
    predicted: Float[np.ndarray, " subject"]
    observed: Float[np.ndarray, " subject"]
    horizon: float
    knots: Float[np.ndarray, " knot"]


def kaplan_meier_calibration(
    time: Real[np.ndarray, " subject"],
    event: Codes,
    predicted: Real[np.ndarray, " subject"],
    horizon: float,
    *,
    groups: int = 10,
    weights: Real[np.ndarray, " subject"] | None = None,
    cluster: Shaped[np.ndarray, " subject"] | None = None,
    cause: int | None = None,
) -> CalibrationGroups:
    """Compare predicted and observed probability in groups cut at quantiles of the prediction.

    Args:
        time: Follow-up, > 0.
        event: 1 = observed, anything else = censored; with `cause` see there.
        predicted: Probability of the event by the horizon, in [0, 1]. Equal predictions are in one
            group, so that there may be fewer groups than asked for.
        horizon: In the unit of `time`, within every group's follow-up.
        groups: Number of groups, 1 or more.
        weights: A weight of 2 equals two copies of the subject in one cluster.
        cluster: Rows with one label are one subject: their influences are summed.
        cause: This code is the event, 0 is censored, any other a competing event; observed is then
            the Aalen-Johansen estimate.

    Raises:
        MetricError: Invalid outcomes or predictions, or a horizon beyond the follow-up of a group.
    """
    subjects = checked_outcomes(time, event, weights=weights, cluster=cluster, cause=cause)
    return grouped(subjects, predicted, horizon, groups)


def one_calibration(
    time: Real[np.ndarray, " subject"],
    event: Codes,
    predicted: Real[np.ndarray, " subject"],
    horizon: float,
    *,
    groups: int = 10,
    weights: Real[np.ndarray, " subject"] | None = None,
    cluster: Shaped[np.ndarray, " subject"] | None = None,
    cause: int | None = None,
    test: GroupTest | None = None,
) -> OneCalibration:
    """Test whether observed and predicted probability agree in groups of the prediction.

    "dagostino_nam" is the published statistic: the sum over groups of n (observed - predicted)^2 /
    (predicted (1 - predicted)), compared with chi-square of groups - 1 degrees. It takes
    Kaplan-Meier for a share of n rows and the predictions for fitted ones: at the 5 % level it
    rejects a calibrated model 6 to 9 % of the time without censoring, 12 % with 30 % censored and
    25 % or more with half of them censored. "robust" corrects it for that (5 to 7 %); prefer it
    wherever follow-up is censored.

    Args:
        time: As in `kaplan_meier_calibration`.
        event: As in `kaplan_meier_calibration`.
        predicted: As in `kaplan_meier_calibration`.
        horizon: As in `kaplan_meier_calibration`.
        groups: Number of groups, 2 or more.
        weights: As in `kaplan_meier_calibration`.
        cluster: As in `kaplan_meier_calibration`.
        cause: As in `kaplan_meier_calibration`.
        test: "dagostino_nam" or "robust"; None = "dagostino_nam", with weights or clusters
            "robust".

    Raises:
        MetricError: As `kaplan_meier_calibration`; fewer than two groups with different
            predictions; a group predicted 0 or 1; "dagostino_nam" with weights or clusters; or
            "robust" where in every group all ended alike.

    Source: D'Agostino and Nam, Handbook of Statistics 23 (2003), 1-25; see `calibration.rao_scott`
    for the robust test.
    """
    chosen = _checked_test(test, plain=weights is None and cluster is None)
    parts = kaplan_meier_calibration(
        time,
        event,
        predicted,
        horizon,
        groups=groups,
        weights=weights,
        cluster=cluster,
        cause=cause,
    )
    count = len(parts.n)
    if count < 2:
        raise MetricError(
            "1-calibration needs two groups of different predictions or more; given "
            f"groups={groups}, found {count}"
        )
    found = _tested(chosen, parts)
    return OneCalibration(
        statistic=found.statistic,
        degrees=found.degrees,
        p_value=found.p_value,
        test=chosen,
        groups=parts,
    )


def integrated_calibration_index(
    time: Real[np.ndarray, " subject"],
    event: Codes,
    predicted: Real[np.ndarray, " subject"],
    horizon: float,
    *,
    weights: Real[np.ndarray, " subject"] | None = None,
    cluster: Shaped[np.ndarray, " subject"] | None = None,
    cause: int | None = None,
) -> IntegratedCalibrationIndex:
    """Compute the mean absolute difference of predictions from a smooth observed curve.

    The curve is a Cox model of the outcomes (over the whole follow-up) on a restricted cubic spline
    of log(-log(1 - predicted)) with knots at its 10, 50 and 90 % quantiles, read at the horizon.
    Where the knots fall together the model is a line; predictions that are all the same (or differ
    by rounding only) are compared with one observed probability, 1 - exp(-Nelson-Aalen). The note
    says so.

    The index cannot be below 0 and is above it for a calibrated model too, by chance. Near 0 its
    Wald interval and its standard error are not to be trusted: compare with `calibration_slope`,
    `calibration_in_the_large` or `one_calibration` to test. The influence function takes the knots
    as fixed.

    Args:
        time: Follow-up, > 0.
        event: 1 = observed, anything else = censored; with `cause` see there.
        predicted: Probability of the event by the horizon, in [0, 1]; 0 and 1 are moved inside by
            `CLIP` within the log-log only.
        horizon: In the unit of `time`, within the follow-up.
        weights: A weight of 2 equals two copies of the subject in one cluster.
        cluster: Rows with one label are one subject: their influences are summed.
        cause: This code is the event, 0 is censored. Competing events are refused.

    Raises:
        MetricError: Invalid outcomes or predictions, a competing event, no event, a horizon beyond
            the follow-up, or too few events for the curve.

    Source: Austin, Harrell and van Klaveren, Statistics in Medicine 39 (2020), 2714-2742.
    """
    subjects = checked_outcomes(time, event, weights=weights, cluster=cluster, cause=cause)
    return calibration_index(subjects, predicted, horizon)


def calibration_index(
    subjects: Outcomes, predicted: Real[np.ndarray, " subject"], horizon: float
) -> IntegratedCalibrationIndex:
    """Compute `integrated_calibration_index` of checked outcomes."""
    refuse_competing(subjects, "integrated_calibration_index")
    chance = checked_predicted(predicted, len(subjects))
    end = checked_horizon(horizon)
    last = float(subjects.time[subjects.weights > 0].max())
    if end > last:
        raise MetricError(
            f"the horizon of {end:g} is beyond the follow-up, which ends at {last:g}; choose an "
            "earlier one"
        )
    spline = _spline(log_log(chance), subjects.weights)
    curve = _curve(subjects, spline.design, end)
    difference = curve.observed - chance
    share = subjects.weights / subjects.weights.sum()
    value = float(share @ np.abs(difference))
    counted = subjects.weights > 0
    e50, e90 = weighted_quantile(np.abs(difference), subjects.weights, np.array([0.5, 0.9]))
    return IntegratedCalibrationIndex(
        estimate=value,
        influence=share * (np.abs(difference) - value)
        + curve.influence(share * np.sign(difference)),
        n=len(subjects),
        n_events=subjects.n_events,
        cluster=subjects.cluster,
        note=spline.note,
        e50=float(e50),
        e90=float(e90),
        emax=float(np.abs(difference)[counted].max()),
        predicted=chance,
        observed=curve.observed,
        horizon=end,
        knots=spline.knots,
    )


def grouped(
    subjects: Outcomes, predicted: Real[np.ndarray, " subject"], horizon: float, count: int
) -> CalibrationGroups:
    """Compute `kaplan_meier_calibration` of checked outcomes."""
    chance, end = checked_predicted(predicted, len(subjects)), checked_horizon(horizon)
    if int(count) != count or count < 1:
        raise MetricError(f"groups is {count}; expected a whole number, 1 or more")
    limits = weighted_quantile(chance, subjects.weights, np.arange(1, count) / count)
    labels = np.searchsorted(limits, chance, side="left")
    present = np.unique(labels[subjects.weights > 0])
    # a row of weight 0 may lie above all
    group = np.minimum(np.searchsorted(present, labels), len(present) - 1)
    members = group == np.arange(len(present))[:, None]
    parts = [replace(subjects, weights=np.where(member, subjects.weights, 0)) for member in members]
    observed = [observed_by(part, end) for part in parts]
    share = np.stack([part.weights / part.weights.sum() for part in parts])
    mean = share @ chance
    early = subjects.time <= end
    known = (early & (subjects.observed | subjects.competing)) | (subjects.time >= end)
    return CalibrationGroups(
        predicted=mean,
        estimate=np.array([part.value for part in observed]),
        influence=np.stack([part.influence for part in observed]),
        predicted_influence=share * (chance - mean[:, None]),
        n=members.sum(1),
        weight=np.array([part.weights.sum() for part in parts], dtype=np.float64),
        n_events=(members & subjects.observed & early).sum(1),
        n_known=np.array(
            [_independent(subjects, member & known & (subjects.weights > 0)) for member in members]
        ),
        group=group,
        horizon=end,
        cluster=subjects.cluster,
    )


def _independent(subjects: Outcomes, chosen: Bool[np.ndarray, " subject"]) -> int:
    return (
        int(chosen.sum()) if subjects.cluster is None else len(np.unique(subjects.cluster[chosen]))
    )


def _checked_test(test: str | None, *, plain: bool) -> GroupTest:
    chosen = checked_test(
        test, "dagostino_nam", get_args(GroupTest), plain=plain, name="D'Agostino and Nam's test"
    )
    return "dagostino_nam" if chosen == "dagostino_nam" else "robust"


def _tested(test: GroupTest, parts: CalibrationGroups) -> ChiSquare:
    difference = parts.estimate - parts.predicted
    variance = parts.predicted * (1 - parts.predicted) / parts.weight
    if bool((variance <= 0).any()):
        raise MetricError(
            "a group's predictions are all 0 or all 1, which leaves no room for chance; give less "
            "certain predictions"
        )
    if test == "dagostino_nam":
        return ChiSquare(float((difference**2 / variance).sum()), len(difference) - 1)
    return rao_scott(
        difference, variance, parts.influence - parts.predicted_influence, parts.cluster
    )


@dataclass(frozen=True, slots=True)
class _Spline:
    design: Float[np.ndarray, "subject column"]
    knots: Float[np.ndarray, " knot"]
    note: str = ""


def _spline(x: Float[np.ndarray, " subject"], weights: Real[np.ndarray, " subject"]) -> _Spline:
    """Return the restricted cubic spline's columns.

    X itself, and one that is cubic between the knots, linear outside (Harrell).
    """
    if not has_spread(x, weights):
        return _Spline(
            np.zeros((len(x), 0)),
            np.zeros(0),
            "all predictions are the same: compared with one observed probability",
        )
    first, middle, last = knots = weighted_quantile(x, weights, np.array(KNOTS))
    counted = x[weights > 0]
    if min(middle - first, last - middle) < 1e-6 * (counted.max() - counted.min()):
        return _Spline(
            x[:, None],
            np.zeros(0),
            "the spline's knots fall together: a line in log(-log(1 - predicted)) in its place",
        )
    cubes = [np.maximum((x - knot) / (last - first), 0) ** 3 for knot in knots]
    bend = (
        cubes[0]
        - cubes[1] * (last - first) / (last - middle)
        + cubes[2] * (middle - first) / (last - middle)
    )
    return _Spline(np.column_stack([x, bend]), knots)


@dataclass(frozen=True, slots=True)
class _Curve:
    observed: Float[np.ndarray, " subject"]
    # derivative of each observed probability by the baseline hazard
    by_baseline: Float[np.ndarray, " subject"]
    by_coefficient: Float[np.ndarray, "subject column"]
    baseline_influence: Float[np.ndarray, " subject"]
    coefficient_influence: Float[np.ndarray, "subject column"]

    def influence(
        self, sensitivity: Float[np.ndarray, " subject"]
    ) -> Float[np.ndarray, " subject"]:
        """Return the influence of every row on sensitivity @ observed."""
        return np.asarray(
            self.baseline_influence * (sensitivity @ self.by_baseline)
            + self.coefficient_influence @ (sensitivity @ self.by_coefficient)
        )


def _curve(
    subjects: Outcomes, design: Float[np.ndarray, "subject column"], horizon: float
) -> _Curve:
    fit = fit_cox(subjects, design)
    relative, baseline = fit.relative_hazard(design), fit.baseline(horizon)
    survival = np.exp(-baseline * relative)
    return _Curve(
        observed=1 - survival,
        by_baseline=survival * relative,
        by_coefficient=(survival * relative * baseline)[:, None] * (design - fit.centre),
        baseline_influence=fit.baseline_influence(horizon),
        coefficient_influence=fit.influence,
    )
