"""Harrell's and Uno's concordance with influence-function standard errors, and paired comparisons of models."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int, Real, Shaped

from concordant.core.errors import MetricError
from concordant.metrics.censoring import CensoringModel, Convention, censoring_model, checked_convention
from concordant.metrics.inference import Difference, Estimate, joint_covariance, subtract
from concordant.metrics.inputs import Codes, Outcomes, Subjects, checked_risk, checked_risks, checked_subjects, followed_for_ever
from concordant.metrics.pairs import pair_sums


@dataclass(frozen=True, slots=True, kw_only=True)
class Concordance(Estimate):
    """A concordance index: 1 = every comparable pair in the right order, 0.5 = chance.

    Attributes:
        n_pairs: Comparable pairs that count.
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
            raise MetricError(f"{given.size} coefficient(s) for {self.estimate.size} models; expected one each")
        first = self.models[0]
        influence = given @ np.stack([model.influence for model in self.models])
        return Difference(
            difference=float(given @ self.estimate), influence=influence, n=first.n, n_events=first.n_events, cluster=first.cluster
        )


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
        cluster: Rows with one label are one subject: their influences are summed, pairs among them do not count.
        cause: None = event 1 is the event and every other code is censored; else the code of the event, a subject with another
            event being a control of every case, whenever it came: it is known that this event never comes.

    Raises:
        MetricError: Lengths differ, a time <= 0, a risk that is not finite, no event, or no comparable pair.

    Source: Harrell, Lee and Mark, Statistics in Medicine 15 (1996), 361-387; infinitesimal jackknife as in R `survival::concordance`;
    for competing risks Wolbers et al., Biostatistics 15 (2014), 526-539, without their weights.
    """
    subjects = followed_for_ever(checked_subjects(time, event, weights=weights, cluster=cluster, cause=cause))
    values = checked_risk(risk, len(subjects))
    return _result(subjects, _index(subjects, values, subjects.observed.astype(np.int32)))


def concordance_index_ipcw(
    time: Real[np.ndarray, " subject"],
    event: Codes,
    risk: Real[np.ndarray, " subject"],
    *,
    tau: float | None = None,
    censoring: Outcomes | None = None,
    pooled: bool = False,
    convention: Convention = "default",
    weights: Real[np.ndarray, " subject"] | None = None,
    cluster: Shaped[np.ndarray, " subject"] | None = None,
) -> Concordance:
    """Compute Uno's concordance index, which does not depend on the censoring, with its whole influence function.

    Cases that the censoring curve does not reach are left out; the result's `tau` and `pairs_kept` say so.

    Args:
        time: Follow-up, > 0.
        event: 1 = observed, anything else = censored.
        risk: Higher = earlier event. Equal risks count one half.
        tau: Only cases with time < tau count; None = all that the censoring curve supports.
        censoring: `(time, event)` of the cohort whose censoring curve is used, its rows taken as independent of each other and of
            this cohort; None = this cohort's own. The curve's uncertainty is in the standard error.
        pooled: With `censoring`: estimate one curve from both cohorts together.
        convention: Where a case at T reads the curve: "default" G(T-), "sksurv" G(T). They differ only where event times are
            also censoring times.
        weights: A weight of 2 equals two copies of the subject in one cluster; they enter the censoring curve too.
        cluster: Rows with one label are one subject: their influences are summed, pairs among them do not count.

    Raises:
        MetricError: As `concordance_index`; also where no comparable pair is left before tau.

    Source: Uno et al., Statistics in Medicine 30 (2011), 1105-1117; the influence through the censoring curve is derived in
    `CensoringCurve.influence`.
    """
    subjects = checked_subjects(time, event, weights=weights, cluster=cluster)
    values = checked_risk(risk, len(subjects))
    checked_convention(convention)
    model = censoring_model(subjects, censoring, pooled=pooled)
    limit = np.inf if tau is None else float(tau)
    place = model.curve.place_of_case(subjects.time, convention)
    case_weight = _inverse_probability(subjects, model, place, limit)
    index = _index(subjects, values, case_weight)
    # The index weighs a case by exp(-2 log G): hence the sensitivity.
    through = model.influence(place, -2 * index.excess / index.total, subjects.weights)
    left_out = subjects.time[subjects.observed & (case_weight == 0)]
    return _result(
        subjects,
        replace(index, influence=index.influence + through.own),
        tau=min(limit, left_out.min(initial=np.inf)),
        censoring_influence=through.other,
    )


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
    a = concordance_index(time, event, risk_a, weights=weights, cluster=cluster, cause=cause)
    b = concordance_index(time, event, risk_b, weights=weights, cluster=cluster, cause=cause)
    paired = subtract(a, b)
    return ConcordanceDifference(
        difference=paired.difference,
        influence=paired.influence,
        n=paired.n,
        n_events=paired.n_events,
        cluster=paired.cluster,
        a=a,
        b=b,
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
    """Compute several models' Harrell concordance on the same subjects and the covariance of all of them.

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
    columns = checked_risks(risks, np.size(time))
    models = tuple(concordance_index(time, event, risk, weights=weights, cluster=cluster, cause=cause) for risk in columns)
    return ConcordanceCovariance(np.array([model.estimate for model in models]), joint_covariance(models), models)


@dataclass(frozen=True, slots=True)
class _Index:
    value: float
    influence: Float[np.ndarray, " subject"]  # the censoring curve taken as known
    excess: Float[np.ndarray, " subject"]  # per case: weighted credit beyond what the index expects of it
    total: float  # summed weight of all pairs that count
    n_pairs: int  # pairs that count
    n_comparable: int  # pairs that would count if every case did


def _index(subjects: Subjects, risk: Float[np.ndarray, " subject"], case_weight: Real[np.ndarray, " subject"]) -> _Index:
    """Compute the index where a case weighs `case_weight` times its own weight."""
    weights = subjects.weights
    sums = pair_sums(subjects, risk, case_weight * weights)
    total = float(np.sum(weights * case_weight * sums.case_total))
    if total == 0:
        raise MetricError(_nothing_to_compare(subjects, case_weight))
    value = float(np.sum(weights * case_weight * sums.case_credit)) / total
    as_case = case_weight * (sums.case_credit - value * sums.case_total)
    as_control = sums.control_credit - value * sums.control_total
    return _Index(
        value=value,
        influence=weights * (as_case + as_control) / total,
        excess=weights * as_case,
        total=total,
        n_pairs=int(sums.case_count[case_weight > 0].sum()),
        n_comparable=int(sums.case_count.sum()),
    )


def _nothing_to_compare(subjects: Subjects, case_weight: Real[np.ndarray, " subject"]) -> str:
    if subjects.n_events == 0:
        return f"none of the {len(subjects)} rows has event 1: without an event there is no comparable pair"
    counting = int((case_weight > 0).sum())
    return f"no comparable pair among {len(subjects)} rows; {counting} of {subjects.n_events} event(s) count as cases"


def _inverse_probability(
    subjects: Subjects, model: CensoringModel, place: Int[np.ndarray, " subject"], tau: float
) -> Float[np.ndarray, " subject"]:
    """Return 1 / G^2 for the cases before tau that the curve reaches, else 0."""
    probability = model.curve.steps[place]
    counts = subjects.observed & (subjects.time < tau) & (subjects.time <= model.curve.last) & (probability > 0)
    return np.asarray(np.divide(1.0, np.square(probability), out=np.zeros(len(subjects)), where=counts))


def _result(
    subjects: Subjects,
    index: _Index,
    *,
    tau: float = np.inf,
    censoring_influence: Float[np.ndarray, " other"] | None = None,
) -> Concordance:
    kept = index.n_pairs / index.n_comparable
    return Concordance(
        estimate=index.value,
        influence=index.influence,
        n=len(subjects),
        n_events=subjects.n_events,
        cluster=subjects.cluster,
        censoring_influence=np.zeros(0) if censoring_influence is None else censoring_influence,
        note="" if kept == 1 else f"cases before {tau:g} only: {kept:.1%} of comparable pairs",
        n_pairs=index.n_pairs,
        tau=float(tau),
        pairs_kept=kept,
    )
