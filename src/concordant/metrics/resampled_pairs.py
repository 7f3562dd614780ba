"""Concordance in many resamples at once: one sweep through time serves a block of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Real
from numba import njit

from concordant.core.survival import Outcomes
from concordant.metrics.pairs import pair_sums

# resamples per sweep: a place of the tree is four cache lines, and one walk through it serves all
# of them
_LANES = 64
_INT32_TOTAL = 2**30  # below this sum of weights twice any sum in the tree fits into int32
_ROUNDING = 1e-12  # a total below this share of all pairs is what rounding leaves of none


def resampled_concordance(
    subjects: Outcomes,
    risks: Sequence[Float[np.ndarray, " subject"]],
    draws: Iterator[Int[np.ndarray, " unit"]],
) -> Iterator[Float[np.ndarray, "lane model"]]:
    """Yield the models' concordance in blocks of resamples, NaN without a comparable pair.

    Args:
        subjects: Outcomes, weights and clusters. The rows are sorted once.
        risks: One per model, higher = earlier event.
        draws: How often each cluster (row, without clusters) is in each resample; the last block is
            filled up with empty ones.
    """
    sweep = _prepared(subjects, risks)
    return (_replicated(sweep, block) for block in _blocks(draws))


@dataclass(frozen=True, slots=True)
class _Sweep:
    """What all resamples share. Rows are in the order in which a sweep back in time meets them.

    Attributes:
        unit: What is drawn with the row: its cluster, or itself.
        weights: Weight of the row; integers where none were given.
        steps: The row to add to the tree, or its complement: the case to compare with what is in
            the tree.
        ranks: Per model the rank of the row's risk, from 1.
        tied: Per model whether another row has the same risk.
        within: Per model the credit and the total of the pairs inside each unit, which do not
            count; None without clusters.
    """

    unit: Int[np.ndarray, " subject"]
    weights: Real[np.ndarray, " subject"]
    steps: Int[np.ndarray, " step"]
    ranks: Int[np.ndarray, "model subject"]
    tied: Bool[np.ndarray, "model subject"]
    within: tuple[Float[np.ndarray, "sum unit"] | None, ...]


def _prepared(subjects: Outcomes, risks: Sequence[Float[np.ndarray, " subject"]]) -> _Sweep:
    cases = np.flatnonzero(subjects.observed)
    row = np.concatenate([np.arange(len(subjects)), cases])
    asks = np.arange(row.size) >= len(subjects)
    # At one time: the censored enter, then the cases ask, then the cases enter.
    stage = np.where(asks, 1, np.where(subjects.observed[row], 2, 0))
    order = np.lexsort((stage, -subjects.time[row]))
    row, asks = row[order], asks[order]
    met = row[~asks]
    place = np.empty_like(met)
    place[met] = np.arange(met.size)
    ranked = [np.unique(risk[met], return_inverse=True, return_counts=True) for risk in risks]
    return _Sweep(
        unit=met if subjects.cluster is None else subjects.cluster[met],
        weights=subjects.weights[met],
        steps=np.where(asks, ~place[row], place[row]),
        ranks=np.stack([number + 1 for _, number, _ in ranked]),
        tied=np.stack([count[number] > 1 for _, number, count in ranked]),
        within=tuple(_within(subjects, risk) for risk in risks),
    )


def _within(
    subjects: Outcomes, risk: Float[np.ndarray, " subject"]
) -> Float[np.ndarray, "sum cluster"] | None:
    """Sum credit and total inside each cluster: all pairs less those of different clusters."""
    if subjects.cluster is None:
        return None
    case_weight = subjects.observed * subjects.weights
    every, counting = (
        pair_sums(replace(subjects, cluster=None), risk, case_weight),
        pair_sums(subjects, risk, case_weight),
    )
    sums = (every.case_credit - counting.case_credit, every.case_total - counting.case_total)
    return np.stack([np.bincount(subjects.cluster, weights=case_weight * one) for one in sums])


def _blocks(draws: Iterator[Int[np.ndarray, " unit"]]) -> Iterator[Int[np.ndarray, "unit lane"]]:
    """Yield the draws, as many as a sweep takes, the last block filled up with zeros."""
    while block := list(islice(draws, _LANES)):
        multiplicity = np.zeros((block[0].size, _LANES), np.int32)
        multiplicity[:, : len(block)] = np.stack(block).T
        yield multiplicity


def _replicated(
    sweep: _Sweep, multiplicity: Int[np.ndarray, "unit lane"]
) -> Float[np.ndarray, "lane model"]:
    """Return each model's concordance in some resamples, NaN where there is no comparable pair."""
    weight = _lane_weights(sweep, multiplicity)
    values = np.full((_LANES, len(sweep.ranks)), np.nan)
    for model, (rank, tied, within) in enumerate(
        zip(sweep.ranks, sweep.tied, sweep.within, strict=True)
    ):
        sums = np.zeros((2, _LANES), np.int64 if weight.dtype == np.int32 else np.float64)
        _sweep_back(sweep.steps, rank, tied, weight, sums)
        found = sums * np.array([[0.5], [1.0]])
        credit, total = (
            found if within is None else found - within @ np.square(multiplicity, dtype=np.float64)
        )
        np.divide(credit, total, out=values[:, model], where=total > _ROUNDING * found[1])
    return values


def _lane_weights(
    sweep: _Sweep, multiplicity: Int[np.ndarray, "unit lane"]
) -> Real[np.ndarray, "subject lane"]:
    """Return multiplicity times weight per row, int32 where both are and the sums fit."""
    rows = np.take(multiplicity, sweep.unit, axis=0)
    if (
        np.issubdtype(sweep.weights.dtype, np.integer)
        and rows.sum(axis=0, dtype=np.int64).max() < _INT32_TOTAL
    ):
        return rows
    return np.asarray(rows * sweep.weights[:, None].astype(np.float64))


@njit(cache=True)
def _sweep_back(steps: Any, rank: Any, tied: Any, weight: Any, sums: Any) -> None:
    """Go back in time over a Fenwick tree of ranks, all resamples at once.

    Add twice the credit, and the total, of every case.
    """
    tree = np.zeros((weight.shape[0] + 1, _LANES), weight.dtype)
    inside = np.zeros(_LANES, weight.dtype)
    below = np.zeros(_LANES, weight.dtype)
    for step in steps:
        if step >= 0:
            _enter(tree, inside, rank[step], weight[step])
        else:
            case = ~step
            below[:] = 0
            _count(tree, rank[case] - 1, below)
            if tied[case]:
                _count(tree, rank[case], below)
            else:  # nobody else has this rank: the same sum again
                for lane in range(_LANES):
                    below[lane] *= 2
            for lane in range(_LANES):
                sums[0, lane] += weight[case, lane] * below[lane]
                sums[1, lane] += weight[case, lane] * inside[lane]


@njit(cache=True)
def _enter(tree: Any, inside: Any, rank: Any, weight: Any) -> None:
    """Add a row's weights at its rank."""
    for lane in range(_LANES):
        inside[lane] += weight[lane]
    while rank < tree.shape[0]:
        for lane in range(_LANES):
            tree[rank, lane] += weight[lane]
        rank += rank & -rank


@njit(cache=True)
def _count(tree: Any, rank: Any, found: Any) -> None:
    """Add up the weights at this rank and below."""
    while rank > 0:
        for lane in range(_LANES):
            found[lane] += tree[rank, lane]
        rank &= rank - 1
