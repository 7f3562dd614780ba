"""Antolini's time-dependent concordance of survival curves, with its influence function.

The curves of a pair are compared where the case's time falls on their grid, so the ranks of the
subjects change from interval to interval of the grid. Pairs within an interval and pairs across
intervals are summed apart. Ranked by interval first, then by S, one sweep over all pairs
(`pair_sums`) is right within intervals and gives full credit across; a second pass takes back the
credit that pairs across intervals do not deserve: every subject is placed, by binary search, among
the cases of each interval before its own. Together O(K n log n) for K times, with memory for n
numbers beyond the curves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float, Int, Real, Shaped
from numba import njit

from concordant.core.errors import MetricError, did_you_mean
from concordant.core.survival import Outcomes
from concordant.metrics.case_control import ranking_within
from concordant.metrics.inference import Estimate
from concordant.metrics.inputs import Codes, checked_curves, checked_outcomes, followed_for_ever
from concordant.metrics.pairs import pair_sums

Method = Literal["harrell", "antolini", "adj_antolini"]
"""Which pairs count and what equal curves earn; see `concordance_index_antolini`."""

Steps = Literal["post", "pre"]
"""Which column an event between two times reads.

`post` the one before it, `pre` the one after it.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AntoliniConcordance(Estimate):
    """A time-dependent concordance.

    1 = in every comparable pair the case's curve is the lower one at its event, 0.5 = chance.

    Attributes:
        n_pairs: Comparable pairs that count, of rows of weight above 0; by "adj_antolini" pairs at
            a tied time count twice.
        n_times: Columns of the curves that can be read.
        method: Which pairs count and what equal curves earn.
        steps: Which column an event between two times reads.
    """

    n_pairs: int
    n_times: int
    method: Method
    steps: Steps


def concordance_index_antolini(
    time: Real[np.ndarray, " subject"],
    event: Codes,
    survival: Real[np.ndarray, "subject time"],
    times: Real[np.ndarray, " time"],
    *,
    method: Method = "harrell",
    steps: Steps = "post",
    weights: Real[np.ndarray, " subject"] | None = None,
    cluster: Shaped[np.ndarray, " subject"] | None = None,
    cause: int | None = None,
) -> AntoliniConcordance:
    """Compute Antolini's time-dependent concordance of survival curves, O(K n log n) for K times.

    A pair earns 1 where the case's curve is below the other one at the case's time, whatever it is
    elsewhere. A coarse grid makes many curves equal there, or compares them long before: use the
    times at which the model's curves step.

    Args:
        time: Follow-up, > 0.
        event: 1 = observed, anything else = censored; with `cause` see there.
        survival: Probability of no event until each of `times`, between 0 and 1. A first column of
            ones throughout (time 0) is not read, unless it is the only one.
        times: Ascending, in the unit of `time`.
        method: "harrell": Harrell's comparable pairs, equal S earns 1/2. "antolini": the same
            pairs, equal S earns 0, so constant curves give 0. "adj_antolini": as "harrell", but
            pairs at a tied time with an event on either side count in both orders; where both had
            the event, equal S earns 1 and different S 1/2.
        steps: "post": an event at T reads S at the last of `times` <= T, the first one before that.
            "pre": at the first of `times` >= T, the last one after that; for discrete-time models,
            whose S(times) holds the events of the interval before.
        weights: A weight of 2 equals two copies of the subject in one cluster.
        cluster: Rows with one label are one subject: their influences are summed, pairs among them
            do not count.
        cause: None = event 1 is the event and every other code is censored; else the code of the
            event, `survival` being one minus its cumulative incidence: a subject with another event
            is a control of every case, whenever it came.

    Raises:
        MetricError: Invalid outcomes, a survival that is no probability or of the wrong shape,
            times that do not ascend, an unknown method or steps, or no comparable pair.

    Source: Antolini, Boracchi and Biganzoli, Statistics in Medicine 24 (2005), 3927-3944;
    "adj_antolini" as pycox 0.3.0, after Ishwaran et al., Annals of Applied Statistics 2 (2008),
    section 5.1.
    """
    _check_option("method", method, get_args(Method))
    _check_option("steps", steps, get_args(Steps))
    subjects = followed_for_ever(
        checked_outcomes(time, event, weights=weights, cluster=cluster, cause=cause)
    )
    curves = _reading(subjects, survival, times, steps)
    sums = _harrell_sums(subjects, curves, tied_credit=0.0 if method == "antolini" else 0.5)
    if method == "adj_antolini":
        sums = sums.plus(_tied_time_sums(subjects, curves))
    total = float(subjects.weights @ sums.total) / 2  # every pair was seen from both of its ends
    if total == 0:
        raise MetricError(_nothing_to_compare(subjects))
    value = float(subjects.weights @ sums.credit) / 2 / total
    return AntoliniConcordance(
        estimate=value,
        influence=subjects.weights * (sums.credit - value * sums.total) / total,
        n=len(subjects),
        n_events=subjects.n_events,
        cluster=subjects.cluster,
        n_pairs=sums.n_pairs,
        n_times=curves.n_times,
        method=method,
        steps=steps,
    )


def _check_option(name: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise MetricError(f"unknown {name} {given!r}.{did_you_mean(given, known)}")


def _nothing_to_compare(subjects: Outcomes) -> str:
    if subjects.n_events == 0:
        return (
            f"none of the {len(subjects)} rows has the event: without an event there is no "
            "comparable pair"
        )
    return f"no comparable pair among {len(subjects)} rows with {subjects.n_events} event(s)"


@dataclass(frozen=True, slots=True)
class _Reading:
    """Survival curves and where they are read."""

    survival: Float[np.ndarray, "subject time"]
    column: Int[np.ndarray, " subject"]  # of the subject's own time; never falls as time grows
    own: Float[np.ndarray, " subject"]  # the subject's curve there
    n_times: int


def _reading(
    subjects: Outcomes,
    survival: Real[np.ndarray, "subject time"],
    times: Real[np.ndarray, " time"],
    steps: Steps,
) -> _Reading:
    grid, given = checked_curves(survival, times, len(subjects))
    curves = np.ascontiguousarray(given)
    first = 1 if grid.size > 1 and bool((curves[:, 0] == 1).all()) else 0
    last = grid.size - 1
    following = np.searchsorted(grid, subjects.time, side="right" if steps == "post" else "left")
    column = np.clip(following - (steps == "post"), first, last)
    return _Reading(curves, column, curves[np.arange(len(subjects)), column], last - first + 1)


@dataclass(frozen=True, slots=True)
class _Sums:
    """For every row its sums over the comparable pairs that hold it, in either role.

    The row's own weight is in none of them.
    """

    credit: Float[np.ndarray, " subject"]
    total: Float[np.ndarray, " subject"]
    n_pairs: int

    def plus(self, other: _Sums) -> _Sums:
        return _Sums(
            self.credit + other.credit, self.total + other.total, self.n_pairs + other.n_pairs
        )


def _harrell_sums(subjects: Outcomes, curves: _Reading, *, tied_credit: float) -> _Sums:
    """Sum over Harrell's comparable pairs of different clusters."""
    # Later intervals rank lower, so that a case has full credit over everybody there. Where equal
    # curves earn nothing, the one
    # who is the case in the pair ranks lower: the earlier one, at a tied time the one with the
    # event.
    case_last = (subjects.time, ~subjects.observed) if tied_credit == 0 else ()
    ranks = _numbered(-curves.column, -curves.own, *case_last).astype(np.float64)
    pairs = pair_sums(subjects, ranks, subjects.observed * subjects.weights)
    lost = _lost_across(subjects, curves, np.zeros(len(subjects), np.int64), tied_credit)
    if subjects.cluster is not None:
        lost = lost - _lost_across(subjects, curves, subjects.cluster, tied_credit)
    as_case = subjects.observed * pairs.case_credit
    counted = subjects.observed & (subjects.weights > 0)
    return _Sums(
        credit=as_case + pairs.control_credit - lost,
        total=subjects.observed * pairs.case_total + pairs.control_total,
        n_pairs=int(pairs.case_count[counted].sum()),
    )


def _numbered(*keys: Shaped[np.ndarray, " subject"]) -> Int[np.ndarray, " subject"]:
    """Number the distinct combinations of the keys, ascending, the first key most significant."""
    order = np.lexsort(keys[::-1])
    changes = np.zeros(len(order), np.int64)
    for key in keys:
        changes[1:] |= key[order][1:] != key[order][:-1]
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.cumsum(changes)
    return numbers


class _Cells(NamedTuple):
    """Cases by group and column, those of one cell by their curve there."""

    case: Int[np.ndarray, " case"]
    value: Float[np.ndarray, " case"]
    column: Int[np.ndarray, " cell"]
    starts: Int[np.ndarray, " cell_bound"]  # of the cells among the cases
    group_starts: Int[np.ndarray, " group_bound"]  # of the groups among the cells


def _cells(subjects: Outcomes, curves: _Reading, group: Int[np.ndarray, " subject"]) -> _Cells:
    cases = np.flatnonzero(subjects.observed)
    case = cases[np.lexsort((curves.own[cases], curves.column[cases], group[cases]))]
    starts = np.flatnonzero(
        np.append(True, (np.diff(group[case]) != 0) | (np.diff(curves.column[case]) != 0))
    )
    group_starts = np.searchsorted(group[case[starts]], np.arange(group.max() + 2))
    return _Cells(
        case,
        curves.own[case],
        curves.column[case[starts]],
        np.append(starts, len(case)),
        group_starts,
    )


def _lost_across(
    subjects: Outcomes, curves: _Reading, group: Int[np.ndarray, " subject"], tied_credit: float
) -> Float[np.ndarray, " subject"]:
    """Sum for every row weight times credit lost over its pairs across intervals of its group."""
    if subjects.n_events == 0:
        return np.zeros(len(subjects))
    cells = _cells(subjects, curves, group)
    weights = np.asarray(subjects.weights, dtype=np.float64)
    lost, by_case = np.zeros(len(subjects)), np.zeros(len(cells.case))
    below = np.append(0.0, np.cumsum(weights[cells.case]))
    _place_rows(
        cells, curves.survival, curves.column, group, weights, below, 1 - tied_credit, lost, by_case
    )
    lost[cells.case] += by_case
    return lost


@njit(cache=True)
def _place_rows(
    cells: Any,
    survival: Any,
    column: Any,
    group: Any,
    weight: Any,
    below: Any,
    lost_if_tied: Any,
    lost: Any,
    by_case: Any,
) -> None:
    """Place every row among the cases of each earlier interval of its group.

    Cases whose curve is not below the row's lose credit.

    What the rows take from a case is first noted at the lowest case that loses all of it, then
    summed up the cell.
    """
    for row in range(weight.size):
        for cell in range(cells.group_starts[group[row]], cells.group_starts[group[row] + 1]):
            if cells.column[cell] >= column[row]:
                break
            value = survival[row, cells.column[cell]]
            stop = cells.starts[cell + 1]
            low = _first_not_below(cells.value, cells.starts[cell], stop, value)
            high = _first_above(cells.value, low, stop, value)
            lost[row] += below[stop] - below[high] + lost_if_tied * (below[high] - below[low])
            if low < stop:
                by_case[low] += weight[row] * (lost_if_tied if high > low else 1.0)
            if low < high < stop:
                by_case[high] += weight[row] * (1.0 - lost_if_tied)
    for cell in range(cells.column.size):
        for place in range(cells.starts[cell] + 1, cells.starts[cell + 1]):
            by_case[place] += by_case[place - 1]


@njit(cache=True)
def _first_not_below(values: Any, start: Any, stop: Any, value: Any) -> Any:
    """Return the first place in an ascending stretch whose value is not below the one given, or
    its end.
    """
    while start < stop:
        middle = (start + stop) // 2
        if values[middle] < value:
            start = middle + 1
        else:
            stop = middle
    return start


@njit(cache=True)
def _first_above(values: Any, start: Any, stop: Any, value: Any) -> Any:
    """Return the end of the run of a value that an ascending stretch starts with, if it does."""
    if start == stop or values[start] != value:
        return start
    while start < stop:
        middle = (start + stop) // 2
        if values[middle] == value:
            start = middle + 1
        else:
            stop = middle
    return start


def _tied_time_sums(subjects: Outcomes, curves: _Reading) -> _Sums:
    """Sum what "adj_antolini" adds: tied times with one event again, with two in both orders."""
    moment = _numbered(subjects.time)
    within = _numbered(
        moment, np.arange(len(subjects)) if subjects.cluster is None else subjects.cluster
    )
    ranking = ranking_within(-curves.own, moment)
    if ranking is None:
        nothing = np.zeros(len(subjects))
        return _Sums(nothing, nothing, 0)
    ranking = replace(ranking, without=ranking_within(-curves.own, within))

    def events_beside(
        weights: Float[np.ndarray, " subject"], *curve: Float[np.ndarray, " subject"]
    ) -> Float[np.ndarray, " subject"]:
        """Sum other clusters' events at each event's time (those with an equal curve)."""
        events = subjects.observed * weights
        return np.asarray(
            subjects.observed
            * (
                _summed(events, _numbered(moment, *curve))
                - _summed(events, _numbered(within, *curve))
            )
        )

    weights = np.asarray(subjects.weights, dtype=np.float64)
    counted = (weights > 0).astype(np.float64)
    one_event = ranking.sums(subjects.observed, weights)
    two_events = events_beside(weights)
    # twice: 1/2, and 1/2 more if equal
    return _Sums(
        credit=one_event.credit + two_events + events_beside(weights, curves.own),
        total=one_event.total + 2 * two_events,
        n_pairs=int(
            counted
            @ (
                subjects.observed * ranking.sums(subjects.observed, counted).total
                + events_beside(counted)
            )
        ),
    )


def _summed(
    values: Float[np.ndarray, " subject"], label: Int[np.ndarray, " subject"]
) -> Float[np.ndarray, " subject"]:
    """Return for every row the sum over the rows with its label."""
    return np.asarray(np.bincount(label, weights=values)[label])
