"""Sums over pairs of a case and a control by their risks alone, whatever the times.

One sweep through the order of risk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Real
from numba import njit


class CaseControlSums(NamedTuple):
    """For every row its sums over the pairs of a case and a control that hold it.

    Weights of the other side.
    """

    credit: Float[np.ndarray, " subject"]
    total: Float[np.ndarray, " subject"]


@dataclass(frozen=True, slots=True)
class Ranking:
    """Rows in order of risk, group after group; within these groups pairs count.

    Attributes:
        risk: Higher = earlier event, per row.
        order: Rows by group, then by risk.
        starts: Where the groups start in `order`, and where the last ends.
        without: The groups within which pairs do not count, or None.
    """

    risk: Float[np.ndarray, " subject"]
    order: Int[np.ndarray, " member"]
    starts: Int[np.ndarray, " bound"]
    without: Ranking | None = None

    def sums(
        self, is_case: Bool[np.ndarray, " subject"], amount: Float[np.ndarray, " subject"]
    ) -> CaseControlSums:
        """Sum over the pairs of a case and a control in one group; equal risks earn 1/2.

        Args:
            is_case: True for a case, False for a control.
            amount: What the row weighs; 0 = it does not count.
        """
        sums = np.zeros((2, len(amount)))
        _sweep(self.starts, self.order, self.risk, is_case, amount, sums)
        if self.without is not None:
            sums -= self.without.sums(is_case, amount)
        return CaseControlSums(*sums)


def ranking(
    risk: Real[np.ndarray, " subject"], cluster: Int[np.ndarray, " subject"] | None
) -> Ranking:
    """Rank all rows as one group, without the pairs within a cluster."""
    values = np.ascontiguousarray(risk, dtype=np.float64)
    order = np.argsort(values)
    return Ranking(
        values,
        order,
        np.array([0, len(order)]),
        None if cluster is None else ranking_within(values, cluster),
    )


def ranking_within(
    risk: Float[np.ndarray, " subject"], group: Int[np.ndarray, " subject"]
) -> Ranking | None:
    """Rank the rows of every group of two or more; None where there is no such group."""
    several = np.flatnonzero(np.bincount(group)[group] > 1)
    if several.size == 0:
        return None
    order = several[np.lexsort((risk[several], group[several]))]
    starts = np.concatenate([[0], np.flatnonzero(np.diff(group[order])) + 1, [len(order)]])
    return Ranking(risk, order, starts)


@njit(cache=True)
def _sweep(starts: Any, order: Any, risk: Any, is_case: Any, amount: Any, sums: Any) -> None:
    """Go up in risk through each group, one run of equal risks at a time."""
    for group in range(starts.size - 1):
        end = starts[group + 1]
        all_cases, all_controls = _sides(order[starts[group] : end], is_case, amount)
        cases_above, controls_below = all_cases, 0.0
        start = starts[group]
        while start < end:
            stop = start + 1
            while stop < end and risk[order[stop]] == risk[order[start]]:
                stop += 1
            tied_cases, tied_controls = _sides(order[start:stop], is_case, amount)
            cases_above -= tied_cases
            for row in order[start:stop]:
                sums[0, row] = (
                    controls_below + 0.5 * tied_controls
                    if is_case[row]
                    else cases_above + 0.5 * tied_cases
                )
                sums[1, row] = all_controls if is_case[row] else all_cases
            controls_below += tied_controls
            start = stop


@njit(cache=True)
def _sides(rows: Any, is_case: Any, amount: Any) -> Any:
    """Return what the cases and what the controls among some rows weigh."""
    cases, controls = 0.0, 0.0
    for row in rows:
        if is_case[row]:
            cases += amount[row]
        else:
            controls += amount[row]
    return cases, controls
