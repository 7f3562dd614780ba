"""Harrell's concordance with its influence function, and paired comparisons by it."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float, Real, Shaped

from concordant.core.errors import MetricError
from concordant.core.survival import Outcomes
from concordant.metrics.censoring import SplitInfluence
from concordant.metrics.inference import Difference, Estimate, contrast, joint_covariance, subtract
from concordant.metrics.inputs import (
    Codes,
    checked_outcomes,
    checked_risk,
    checked_risks,
    followed_for_ever,
)
from concordant.metrics.pair_share import Pairs, PairShare, pair_share
from concordant.metrics.pairs import pair_sums


@dataclass(frozen=True, slots=True, kw_only=True)
class Concordance(Estimate):
    """A concordance index: 1 = every comparable pair in the right order, 0.5 = chance.

    Attributes:
        n_pairs: Comparable pairs that count, of rows of weight above 0.
        tau: Only cases before this time count; infinity where none is left out.
        pairs_kept: Share of all comparable pairs whose case is before `tau`.
    """

    n_pairs: int
    tau: float = np.inf
    pairs_kept: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConcordanceDifference(Difference):
    """A paired difference of two concordance indices, a minus b; positive: a is better.

    Attributes:
        a: The first model's concordance.
        b: The second model's concordance.
    """

    a: Concordance
    b: Concordance


@dataclass(frozen=True, slots=True)
class ConcordanceCovariance:
    """Concordance indices of several models on the same subjects, with their joint covariance.

    Attributes:
        estimate: One concordance per model.
        covariance: Their covariance matrix.
        models: The full result of each model.
    """

    estimate: Float[np.ndarray, " model"]
    covariance: Float[np.ndarray, "model model"]
    models: tuple[Concordance, ...]

    def contrast(self, coefficients: Float[np.ndarray, " model"]) -> Difference:
        """Return a linear combination of the concordances; coefficients (1, -1) compare two models.

        Raises:
            MetricError: Not one coefficient per model.
        """
        given = np.asarray(coefficients, dtype=np.float64)
        if given.shape != self.estimate.shape:
            raise MetricError(
                f"{given.size} coefficient(s) for {self.estimate.size} models; expected one each"
            )
        return contrast(self.models, given)


def concordance_index(
    time: Real[np.ndarray, " subject"],
    event: Codes,
    risk: Real[np.ndarray, " subject"],
    *,
    weights: Real[np.ndarray, " subject"] | None = None,
    cluster: Shaped[np.ndarray, " subject"] | None = None,
    cause: int | None = None,
) -> Concordance:
    """Compute Harrell's concordance index, exact with ties, in O(n log n).

    Args:
        time: Follow-up, > 0.
        event: 1 = observed, anything else = censored.
        risk: Higher = earlier event. Equal risks count one half.
        weights: A weight of 2 equals two copies of the subject in one cluster.
        cluster: Rows with one label are one subject: their influences are summed, pairs among them
            do not count.
        cause: None = event 1 is the event and every other code is censored; else the code of the
            event, a subject with another event being a control of every case, whenever it came: it
            is known that this event never comes.

    Raises:
        MetricError: Lengths differ, a time <= 0, a risk that is not finite, no event, or no
            comparable pair.

    Source: Harrell, Lee and Mark, Statistics in Medicine 15 (1996), 361-387; infinitesimal
    jackknife as in R `survival::concordance`; for competing risks Wolbers et al., Biostatistics 15
    (2014), 526-539, without their weights.
    """
    subjects = checked_outcomes(time, event, weights=weights, cluster=cluster, cause=cause)
    return harrell_concordance(subjects, risk)


def harrell_concordance(subjects: Outcomes, risk: Real[np.ndarray, " subject"]) -> Concordance:
    """Compute `concordance_index` of checked outcomes."""
    followed, values = followed_for_ever(subjects), checked_risk(risk, len(subjects))
    as_case = followed.observed.astype(np.int32)
    pairs = Pairs(pair_sums(followed, values, as_case * followed.weights), as_case)
    return concordance_of(followed, pair_share(followed, pairs))


def compare_concordance(
    time: Real[np.ndarray, " subject"],
    event: Codes,
    risk_a: Real[np.ndarray, " subject"],
    risk_b: Real[np.ndarray, " subject"],
    *,
    weights: Real[np.ndarray, " subject"] | None = None,
    cluster: Shaped[np.ndarray, " subject"] | None = None,
    cause: int | None = None,
) -> ConcordanceDifference:
    """Compare two models' Harrell concordance on the same subjects, a minus b.

    Args:
        time: Follow-up, > 0.
        event: 1 = observed, anything else = censored.
        risk_a: First model, higher = earlier event.
        risk_b: Second model, higher = earlier event.
        weights: As in `concordance_index`.
        cluster: As in `concordance_index`.
        cause: As in `concordance_index`.

    Raises:
        MetricError: As `concordance_index`.
    """
    subjects = checked_outcomes(time, event, weights=weights, cluster=cluster, cause=cause)
    return paired_difference(
        harrell_concordance(subjects, risk_a), harrell_concordance(subjects, risk_b)
    )


def concordance_covariance(
    time: Real[np.ndarray, " subject"],
    event: Codes,
    risks: Real[np.ndarray, "subject model"],
    *,
    weights: Real[np.ndarray, " subject"] | None = None,
    cluster: Shaped[np.ndarray, " subject"] | None = None,
    cause: int | None = None,
) -> ConcordanceCovariance:
    """Compute several models' Harrell concordance on the same subjects, and its covariance.

    Args:
        time: Follow-up, > 0.
        event: 1 = observed, anything else = censored.
        risks: One column per model, higher = earlier event.
        weights: As in `concordance_index`.
        cluster: As in `concordance_index`.
        cause: As in `concordance_index`.

    Raises:
        MetricError: As `concordance_index`, or no model.
    """
    subjects = checked_outcomes(time, event, weights=weights, cluster=cluster, cause=cause)
    models = tuple(
        harrell_concordance(subjects, risk) for risk in checked_risks(risks, len(subjects))
    )
    return ConcordanceCovariance(
        np.array([model.estimate for model in models]), joint_covariance(models), models
    )


def paired_difference(a: Concordance, b: Concordance) -> ConcordanceDifference:
    """Return a minus b, with both.

    Raises:
        MetricError: The two are not of the same subjects and clusters.
    """
    paired = subtract(a, b)
    shared = {field.name: getattr(paired, field.name) for field in fields(paired)}
    return ConcordanceDifference(**shared, a=a, b=b)


def concordance_of(
    subjects: Outcomes,
    share: PairShare,
    *,
    tau: float = np.inf,
    through: SplitInfluence | None = None,
) -> Concordance:
    """Return a share of pairs as a concordance index.

    Args:
        subjects: The cohort.
        share: The share of credit in its pairs.
        tau: Only cases before this time count.
        through: Influence through the censoring curve.
    """
    kept = share.n_pairs / share.n_comparable
    return Concordance(
        estimate=share.value,
        influence=share.influence if through is None else share.influence + through.own,
        n=len(subjects),
        n_events=subjects.n_events,
        cluster=subjects.cluster,
        censoring_influence=np.zeros(0) if through is None else through.other,
        note="" if kept == 1 else f"cases before {tau:g} only: {kept:.1%} of comparable pairs",
        n_pairs=share.n_pairs,
        tau=float(tau),
        pairs_kept=kept,
    )
