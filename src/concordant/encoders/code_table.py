"""The compiled passes from packed records to a sparse table of codes: counts, values, order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numba import njit

from concordant.core.embedding import CodeTable
from concordant.core.errors import RecordError

GREATEST = float(np.finfo(np.float32).max)
"""A value beyond this cannot be stored, and counts as none."""

STATISTICS = ("last", "mean", "min", "max", "slope")
"""What `summarise` returns, in order."""


@dataclass(frozen=True, slots=True)
class Entries:
    """Entries of a sparse table, record after record, each feature once, in any order.

    Attributes:
        per_record: Number of entries of each record.
        index: Feature of each entry.
        weight: Weight of each entry.
        names: What the features are of.
        suffix: What their names end in.
        numeric: Whether these are measured values.
    """

    per_record: Int[np.ndarray, " record"]
    index: Int[np.ndarray, " entry"]
    weight: Float[np.ndarray, " entry"]
    names: Sequence[str]
    suffix: str
    numeric: bool


def assemble(parts: Sequence[Entries]) -> CodeTable:
    """Join entries under one sorted vocabulary, sorted within each record.

    Raises:
        RecordError: Two features of the same name.
    """
    counts = [np.bincount(part.index) for part in parts]
    used = [np.flatnonzero(count) for count in counts]
    names = [
        part.names[place] + part.suffix
        for part, places in zip(parts, used, strict=True)
        for place in places.tolist()
    ]
    numeric = np.repeat([part.numeric for part in parts], [len(places) for places in used])
    order = sorted(range(len(names)), key=names.__getitem__)
    vocabulary = tuple(names[place] for place in order)
    _refuse_twice(vocabulary)
    per_feature = np.concatenate([count[count > 0] for count in counts])[order]
    rank = np.empty(len(names), np.int64)
    rank[order] = np.arange(len(names))
    offsets = _offsets(np.sum([part.per_record for part in parts], axis=0))
    starts = _offsets(per_feature)
    free, dealt, first = starts[:-1].copy(), np.empty(starts[-1], np.uint64), 0
    for part, count, places in zip(parts, counts, used, strict=True):
        feature_of = np.zeros(len(count), np.int64)
        feature_of[places] = rank[first : first + len(places)]
        first += len(places)
        bits = part.weight.astype(np.float32, copy=False).view(np.uint32)
        _deal(part.per_record, part.index, bits, feature_of, free, dealt)
    index, bits = _by_record(starts, dealt, offsets)
    return CodeTable(vocabulary, numeric[order], index, bits.view(np.float32), offsets)


def _offsets(lengths: Int[np.ndarray, " group"]) -> Int[np.ndarray, " group_plus_one"]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _refuse_twice(vocabulary: Sequence[str]) -> None:
    twice = [name for name, following in pairwise(vocabulary) if name == following]
    if twice:
        raise RecordError(
            f"{len(twice)} feature(s), such as {twice[0]!r}, have the name of a code in the "
            "records; rename that code in the dataset"
        )


@njit(cache=True, nogil=True)
def _deal(
    per_record: Any, index: Any, bits: Any, feature_of: Any, free: Any, dealt: Any
) -> None:  # pragma: no cover # compiled
    """Deal out entries by feature, as a record and the weight's bits, each to its `free`."""
    entry = 0
    for record in range(len(per_record)):
        for _ in range(per_record[record]):
            feature = feature_of[index[entry]]
            dealt[free[feature]] = np.uint64(record) << np.uint64(32) | np.uint64(bits[entry])
            free[feature] += 1
            entry += 1


@njit(cache=True, nogil=True)
def _by_record(starts: Any, dealt: Any, offsets: Any) -> Any:  # pragma: no cover # compiled
    """Deal out by record what lies by feature: linear time, features ascend in a record."""
    free = offsets[:-1].copy()
    index, bits = np.empty(len(dealt), np.int32), np.empty(len(dealt), np.uint32)
    for feature in range(len(starts) - 1):
        for entry in range(starts[feature], starts[feature + 1]):
            record = np.int64(dealt[entry] >> np.uint64(32))
            index[free[record]] = feature
            bits[free[record]] = np.uint32(dealt[entry] & np.uint64(0xFFFFFFFF))
            free[record] += 1
    return index, bits


@njit(cache=True, nogil=True)
def count_terms(
    offsets: Any, term: Any, days: Any, n_terms: Any, static: Any, limit: Any
) -> Any:  # pragma: no cover # compiled
    """Count each record's terms: static ones where asked, dated ones up to `limit` days before.

    Returns:
        Entries per record, the term of each entry, its number of occurrences.
    """
    n_records = len(offsets) - 1
    per_record = np.zeros(n_records, np.int64)
    found, times = np.empty(len(term), np.int32), np.empty(len(term), np.int32)
    # of the latest entry of a term, whichever record has it
    place_of = np.full(n_terms, -1, np.int64)
    n = 0
    for record in range(n_records):
        first = n
        for row in range(offsets[record], offsets[record + 1]):
            one = term[row]
            if one < 0 or not (days[row] <= limit or (static and days[row] != days[row])):
                continue
            if place_of[one] >= first:
                times[place_of[one]] += 1
            else:
                place_of[one], found[n], times[n] = n, one, 1
                n += 1
        per_record[record] = n - first
    return per_record, found[:n].copy(), times[:n].copy()


@njit(cache=True, nogil=True)
def summarise(
    offsets: Any, code: Any, days: Any, value: Any, n_codes: Any, wanted: Any
) -> Any:  # pragma: no cover # compiled
    """Summarise each record's values: last, mean, least, greatest, least-squares slope per day.

    A slope needs dated values at two times; without, it is NaN.

    Returns:
        Entries per record, the code of each entry, the statistics of each entry.
    """
    n_records = len(offsets) - 1
    per_record = np.zeros(n_records, np.int64)
    place_of, seen_in = np.empty(n_codes, np.int64), np.full(n_codes, -1, np.int64)
    size = 0
    for row in range(len(code)):
        size += wanted[code[row]] and abs(value[row]) <= GREATEST
    found, result = np.empty(size, np.int32), np.empty((size, 5), np.float64)
    # count, sum; of dated ones: count, first time, first value, sums of t, t * t, t * v
    sums = np.empty((size, 8), np.float64)
    dated_values = np.empty(size, np.float64)
    n = 0
    for record in range(n_records):
        first = n
        for row in range(offsets[record], offsets[record + 1]):
            one, number = code[row], value[row]
            if not (wanted[one] and abs(number) <= GREATEST):
                continue
            if seen_in[one] != record:
                seen_in[one], place_of[one] = record, n
                found[n] = one
                result[n, 2] = result[n, 3] = number
                sums[n, :] = 0.0
                dated_values[n] = 0.0
                n += 1
            place = place_of[one]
            sums[place, 0] += 1
            sums[place, 1] += number
            result[place, 0] = number
            result[place, 2] = min(result[place, 2], number)
            result[place, 3] = max(result[place, 3], number)
            if days[row] == days[row]:
                if sums[place, 2] == 0:
                    sums[place, 3], sums[place, 4] = days[row], number
                since, rise = sums[place, 3] - days[row], number - sums[place, 4]
                sums[place, 2] += 1
                sums[place, 5] += since
                sums[place, 6] += since * since
                sums[place, 7] += since * rise
                dated_values[place] += rise
        for place in range(first, n):
            result[place, 1] = sums[place, 1] / sums[place, 0]
            count, moment = sums[place, 2], sums[place, 5]
            spread = count * sums[place, 6] - moment * moment
            apart = sums[place, 6] > 0 and spread > 1e-12 * count * sums[place, 6]
            rise = count * sums[place, 7] - moment * dated_values[place]
            result[place, 4] = rise / spread if apart else np.nan
        per_record[record] = n - first
    return per_record, found[:n].copy(), result[:n].copy()


@njit(cache=True, nogil=True)
def greatest_days(
    offsets: Any, code: Any, days: Any, wanted: Any
) -> Any:  # pragma: no cover # compiled
    """Return each record's days since the earliest dated event of the wanted codes, or NaN."""
    result = np.full(len(offsets) - 1, np.nan)
    if not wanted.any():
        return result
    for record in range(len(offsets) - 1):
        for row in range(offsets[record], offsets[record + 1]):
            if wanted[code[row]] and days[row] >= 0:
                result[record] = days[row]  # events are in the order of time
                break
    return result
