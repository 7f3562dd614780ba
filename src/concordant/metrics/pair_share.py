"""The share of credit in weighted pairs of case and control, with its influence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Real

from concordant.core.errors import MetricError
from concordant.core.survival import Outcomes
from concordant.metrics.pairs import PairSums


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of case and control, each weighing two factors times the two rows' weights.

    Attributes:
        sums: Per row its sums over the pairs: the other row's factor and weight are in them, its
            own are not.
        case_factor: Of every row as case; 0 where it does not count as one.
        control_factor: Of every row as control.
        case_reads: How many times 1 / G, read at the row's place on the censoring curve, is in its
            factor as case.
        control_reads: The same as control.
    """

    sums: PairSums
    case_factor: Real[np.ndarray, " subject"]
    control_factor: Real[np.ndarray, " subject"] | int = 1
    case_reads: int = 0
    control_reads: int = 0

    def as_case(self, value: float) -> Float[np.ndarray, " subject"]:
        """Return every row's credit as case beyond what a share expects."""
        return _beyond(value, self.sums.case_credit, self.sums.case_total, self.case_factor)

    def as_control(self, value: float) -> Float[np.ndarray, " subject"]:
        """Return every row's credit as control beyond what a share expects."""
        return _beyond(
            value, self.sums.control_credit, self.sums.control_total, self.control_factor
        )

    def count(self, as_cases: Bool[np.ndarray, " subject"]) -> int:
        """Return the number of pairs of these cases and controls of weight above 0."""
        return int(self.sums.case_count @ as_cases)  # exact: whole numbers


@dataclass(frozen=True, slots=True)
class PairShare:
    """The share of credit in all pairs.

    Attributes:
        value: The share.
        influence: Influence of every row, the censoring curve taken as known.
        sensitivity: Derivative with respect to log G where the row reads the censoring curve.
        n_pairs: Pairs that count, of rows of weight above 0.
        n_comparable: Pairs that would count if every case did.
    """

    value: float
    influence: Float[np.ndarray, " subject"]
    sensitivity: Float[np.ndarray, " subject"]
    n_pairs: int
    n_comparable: int


def pair_share(subjects: Outcomes, *kinds: Pairs) -> PairShare:
    """Compute the share of credit in several kinds of pairs together.

    Raises:
        MetricError: No pair counts.
    """
    weights = subjects.weights
    factors = [np.asarray(weights * pairs.case_factor, dtype=np.float64) for pairs in kinds]
    total = float(
        sum(factor @ pairs.sums.case_total for factor, pairs in zip(factors, kinds, strict=True))
    )
    if total == 0:
        raise MetricError(_nothing_to_compare(subjects, kinds[0].case_factor))
    value = (
        float(
            sum(
                factor @ pairs.sums.case_credit
                for factor, pairs in zip(factors, kinds, strict=True)
            )
        )
        / total
    )
    influence, sensitivity = np.zeros(len(subjects)), np.zeros(len(subjects))
    for pairs in kinds:
        as_case, as_control = pairs.as_case(value), pairs.as_control(value)
        if pairs.case_reads:
            sensitivity -= pairs.case_reads * as_case + pairs.control_reads * as_control
        influence += as_case
        influence += as_control
    scale = weights / total
    influence *= scale
    if any(pairs.case_reads for pairs in kinds):
        sensitivity *= scale
    return PairShare(
        value=value,
        influence=influence,
        sensitivity=sensitivity,
        n_pairs=sum(pairs.count((weights > 0) & (pairs.case_factor > 0)) for pairs in kinds),
        n_comparable=sum(pairs.count(weights > 0) for pairs in kinds),
    )


def _beyond(
    value: float,
    credit: Float[np.ndarray, " subject"],
    total: Float[np.ndarray, " subject"],
    factor: Real[np.ndarray, " subject"] | int,
) -> Float[np.ndarray, " subject"]:
    """Return factor * (credit - value * total), in one array, as a fresh one costs time."""
    beyond = total * -value
    beyond += credit
    beyond *= factor
    return beyond


def _nothing_to_compare(subjects: Outcomes, case_factor: Real[np.ndarray, " subject"]) -> str:
    if subjects.n_events == 0:
        return (
            f"none of the {len(subjects)} rows has event 1 (or that of `cause`): without an event "
            "there is no comparable pair"
        )
    counting = int((case_factor > 0).sum())
    return (
        f"no comparable pair among {len(subjects)} rows; {counting} of {subjects.n_events} "
        "event(s) count as cases"
    )
