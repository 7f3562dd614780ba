"""Uno's concordance (IPCW) with its whole influence function, and paired comparisons by it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from jaxtyping import Float, Real, Shaped

from concordant.core.errors import MetricError
from concordant.core.survival import Outcomes
from concordant.metrics.censoring import CensoringCurve, Convention, EventWeights, censoring_curve
from concordant.metrics.concordance import (
    Concordance,
    ConcordanceDifference,
    concordance_of,
    paired_difference,
)
from concordant.metrics.inputs import Codes, OtherCohort, checked_outcomes, checked_risk, numbers
from concordant.metrics.pair_share import Pairs, pair_share
from concordant.metrics.pairs import PairSums, pair_sums


def concordance_index_ipcw(
    time: Real[np.ndarray, " subject"],
    event: Codes,
    risk: Real[np.ndarray, " subject"],
    *,
    tau: float | None = None,
    censoring: OtherCohort | None = None,
    pooled: bool = False,
    convention: Convention = "default",
    weights: Real[np.ndarray, " subject"] | None = None,
    cluster: Shaped[np.ndarray, " subject"] | None = None,
    cause: int | None = None,
) -> Concordance:
    """Compute Uno's concordance index, free of the censoring, with its whole influence function.

    Cases that the censoring curve does not reach are left out; the result's `tau` and `pairs_kept`
    say so.

    Args:
        time: Follow-up, > 0.
        event: 1 = observed, anything else = censored.
        risk: Higher = earlier event. Equal risks count one half.
        tau: Only cases with time < tau count; None = all that the censoring curve supports.
        censoring: `(time, event)` of the cohort whose censoring curve is used, its rows taken as
            independent of each other and of this cohort; None = this cohort's own. The curve's
            uncertainty is in the standard error.
        pooled: With `censoring`: estimate one curve from both cohorts together.
        convention: Where a case at T reads the curve: "default" G(T-), "sksurv" G(T). They differ
            only where event times are also censoring times.
        weights: A weight of 2 equals two copies of the subject in one cluster; they enter the
            censoring curve too.
        cluster: Rows with one label are one subject: their influences are summed, pairs among them
            do not count.
        cause: None = event 1 is the event and every other code is censored. Else the code of the
            event: only code 0 is censored, and who had another event at T is a control of every
            case; of the cases after T it is one with weight 1 / G(T-), beside the case's own 1 /
            G(T-), as its censoring was over by then.

    Raises:
        MetricError: As `concordance_index`; a tau that is not > 0; also where no comparable pair is
            left before tau.

    Source: Uno et al., Statistics in Medicine 30 (2011), 1105-1117. The influence through the
    censoring curve is derived in `CensoringCurve.influence`. Competing risks: Wolbers et al.,
    Biostatistics 15 (2014), 526-539, with G(T-) for their G(T) of a control that is still followed,
    by our rule for tied times.
    """
    subjects = checked_outcomes(time, event, weights=weights, cluster=cluster, cause=cause)
    curve = censoring_curve(subjects, censoring, pooled=pooled, convention=convention)
    return uno_concordance(subjects, curve, risk, tau)


def compare_concordance_ipcw(
    time: Real[np.ndarray, " subject"],
    event: Codes,
    risk_a: Real[np.ndarray, " subject"],
    risk_b: Real[np.ndarray, " subject"],
    *,
    tau: float | None = None,
    censoring: OtherCohort | None = None,
    pooled: bool = False,
    convention: Convention = "default",
    weights: Real[np.ndarray, " subject"] | None = None,
    cluster: Shaped[np.ndarray, " subject"] | None = None,
    cause: int | None = None,
) -> ConcordanceDifference:
    """Compare two models' Uno concordance on the same subjects, a minus b.

    The same censoring curve weighs both.

    Args:
        time: Follow-up, > 0.
        event: 1 = observed, anything else = censored.
        risk_a: First model, higher = earlier event.
        risk_b: Second model, higher = earlier event.
        tau: As in `concordance_index_ipcw`.
        censoring: As in `concordance_index_ipcw`.
        pooled: As in `concordance_index_ipcw`.
        convention: As in `concordance_index_ipcw`.
        weights: As in `concordance_index_ipcw`.
        cluster: As in `concordance_index_ipcw`.
        cause: As in `concordance_index_ipcw`.

    Raises:
        MetricError: As `concordance_index_ipcw`.
    """
    subjects = checked_outcomes(time, event, weights=weights, cluster=cluster, cause=cause)
    curve = censoring_curve(subjects, censoring, pooled=pooled, convention=convention)
    cohort = _cohort(subjects, curve, tau)
    return paired_difference(_index(cohort, risk_a), _index(cohort, risk_b))


def uno_concordance(
    subjects: Outcomes,
    curve: CensoringCurve,
    risk: Real[np.ndarray, " subject"],
    tau: float | None = None,
) -> Concordance:
    """Compute `concordance_index_ipcw` of checked outcomes and their censoring curve."""
    return _index(_cohort(subjects, curve, tau), risk)


@dataclass(frozen=True, slots=True)
class _Cohort:
    """All of the index but the risk."""

    subjects: Outcomes
    tau: float  # only cases before this time count, of those that the censoring curve reaches
    curve: CensoringCurve
    events: EventWeights
    inverse: Float[np.ndarray, " subject"]  # 1 / G of a case that counts, else 0


def _cohort(subjects: Outcomes, curve: CensoringCurve, tau: float | None) -> _Cohort:
    events = curve.weigh_events(subjects.time)
    limit = _checked_tau(tau)
    counts = subjects.observed & (subjects.time < limit) & (subjects.time <= curve.last)
    inverse = np.where(counts, events.inverse, 0.0)
    left_out = subjects.time[subjects.observed & (inverse == 0)]
    return _Cohort(
        subjects, min(limit, float(left_out.min(initial=np.inf))), curve, events, inverse
    )


def _checked_tau(tau: float | None) -> float:
    limit = numbers("tau", np.inf if tau is None else tau)
    if not (limit.ndim == 0 and limit > 0):
        raise MetricError(
            f"tau is {tau}; expected a time > 0 before which cases count, or None for all that can "
            "be supported"
        )
    return float(limit)


def _index(cohort: _Cohort, risk: Real[np.ndarray, " subject"]) -> Concordance:
    subjects, factor = cohort.subjects, np.square(cohort.inverse)
    values = checked_risk(risk, len(subjects))
    kinds = [Pairs(pair_sums(subjects, values, factor * subjects.weights), factor, case_reads=2)]
    if subjects.competing.any():
        of_control = np.where(subjects.competing, cohort.events.inverse, 0.0)
        kinds.append(_with_earlier_competitors(subjects, values, cohort.inverse, of_control))
    share = pair_share(subjects, *kinds)
    through = cohort.curve.influence(cohort.events.place, share.sensitivity, subjects.weights)
    return concordance_of(subjects, share, tau=cohort.tau, through=through)


def _with_earlier_competitors(
    subjects: Outcomes,
    risk: Float[np.ndarray, " subject"],
    case_factor: Float[np.ndarray, " subject"],
    control_factor: Float[np.ndarray, " subject"],
) -> Pairs:
    """Pair every case with those who had a competing event before it.

    At the same time they still are ordinary controls.
    """
    rows = np.flatnonzero(subjects.observed | subjects.competing)
    part = subjects.take(rows)
    # Back in time a competing event before the case comes after it; at a tied time it comes first,
    # so that the pair does not count.
    back = 2.0 * (len(part) - np.unique(part.time, return_inverse=True)[1]) - part.competing
    reversed_part = replace(part, time=back, weights=part.weights * control_factor[rows])
    found = pair_sums(reversed_part, risk[rows], case_factor[rows] * part.weights)
    spread = np.zeros((5, len(subjects)))
    spread[:, rows] = [getattr(found, field.name) for field in fields(found)]
    return Pairs(PairSums(*spread), case_factor, control_factor, case_reads=1, control_reads=1)
