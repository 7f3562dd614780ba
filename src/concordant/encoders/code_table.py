"""The vectorised passes from packed records to a sparse table of codes: counts, values, and their order."""

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
    """Entries of a sparse table, record after record; within a record each feature once, in any order.

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


def assemble(parts: Sequence[Entries], n_records: int) -> CodeTable:
    """Join entries under one sorted vocabulary, sorted within each record.

    Raises:
        RecordError: Two features of the same name.
    """
    used = [np.flatnonzero(np.bincount(part.index)) for part in parts]
    names = [f"{part.names[int(place)]}{part.suffix}" for part, places in zip(parts, used, strict=True) for place in places]
    numeric = np.concatenate([np.zeros(0, bool), *(np.full(len(places), part.numeric) for part, places in zip(parts, used, strict=True))])
    order = sorted(range(len(names)), key=names.__getitem__)
    vocabulary = tuple(names[place] for place in order)
    _refuse_twice(vocabulary)
    rank = np.empty(len(names), np.int32)
    rank[order] = np.arange(len(names), dtype=np.int32)
    total, weight, start, row = np.zeros(n_records, np.int64), [np.zeros(0, np.float32)], 0, [np.zeros(0, np.int32)]
    index = [np.zeros(0, np.int32)]
    for part, places in zip(parts, used, strict=True):
        lookup = np.zeros(int(places.max(initial=-1)) + 1, np.int32)
        lookup[places] = rank[start : start + len(places)]
        start += len(places)
        index.append(lookup[part.index])
        row.append(np.repeat(np.arange(n_records, dtype=np.int32), part.per_record))
        weight.append(part.weight.astype(np.float32))
        total += part.per_record
    offsets = np.concatenate([[0], np.cumsum(total)]).astype(np.int64)
    sorted_index, sorted_weight = _ordered(np.concatenate(row), np.concatenate(index), np.concatenate(weight), offsets, len(names))
    return CodeTable(vocabulary, numeric[order], sorted_index, sorted_weight, offsets)


def _refuse_twice(vocabulary: Sequence[str]) -> None:
    twice = [name for name, following in pairwise(vocabulary) if name == following]
    if twice:
        raise RecordError(
            f"{len(twice)} feature(s), such as {twice[0]!r}, have the name of a code in the records; rename that code in the dataset"
        )


@njit(cache=True, nogil=True)
def _ordered(row: Any, index: Any, weight: Any, offsets: Any, n_features: Any) -> Any:  # pragma: no cover # compiled
    """Sort entries by row, then feature, in linear time: dealt out by feature first, then by row in that order."""
    n = len(row)
    starts = np.zeros(n_features + 1, np.int64)
    for entry in range(n):
        starts[index[entry] + 1] += 1
    for feature in range(n_features):
        starts[feature + 1] += starts[feature]
    free = starts[:-1].copy()
    rows, weights = np.empty(n, np.int32), np.empty(n, np.float32)
    for entry in range(n):
        place = free[index[entry]]
        free[index[entry]] = place + 1
        rows[place], weights[place] = row[entry], weight[entry]
    free = offsets[:-1].copy()
    sorted_index, sorted_weight = np.empty(n, np.int32), np.empty(n, np.float32)
    for feature in range(n_features):
        for entry in range(starts[feature], starts[feature + 1]):
            place = free[rows[entry]]
            free[rows[entry]] = place + 1
            sorted_index[place], sorted_weight[place] = feature, weights[entry]
    return sorted_index, sorted_weight


@njit(cache=True, nogil=True)
def count_terms(offsets: Any, term: Any, days: Any, n_terms: Any, static: Any, limit: Any) -> Any:  # pragma: no cover # compiled
    """Count the terms of each record: static events where asked, dated ones up to `limit` days before.

    Returns:
        Entries per record, the term of each entry, its number of occurrences.
    """
    n_records = len(offsets) - 1
    per_record = np.zeros(n_records, np.int64)
    found, times = np.empty(len(term), np.int32), np.empty(len(term), np.int32)
    place_of, seen_in = np.empty(n_terms, np.int64), np.full(n_terms, -1, np.int64)
    n = 0
    for record in range(n_records):
        first = n
        for row in range(offsets[record], offsets[record + 1]):
            one = term[row]
            if one < 0 or not (days[row] <= limit or (static and days[row] != days[row])):
                continue
            if seen_in[one] == record:
                times[place_of[one]] += 1
            else:
                seen_in[one], place_of[one] = record, n
                found[n], times[n] = one, 1
                n += 1
        per_record[record] = n - first
    return per_record, found[:n].copy(), times[:n].copy()


@njit(cache=True, nogil=True)
def summarise(offsets: Any, code: Any, days: Any, value: Any, n_codes: Any, wanted: Any) -> Any:  # pragma: no cover # compiled
    """Summarise the values of each record and code: last, mean, least, greatest, least-squares slope per day.

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
    sums = np.empty((size, 8), np.float64)  # count, sum; of dated ones: count, first time, first value, sums of t, t * t, t * v
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
            result[place, 2], result[place, 3] = min(result[place, 2], number), max(result[place, 3], number)
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
            result[place, 4] = (count * sums[place, 7] - moment * dated_values[place]) / spread if apart else np.nan
        per_record[record] = n - first
    return per_record, found[:n].copy(), result[:n].copy()


@njit(cache=True, nogil=True)
def greatest_days(offsets: Any, code: Any, days: Any, wanted: Any) -> Any:  # pragma: no cover # compiled
    """Return for each record the days since the earliest dated event of the wanted codes, NaN where there is none."""
    result = np.full(len(offsets) - 1, np.nan)
    for record in range(len(offsets) - 1):
        for row in range(offsets[record], offsets[record + 1]):
            if wanted[code[row]] and days[row] >= 0 and not result[record] >= days[row]:
                result[record] = days[row]
    return result
