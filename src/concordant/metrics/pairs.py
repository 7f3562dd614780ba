"""Sums over comparable pairs in O(n log n).

Two sweeps through time over a Fenwick tree of risk ranks.

A pair (i, j) is comparable when i had the event and either T_i < T_j, or T_i = T_j and j was
censored; i is its case, j its control. Its credit is 1 if risk_i > risk_j, 1/2 if they are equal, 0
otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Real
from numba import njit

from concordant.core.survival import Outcomes
from concordant.metrics.ordering import ascending


@dataclass(frozen=True, slots=True)
class PairSums:
    """For every row its sums over the comparable pairs that hold it.

    The row's own weight is in none of them.

    Attributes:
        case_credit: As case: sum of the controls' weights times credit.
        case_total: As case: sum of the controls' weights.
        case_count: As case: number of controls of weight above 0.
        control_credit: As control: sum of the cases' weights times credit.
        control_total: As control: sum of the cases' weights.
    """

    case_credit: Float[np.ndarray, " subject"]
    case_total: Float[np.ndarray, " subject"]
    case_count: Float[np.ndarray, " subject"]
    control_credit: Float[np.ndarray, " subject"]
    control_total: Float[np.ndarray, " subject"]


def pair_sums(
    subjects: Outcomes,
    risk: Float[np.ndarray, " subject"],
    case_weight: Real[np.ndarray, " subject"],
) -> PairSums:
    """Sum over all comparable pairs of different clusters.

    Args:
        subjects: Outcomes, weights and clusters. A control weighs its weight.
        risk: Higher = earlier event.
        case_weight: What a case weighs, 0 where it does not count. Integers (with integer weights)
            are summed as int32.
    """
    sums = _sweep_groups(subjects, risk, case_weight, None)
    several = _rows_that_share_a_cluster(subjects.cluster)
    if several.size and subjects.cluster is not None:
        part = replace(subjects.take(several), cluster=None)
        sums[:, several] -= _sweep_groups(
            part, risk[several], case_weight[several], subjects.cluster[several]
        )
    return PairSums(*sums)


def _rows_that_share_a_cluster(
    cluster: Int[np.ndarray, " subject"] | None,
) -> Int[np.ndarray, " row"]:
    if cluster is None:
        return np.zeros(0, np.int64)
    return np.flatnonzero(np.bincount(cluster)[cluster] > 1)


def _sweep_groups(
    subjects: Outcomes,
    risk: Float[np.ndarray, " subject"],
    case_weight: Real[np.ndarray, " subject"],
    group: Int[np.ndarray, " subject"] | None,
) -> Float[np.ndarray, "sum subject"]:
    """Return the five sums over the pairs within each group (None: all rows are one group)."""
    rank = np.empty(len(subjects), np.int32)
    rows = _sorted_rows(risk, group)
    _fill_ranks(_starts(group, rows), rows, risk[rows], rank)
    rows = _sorted_rows(subjects.time, group)
    # one array, so that it takes large pages of memory early
    in_order, sums = np.zeros((2, 5, len(rows)))
    ordered = (
        subjects.time[rows],
        subjects.observed[rows],
        rank[rows],
        subjects.weights[rows],
        case_weight[rows],
    )
    _sweep(_starts(group, rows), *ordered, in_order)
    _put_back(rows, in_order, sums)
    return sums


def _sorted_rows(
    values: Float[np.ndarray, " subject"], group: Int[np.ndarray, " subject"] | None
) -> Int[np.ndarray, " subject"]:
    return ascending(values) if group is None else np.lexsort((values, group))


def _starts(
    group: Int[np.ndarray, " subject"] | None, rows: Int[np.ndarray, " subject"]
) -> Int[np.ndarray, " bound"]:
    if group is None:
        return np.array([0, len(rows)])
    return np.concatenate([[0], np.flatnonzero(np.diff(group[rows])) + 1, [len(rows)]])


@njit(cache=True)
def _fill_ranks(starts: Any, rows: Any, values: Any, rank: Any) -> None:
    """Rank from 1 within each group; equal values share a rank."""
    for group in range(starts.size - 1):
        current = 1
        for place in range(starts[group], starts[group + 1]):
            if place > starts[group] and values[place] != values[place - 1]:
                current += 1
            rank[rows[place]] = current


@njit(cache=True)
def _put_back(rows: Any, in_order: Any, sums: Any) -> None:
    """Fill the sums in the order of the rows, one after the other: they share no cache."""
    for number in range(in_order.shape[0]):
        for place in range(rows.size):
            sums[number, rows[place]] = in_order[number, place]


@njit(cache=True)
def _sweep(
    starts: Any, time: Any, observed: Any, rank: Any, weight: Any, case_weight: Any, sums: Any
) -> None:
    """Fill the five sums, group by group; all arrays in time order within their group."""
    for group in range(starts.size - 1):
        low, high = starts[group], starts[group + 1]
        _as_cases(
            time[low:high], observed[low:high], rank[low:high], weight[low:high], sums[:3, low:high]
        )
        _as_controls(
            time[low:high],
            observed[low:high],
            rank[low:high],
            case_weight[low:high],
            sums[3:, low:high],
        )


@njit(cache=True)
def _as_cases(time: Any, observed: Any, rank: Any, weight: Any, sums: Any) -> None:
    """Go back in time: what stands in the tree when an event is met are its controls."""
    tree, tied = _empty_trees(rank, weight)
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
                count += weight[row] > 0
        for row in range(start, stop):
            if observed[row]:
                sums[0, row] = _below(tree, rank[row]) + _half_tied(tied, rank[row])
                sums[1, row] = total
                sums[2, row] = count
        for row in range(start, stop):
            if observed[row]:
                _add(tree, tied, rank[row], weight[row])
                total += weight[row]
                count += weight[row] > 0
        stop = start


@njit(cache=True)
def _as_controls(time: Any, observed: Any, rank: Any, case_weight: Any, sums: Any) -> None:
    """Go forward in time: what stands in the tree when a subject is met are its cases."""
    tree, tied = _empty_trees(rank, case_weight)
    total = case_weight[0] - case_weight[0]  # a zero of the tree's type
    start = 0
    while start < time.size:
        stop = start + 1
        while stop < time.size and time[stop] == time[start]:
            stop += 1
        # events are met before, censorings after the events of the same time are in
        for observed_now in (True, False):
            for row in range(start, stop):
                if observed[row] == observed_now:
                    sums[0, row] = total - _below(tree, rank[row]) - _half_tied(tied, rank[row])
                    sums[1, row] = total
            for row in range(start, stop):
                if observed_now and observed[row]:
                    _add(tree, tied, rank[row], case_weight[row])
                    total += case_weight[row]
        start = stop


@njit(cache=True)
def _empty_trees(rank: Any, weight: Any) -> Any:
    """Return a tree over the ranks and the weight at each, empty where no risks are equal."""
    highest = rank.max()
    return np.zeros(highest + 1, weight.dtype), np.zeros(
        highest + 1 if highest < rank.size else 0, weight.dtype
    )


@njit(cache=True)
def _add(tree: Any, tied: Any, rank: Any, weight: Any) -> None:
    """Add a weight at a rank (from 1)."""
    if tied.size > 0:
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


@njit(cache=True)
def _half_tied(tied: Any, rank: Any) -> float:
    """Return half the weight at this rank, the credit of equal risks."""
    return 0.5 * tied[rank] if tied.size > 0 else 0.0
