"""Groups of risk: Kaplan-Meier curves, the log-rank test, restricted mean survival."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Real, Shaped
from scipy.special import chdtrc

from concordant.core.errors import MetricError
from concordant.core.survival import Outcomes
from concordant.metrics.censoring import SurvivalCurve, kaplan_meier
from concordant.metrics.inputs import Codes, checked_labels, checked_outcomes, checked_risk, numbers
from concordant.metrics.restricted_mean import (
    RestrictedMean,
    RestrictedMeanDifference,
    group_means,
    mean_difference,
)


@dataclass(frozen=True, slots=True)
class LogRank:
    """The log-rank test of equal hazards in all groups.

    Attributes:
        statistic: Chi-squared statistic.
        degrees: Its degrees of freedom: groups with someone at risk at an event, less one.
        p_value: Probability of a statistic as large where the hazards are equal.
        observed: Events per group.
        expected: Events per group if the hazards were equal.
    """

    statistic: float
    degrees: int
    p_value: float
    observed: Float[np.ndarray, " group"]
    expected: Float[np.ndarray, " group"]


@dataclass(frozen=True, slots=True)
class RiskGroups:
    """Subjects split by risk.

    Attributes:
        thresholds: A subject is in group k where k thresholds are below its risk; group 0 has the
            lowest risk.
        group: Group per subject.
        curves: Kaplan-Meier curve per group, None where a group is empty.
        log_rank: Test of equal hazards between the groups that are not empty.
        tau: Where the area under the curves ends.
        restricted_means: Mean time without the event within the first `tau` per group, None where a
            group is empty.
        restricted_mean_difference: That of the group of highest risk minus that of the lowest, of
            those that are not empty.
    """

    thresholds: Float[np.ndarray, " threshold"]
    group: Int[np.ndarray, " subject"]
    curves: tuple[SurvivalCurve | None, ...]
    log_rank: LogRank
    tau: float
    restricted_means: tuple[RestrictedMean | None, ...]
    restricted_mean_difference: RestrictedMeanDifference


def risk_groups(
    time: Real[np.ndarray, " subject"],
    event: Codes,
    risk: Real[np.ndarray, " subject"],
    *,
    groups: int = 3,
    thresholds: Sequence[float] | None = None,
    tau: float | None = None,
    cluster: Shaped[np.ndarray, " subject"] | None = None,
) -> RiskGroups:
    """Split subjects by risk and compare the groups' survival.

    The groups are taken as given: that their limits may come from the same subjects is in no
    standard error.

    Args:
        time: Follow-up, > 0.
        event: 1 = observed, anything else = censored.
        risk: Higher = earlier event. Equal risks are in one group.
        groups: Number of groups of about equal size; 3 = tertiles.
        thresholds: Ascending limits found elsewhere (on train, say), in place of this cohort's
            quantiles.
        tau: Upper limit of the restricted means; None = the largest that all groups support, stated
            in the result.
        cluster: Rows with one label are one subject, in the standard errors of the restricted
            means; the curves' and the log-rank test take every row as its own.

    Raises:
        MetricError: Invalid outcomes or risk, fewer than two groups with subjects, no event, or a
            tau that is not > 0 or beyond the largest supported.
    """
    target = checked_outcomes(time, event, cluster=cluster)
    values = checked_risk(risk, len(target))
    limits = _quantiles(values, groups) if thresholds is None else _checked_thresholds(thresholds)
    group = np.searchsorted(limits, values, side="left")
    filled = np.unique(group).tolist()
    curves = {number: _curve(target, group == number) for number in filled}
    test = log_rank(target.time, target.event, group)
    means = dict(
        zip(filled, group_means(target, [group == number for number in filled], tau), strict=True)
    )
    lowest, highest = means[filled[0]], means[filled[-1]]
    every = range(len(limits) + 1)
    return RiskGroups(
        thresholds=limits,
        group=group,
        curves=tuple(curves.get(number) for number in every),
        log_rank=test,
        tau=highest.tau,
        restricted_means=tuple(means.get(number) for number in every),
        restricted_mean_difference=mean_difference(target, highest, lowest),
    )


def _quantiles(risk: Float[np.ndarray, " subject"], groups: int) -> Float[np.ndarray, " threshold"]:
    if int(groups) != groups or groups < 2:
        raise MetricError(f"groups is {groups}; expected a whole number, 2 or more")
    return np.asarray(np.quantile(risk, np.arange(1, groups) / groups))


def _checked_thresholds(thresholds: Sequence[float]) -> Float[np.ndarray, " threshold"]:
    limits = np.atleast_1d(numbers("thresholds", thresholds))
    if limits.ndim != 1 or np.isnan(limits).any() or bool((limits[1:] < limits[:-1]).any()):
        raise MetricError("thresholds must ascend and hold no NaN")
    return limits


def _curve(target: Outcomes, member: Bool[np.ndarray, " subject"]) -> SurvivalCurve:
    part = target.take(np.flatnonzero(member))
    return kaplan_meier(part.time, part.event)


def log_rank(
    time: Real[np.ndarray, " subject"], event: Codes, group: Shaped[np.ndarray, " subject"]
) -> LogRank:
    """Test whether two or more groups have the same hazard.

    Args:
        time: Follow-up, > 0.
        event: 1 = observed, anything else = censored.
        group: Group label per subject; results are in sorted order of the labels. A group of which
            nobody is left at the first event has no part in the test and no degree of freedom;
            where only one group is left there is nothing to test, and p is 1.

    Raises:
        MetricError: Invalid outcomes, a subject without a label, fewer than two groups, or no
            event.

    Source: Mantel, Cancer Chemotherapy Reports 50 (1966), 163-170; hypergeometric variance with
    ties.
    """
    target = checked_outcomes(time, event)
    labels, member = checked_labels("group", group, len(target))
    if len(labels) < 2 or not target.observed.any():
        raise MetricError(
            f"a log-rank test needs two groups or more and an event; given {len(labels)} group(s)"
        )
    counts = _event_counts(target, member, len(labels))
    share = counts.at_risk / counts.at_risk.sum(0)
    events = counts.events.sum(0)
    excess = (counts.events - share * events).sum(1)
    covariance = _covariance(share, counts.at_risk.sum(0), events)
    statistic = float(excess @ np.linalg.pinv(covariance, hermitian=True) @ excess)
    degrees = int(counts.at_risk.any(1).sum()) - 1
    p_value = float(chdtrc(degrees, statistic)) if degrees else 1.0
    observed = counts.events.sum(1)
    return LogRank(statistic, degrees, p_value, observed, observed - excess)


@dataclass(frozen=True, slots=True)
class _Counts:
    at_risk: Float[np.ndarray, "group event_time"]
    events: Float[np.ndarray, "group event_time"]


def _event_counts(target: Outcomes, member: Int[np.ndarray, " subject"], groups: int) -> _Counts:
    times = np.unique(target.time[target.observed])
    at_risk, events = np.zeros((groups, len(times))), np.zeros((groups, len(times)))
    for number in range(groups):
        own = np.sort(target.time[member == number])
        at_risk[number] = len(own) - np.searchsorted(own, times, side="left")
        met = np.searchsorted(times, target.time[target.observed & (member == number)])
        events[number] = np.bincount(met, minlength=len(times))
    return _Counts(at_risk, events)


def _covariance(
    share: Float[np.ndarray, "group event_time"],
    at_risk: Float[np.ndarray, " event_time"],
    events: Float[np.ndarray, " event_time"],
) -> Float[np.ndarray, "group group"]:
    """Return the covariance of observed minus expected events; singular, as these sum to 0."""
    spread = events * np.divide(
        at_risk - events, at_risk - 1, out=np.zeros_like(at_risk), where=at_risk > 1
    )
    return np.asarray(np.diag((share * spread).sum(1)) - (share * spread) @ share.T)
