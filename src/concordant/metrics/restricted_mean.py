"""Restricted mean survival time: the area under Kaplan-Meier until tau, and differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Real, Shaped

from concordant.core.errors import MetricError
from concordant.core.survival import Outcomes
from concordant.metrics.competing_risks import Incidence, event_timeline, incidence
from concordant.metrics.inference import Difference, Estimate
from concordant.metrics.inputs import Codes, checked_horizon, checked_labels, checked_outcomes


@dataclass(frozen=True, slots=True, kw_only=True)
class RestrictedMean(Estimate):
    """The mean time without the event within the first `tau`.

    Attributes:
        tau: Where the area under the curve ends.
    """

    tau: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RestrictedMeanDifference(Difference):
    """The restricted mean of one group minus that of another.

    Attributes:
        tau: Where the area under both curves ends.
    """

    tau: float


def restricted_mean(
    time: Real[np.ndarray, " subject"],
    event: Codes,
    tau: float,
    *,
    weights: Real[np.ndarray, " subject"] | None = None,
    cluster: Shaped[np.ndarray, " subject"] | None = None,
) -> RestrictedMean:
    """Estimate the mean time without the event within the first `tau`.

    Args:
        time: Follow-up, > 0.
        event: 1 = observed, anything else = censored (a competing event too).
        tau: Upper limit, at most the last follow-up; any where the curve has reached 0.
        weights: A weight of 2 equals two copies of the subject in one cluster.
        cluster: Rows with one label are one subject: their influences are summed.

    Raises:
        MetricError: Invalid outcomes, or a tau that is not > 0 or beyond the largest supported,
            which the message names.

    Source: Royston and Parmar, BMC Medical Research Methodology 13 (2013), 152; standard error:
    infinitesimal jackknife.
    """
    subjects = checked_outcomes(time, event, weights=weights, cluster=cluster)
    everyone = np.ones(len(subjects), dtype=np.bool_)
    return group_means(subjects, [everyone], tau)[0]


def restricted_mean_difference(
    time: Real[np.ndarray, " subject"],
    event: Codes,
    group: Shaped[np.ndarray, " subject"],
    tau: float | None = None,
    *,
    weights: Real[np.ndarray, " subject"] | None = None,
    cluster: Shaped[np.ndarray, " subject"] | None = None,
) -> RestrictedMeanDifference:
    """Compare the restricted means of two groups of subjects.

    The groups are independent, but for clusters with rows in both: their influences are summed over
    both.

    Args:
        time: Follow-up, > 0.
        event: 1 = observed, anything else = censored (a competing event too).
        group: One of two labels per row; the result is the group of the larger label minus that of
            the smaller one.
        tau: Upper limit; None = the largest that both groups support. The standard error takes it
            as given.
        weights: A weight of 2 equals two copies of the subject in one cluster.
        cluster: Rows with one label are one subject.

    Raises:
        MetricError: Invalid outcomes, a row without a label, not exactly two groups with weight
            above 0, or a tau that is not > 0 or beyond the largest that both groups support, which
            the message names.
    """
    subjects = checked_outcomes(time, event, weights=weights, cluster=cluster)
    number = checked_labels("group", group, len(subjects)).number
    present = np.unique(number[subjects.weights > 0])
    if len(present) != 2:
        raise MetricError(
            f"a difference of restricted means needs two groups; given {len(present)} with a "
            "weight above 0"
        )
    smaller, larger = group_means(subjects, [number == one for one in present], tau)
    return mean_difference(subjects, larger, smaller)


def group_means(
    subjects: Outcomes, members: Sequence[Bool[np.ndarray, " subject"]], tau: float | None
) -> tuple[RestrictedMean, ...]:
    """Estimate the restricted mean of several groups at one tau.

    Args:
        subjects: All rows; every influence returned covers all of them, 0 outside the group.
        members: Who is in a group, per group; someone of weight above 0 in each.
        tau: Upper limit; None = the largest that all groups support.

    Raises:
        MetricError: A tau that is not > 0 or that some group does not support.
    """
    timeline = event_timeline(subjects)
    tables = [incidence(timeline, subjects.weights * member) for member in members]
    limit = _shared_tau(tables, tau)
    return tuple(
        _mean(subjects, member, table, limit) for member, table in zip(members, tables, strict=True)
    )


def mean_difference(
    subjects: Outcomes, first: RestrictedMean, second: RestrictedMean
) -> RestrictedMeanDifference:
    """Return first minus second, both of `group_means` of these subjects."""
    return RestrictedMeanDifference(
        estimate=first.estimate - second.estimate,
        influence=first.influence - second.influence,
        n=first.n + second.n,
        n_events=first.n_events + second.n_events,
        cluster=subjects.cluster,
        tau=first.tau,
    )


def _shared_tau(tables: Sequence[Incidence], tau: float | None) -> float:
    """Check tau, or find the largest that all groups support.

    The first end of follow-up at which someone is still without the event.

    Where every curve has reached 0 there is no limit, and nothing is added beyond the last event.
    """
    ends = [table.last for table in tables if table.event_free[-1] > 0]
    largest = min(ends) if ends else max(table.last for table in tables)
    if tau is None:
        return largest
    checked_horizon(tau, "tau")
    if ends and tau > largest:
        groups = "" if len(tables) == 1 else f" by all {len(tables)} groups"
        raise MetricError(
            f"tau is {tau:g}, but follow-up ends earlier; the largest tau supported{groups} is "
            f"{largest:g}"
        )
    return tau


def _mean(
    subjects: Outcomes, member: Bool[np.ndarray, " subject"], table: Incidence, tau: float
) -> RestrictedMean:
    # by someone with the event at each of these times
    lost = np.maximum(tau - table.timeline.times, 0.0)
    return RestrictedMean(
        estimate=tau - float(lost @ table.increments),
        influence=-table.influence(lost),
        n=int(member.sum()),
        n_events=int((subjects.observed & member).sum()),
        cluster=subjects.cluster,
        note=f"until {tau:g}",
        tau=tau,
    )
