"""The order of many numbers, by a radix sort.

The metrics' kernels sweep through time or risk and sort more than they compute.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numba import njit

_DIGIT_BITS = 8  # 256 places to write to at once: what the first-level cache holds
_DIGITS = 5
_LEAST_NUMBER_BITS = 64 - _DIGITS * _DIGIT_BITS  # enough for sixteen million rows


def ascending(values: Float[np.ndarray, " row"]) -> Int[np.ndarray, " row"]:
    """Return the rows in ascending order of their values, equal ones in the order of the rows (but
    for -0.0 and 0.0): a fast np.argsort.

    Args:
        values: Any but NaN.
    """
    number_bits = max(_LEAST_NUMBER_BITS, (len(values) - 1).bit_length())
    # made here, as compiled code does not ask for large pages of memory
    space = np.empty((2, len(values)), np.uint64)
    rows = np.empty(len(values), np.int64)
    words = _sorted_by_leading_bits(
        np.ascontiguousarray(values).view(np.uint64), number_bits, space
    )
    # Values that agree in their leading bits may still be out of order: a few as a rule, many only
    # in unusual data.
    return rows if _settle(words, number_bits, values, rows) else np.argsort(values, kind="stable")


@njit(cache=True)
def _sorted_by_leading_bits(bits: Any, number_bits: int, space: Any) -> Any:
    """Radix sort by all but the last bits of each number, which make room for its row."""
    words, moved = space[0], space[1]
    counts = np.zeros((_DIGITS, 1 << _DIGIT_BITS), np.int64)
    sign, row_mask, digit_mask = (
        np.uint64(1 << 63),
        np.uint64((1 << number_bits) - 1),
        np.uint64((1 << _DIGIT_BITS) - 1),
    )
    for row in range(bits.size):
        key = ~bits[row] if bits[row] & sign else bits[row] | sign  # ascends with the number
        words[row] = (key & ~row_mask) | np.uint64(row)
        for digit in range(_DIGITS):
            counts[
                digit, (words[row] >> np.uint64(number_bits + _DIGIT_BITS * digit)) & digit_mask
            ] += 1
    for digit in range(_DIGITS):
        shift = np.uint64(number_bits + _DIGIT_BITS * digit)
        place = np.cumsum(counts[digit]) - counts[digit]
        for word in words:
            value = (word >> shift) & digit_mask
            moved[place[value]] = word
            place[value] += 1
        words, moved = moved, words
    return words


@njit(cache=True)
def _settle(words: Any, number_bits: int, values: Any, rows: Any) -> bool:
    """Fill the rows, ties in leading bits by insertion; False where that takes many moves."""
    shift, row_mask = np.uint64(number_bits), np.uint64((1 << number_bits) - 1)
    moves = rows.size
    for number in range(rows.size):
        row, place = np.int64(words[number] & row_mask), number
        if number > 0 and words[number] >> shift == words[number - 1] >> shift:
            while place > 0 and values[rows[place - 1]] > values[row]:
                rows[place] = rows[place - 1]
                place -= 1
                moves -= 1
                if moves < 0:
                    return False
        rows[place] = row
    return True
