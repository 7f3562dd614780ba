"""Sums over comparable pairs in O(n log n): two sweeps through time over a Fenwick tree of risk ranks.

A pair (i, j) is comparable when i had the event and either T_i < T_j, or T_i = T_j and j was censored; i is its case, j its
control. Its credit is 1 if risk_i > risk_j, 1/2 if they are equal, 0 otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Real
from numba import njit

from concordant.metrics.inputs import Subjects


@dataclass(frozen=True, slots=True)
class PairSums:
    """For every row its sums over the comparable pairs that hold it; the row's own weight is in none of them.

    Attributes:
        case_credit: As case: sum of the controls' weights times credit.
        case_total: As case: sum of the controls' weights.
        case_count: As case: number of controls.
        control_credit: As control: sum of the cases' weights times credit.
        control_total: As control: sum of the cases' weights.
    """

    case_credit: Float[np.ndarray, " subject"]
    case_total: Float[np.ndarray, " subject"]
    case_count: Float[np.ndarray, " subject"]
    control_credit: Float[np.ndarray, " subject"]
    control_total: Float[np.ndarray, " subject"]


def pair_sums(subjects: Subjects, risk: Float[np.ndarray, " subject"], case_weight: Real[np.ndarray, " subject"]) -> PairSums:
    """Sum over all comparable pairs of different clusters.

    Args:
        subjects: Outcomes, weights and clusters. A control weighs its weight.
        risk: Higher = earlier event.
        case_weight: What a case weighs, 0 where it does not count. Integers (with integer weights) are summed as int32.
    """
    sums = _sweep_groups(subjects, risk, case_weight, None)
    several = _rows_that_share_a_cluster(subjects.cluster)
    if several.size and subjects.cluster is not None:
        part = Subjects(subjects.time[several], subjects.observed[several], subjects.censored[several], subjects.weights[several])
        sums[:, several] -= _sweep_groups(part, risk[several], case_weight[several], subjects.cluster[several])
    return PairSums(*sums)


def _rows_that_share_a_cluster(cluster: Int[np.ndarray, " subject"] | None) -> Int[np.ndarray, " row"]:
    if cluster is None:
        return np.zeros(0, np.int64)
    return np.flatnonzero(np.bincount(cluster)[cluster] > 1)


def _sweep_groups(
    subjects: Subjects,
    risk: Float[np.ndarray, " subject"],
    case_weight: Real[np.ndarray, " subject"],
    group: Int[np.ndarray, " subject"] | None,
) -> Float[np.ndarray, "sum subject"]:
    """Return the five sums over the pairs within each group (None: all rows are one group)."""
    order = _sorted_rows(subjects.time, group)
    starts = _starts(group, order)
    ordered = np.zeros((5, len(order)))
    ranks = _local_ranks(risk, group)
    _sweep(starts, subjects.time[order], subjects.observed[order], ranks[order], subjects.weights[order], case_weight[order], ordered)
    sums = np.empty_like(ordered)
    sums[:, order] = ordered
    return sums


def _sorted_rows(values: Float[np.ndarray, " subject"], group: Int[np.ndarray, " subject"] | None) -> Int[np.ndarray, " subject"]:
    return np.argsort(values) if group is None else np.lexsort((values, group))


def _starts(group: Int[np.ndarray, " subject"] | None, order: Int[np.ndarray, " subject"]) -> Int[np.ndarray, " bound"]:
    if group is None:
        return np.array([0, len(order)])
    return np.concatenate([[0], np.flatnonzero(np.diff(group[order])) + 1, [len(order)]])


def _local_ranks(risk: Float[np.ndarray, " subject"], group: Int[np.ndarray, " subject"] | None) -> Int[np.ndarray, " subject"]:
    """Rank from 1 within each group; equal risks share a rank."""
    order = _sorted_rows(risk, group)
    starts = _starts(group, order)
    higher = np.concatenate([[1], (np.diff(risk[order]) != 0).astype(np.int32)])
    higher[starts[:-1]] = 1
    ranks = np.cumsum(higher, dtype=np.int32)
    ranks -= np.repeat(ranks[starts[:-1]] - 1, np.diff(starts)).astype(np.int32)
    result = np.empty_like(ranks)
    result[order] = ranks
    return result


@njit(cache=True)
def _sweep(starts: Any, time: Any, observed: Any, rank: Any, weight: Any, case_weight: Any, sums: Any) -> None:
    """Fill the five sums, group by group; all arrays in time order within their group."""
    for group in range(starts.size - 1):
        low, high = starts[group], starts[group + 1]
        _as_cases(time[low:high], observed[low:high], rank[low:high], weight[low:high], sums[:3, low:high])
        _as_controls(time[low:high], observed[low:high], rank[low:high], case_weight[low:high], sums[3:, low:high])


@njit(cache=True)
def _as_cases(time: Any, observed: Any, rank: Any, weight: Any, sums: Any) -> None:
    """Go back in time: what stands in the tree when an event is met are its controls."""
    tree = np.zeros(time.size + 1, weight.dtype)
    tied = np.zeros(time.size + 1, weight.dtype)
    total = weight[0] - weight[0]  # a zero of the tree's type
    count = 0
    stop = time.size
    while stop > 0:
        start = stop - 1
        while start > 0 and time[start - 1] == time[start]:
            start -= 1
        for row in range(start, stop):
            if not observed[row]:
                _add(tree, tied, rank[row], weight[row])
                total += weight[row]
                count += 1
        for row in range(start, stop):
            if observed[row]:
                sums[0, row] = _below(tree, rank[row]) + 0.5 * tied[rank[row]]
                sums[1, row] = total
                sums[2, row] = count
        for row in range(start, stop):
            if observed[row]:
                _add(tree, tied, rank[row], weight[row])
                total += weight[row]
                count += 1
        stop = start


@njit(cache=True)
def _as_controls(time: Any, observed: Any, rank: Any, case_weight: Any, sums: Any) -> None:
    """Go forward in time: what stands in the tree when a subject is met are its cases."""
    tree = np.zeros(time.size + 1, case_weight.dtype)
    tied = np.zeros(time.size + 1, case_weight.dtype)
    total = case_weight[0] - case_weight[0]  # a zero of the tree's type
    start = 0
    while start < time.size:
        stop = start + 1
        while stop < time.size and time[stop] == time[start]:
            stop += 1
        for observed_now in (True, False):  # events are met before, censorings after the events of the same time are in
            for row in range(start, stop):
                if observed[row] == observed_now:
                    sums[0, row] = total - _below(tree, rank[row]) - 0.5 * tied[rank[row]]
                    sums[1, row] = total
            for row in range(start, stop):
                if observed_now and observed[row]:
                    _add(tree, tied, rank[row], case_weight[row])
                    total += case_weight[row]
        start = stop


@njit(cache=True)
def _add(tree: Any, tied: Any, rank: Any, weight: Any) -> None:
    """Add a weight at a rank (from 1)."""
    tied[rank] += weight
    place = rank
    while place < tree.size:
        tree[place] += weight
        place += place & -place


@njit(cache=True)
def _below(tree: Any, rank: Any) -> Any:
    """Return the sum of the weights at ranks below this one."""
    total = tree[0]  # always zero, and of the tree's type
    place = rank - 1
    while place > 0:
        total += tree[place]
        place &= place - 1
    return total
