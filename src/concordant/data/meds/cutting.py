"""The passes over a shard's rows.

What is out of order, stated twice or after death, and what each sample may see.

Rows are sorted by subject, then time. A time is microseconds since 1970, `STATIC` where the event
has none: static events come first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

STATIC = np.iinfo(np.int64).min
"""Stands for a null time; earlier than every time."""

DAY_US = 86_400_000_000

FEW = 32
"""Up to so many events of one time, those of one code are compared each with each."""


@njit(cache=True, nogil=True)
def subject_starts(
    subject: Any, time: Any, out_of_order: Any
) -> Any:  # pragma: no cover # compiled
    """Return where each run of a subject's rows starts, and their end; mark earlier rows."""
    n = len(subject)
    starts = np.empty(n + 1, np.int64)
    count = 0
    for row in range(n):
        if row == 0 or subject[row] != subject[row - 1]:
            starts[count] = row
            count += 1
        elif time[row] < time[row - 1]:
            out_of_order[row] = True
    starts[count] = n
    return starts[: count + 1].copy()


@njit(cache=True, nogil=True)
def _number_until_full(
    hashes: Any, keys: Any, place: Any, first: Any, number: Any
) -> Any:  # pragma: no cover # compiled
    """Number rows until the table is half full; return the row where it ends, and the count."""
    n, mask = 0, np.uint64(len(keys) - 1)
    for row in range(len(hashes)):
        slot = (hashes[row] >> np.uint64(20)) & mask
        while keys[slot] != hashes[row] and place[slot] >= 0:
            slot = (slot + np.uint64(1)) & mask
        if place[slot] < 0:
            if n == len(first):
                return row, n
            keys[slot], place[slot], first[n] = hashes[row], n, row
            n += 1
        number[row] = place[slot]
    return len(hashes), n


@njit(cache=True, nogil=True)
def number_distinct(hashes: Any) -> Any:  # pragma: no cover # compiled
    """Number distinct hashes as they appear: each row's number, each number's first row."""
    number, size = np.empty(len(hashes), np.int32), 1 << 14
    while True:
        # a table that grows within the loop over rows would cost ten times as much: it is begun
        # anew, and rarely
        first = np.empty(size // 2, np.int64)
        keys, place = np.zeros(size, np.uint64), np.full(size, -1, np.int32)
        row, n = _number_until_full(hashes, keys, place, first, number)
        if row == len(hashes):
            return number, first[:n].copy()
        size *= 4


@njit(cache=True, nogil=True)
def _same(one: Any, other: Any) -> Any:  # pragma: no cover # compiled
    return one == other or (one != one and other != other)


@njit(cache=True, nogil=True)
def _mark_among_few(
    first: Any, end: Any, code: Any, value: Any, text: Any, latest: Any, repeated: Any
) -> None:  # pragma: no cover # compiled
    for row in range(first, end):
        if latest[code[row]] >= first:
            for before in range(first, row):
                if (
                    code[row] == code[before]
                    and text[row] == text[before]
                    and _same(value[row], value[before])
                ):
                    repeated[row] = True
                    break
        latest[code[row]] = row


@njit(cache=True, nogil=True)
def _mark_among_many(
    first: Any, end: Any, code: Any, value: Any, text: Any, repeated: Any
) -> None:  # pragma: no cover # compiled
    size = 32
    while size < 2 * (end - first):
        size *= 2
    table = np.full(size, -1, np.int64)
    for row in range(first, end):
        number = 0.0 if value[row] != value[row] else value[row]
        slot = (hash(number) * 31 + np.int64(code[row]) * 1000003 + np.int64(text[row]) * 8191) & (
            size - 1
        )
        while table[slot] >= 0 and not repeated[row]:
            before = table[slot]
            repeated[row] = (
                code[row] == code[before]
                and text[row] == text[before]
                and _same(value[row], value[before])
            )
            slot = (slot + 1) & (size - 1)
        if not repeated[row]:
            table[slot] = row


@njit(cache=True, nogil=True)
def mark_repeats(
    starts: Any, until: Any, time: Any, code: Any, value: Any, text: Any, n_codes: Any
) -> Any:  # pragma: no cover # compiled
    """Mark each event that a row before states already: same subject, time, code, value and text.

    None later than the subject's `until`.

    Only rows of one subject, time and code are compared: with each other where they are few, by a
    hash table where they are many.
    """
    repeated, latest = np.zeros(len(time), np.bool_), np.full(n_codes, -1, np.int64)
    for block in range(len(starts) - 1):
        first = starts[block]
        while first < starts[block + 1] and time[first] <= until[block]:
            end = first + 1
            while end < starts[block + 1] and time[end] == time[first]:
                end += 1
            if end - first <= FEW:
                _mark_among_few(first, end, code, value, text, latest, repeated)
            else:
                _mark_among_many(first, end, code, value, text, repeated)
            first = end
    return repeated


@njit(cache=True, nogil=True)
def count_after_death(
    starts: Any, time: Any, is_death: Any, code: Any
) -> Any:  # pragma: no cover # compiled
    """Count each subject's events that are later than its first dated death."""
    counts = np.zeros(len(starts) - 1, np.int64)
    for block in range(len(starts) - 1):
        death = STATIC
        for row in range(starts[block], starts[block + 1]):
            if death != STATIC and time[row] > death:
                counts[block] += 1
            elif death == STATIC and is_death[code[row]] and time[row] != STATIC:
                death = time[row]
    return counts


@njit(cache=True, nogil=True)
def count_visible(
    starts: Any,
    block: Any,
    prediction: Any,
    earliest: Any,
    time: Any,
    code: Any,
    repeated: Any,
    is_birth: Any,
) -> Any:  # pragma: no cover # compiled
    """Count per sample: kept, repeated, after the prediction, before the look-back, static."""
    counts = np.zeros((len(block), 5), np.int64)
    for sample in range(len(block)):
        for row in range(starts[block[sample]], starts[block[sample] + 1]):
            if time[row] > prediction[sample]:
                counts[sample, 2] = starts[block[sample] + 1] - row
                break
            if time[row] != STATIC and time[row] < earliest[sample] and not is_birth[code[row]]:
                counts[sample, 3] += 1
            elif repeated[row]:
                counts[sample, 1] += 1
            else:
                counts[sample, 0] += 1
                counts[sample, 4] += time[row] == STATIC
    return counts


@njit(cache=True, nogil=True)
def visible_rows(
    starts: Any,
    block: Any,
    prediction: Any,
    earliest: Any,
    time: Any,
    code: Any,
    repeated: Any,
    is_birth: Any,
    rank: Any,
    value: Any,
    text: Any,
    days: Any,
    kept_code: Any,
    kept_value: Any,
    kept_text: Any,
) -> None:  # pragma: no cover # compiled
    """Write what `count_visible` counts as kept; text only where `kept_text` is not empty."""
    place = 0
    for sample in range(len(block)):
        for row in range(starts[block[sample]], starts[block[sample] + 1]):
            if time[row] > prediction[sample]:
                break
            before = (
                time[row] != STATIC and time[row] < earliest[sample] and not is_birth[code[row]]
            )
            if not before and not repeated[row]:
                kept_code[place], kept_value[place] = rank[code[row]], value[row]
                if len(kept_text):
                    kept_text[place] = text[row]
                days[place] = (
                    np.nan if time[row] == STATIC else (prediction[sample] - time[row]) / DAY_US
                )
                place += 1


@njit(cache=True, nogil=True)
def count_lacking(offsets: Any, code: Any, marked: Any) -> Any:  # pragma: no cover # compiled
    """Count the records that hold events, but none of the marked codes."""
    count, any_marked = 0, marked.any()
    for record in range(len(offsets) - 1):
        row = offsets[record] if any_marked else offsets[record + 1]
        while row < offsets[record + 1] and not marked[code[row]]:
            row += 1
        count += offsets[record] < row == offsets[record + 1]
    return count
