"""What a comparison is, the list of all of them, and how far two results are apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

EXACT = 1e-12

R, SKSURV, LIFELINES, SCIPY, COMPRISK, GREENWOOD, LOOP, ALGEBRA, DERIVATIVE = (
    "R",
    "scikit-survival",
    "lifelines",
    "SciPy",
    "comprisk",
    "greenwood",
    "plain loop",
    "its definition",
    "numerical derivative",
)


@dataclass(frozen=True, slots=True)
class Check:
    """A comparison: the differences it yields, and the largest one allowed."""

    functions: tuple[str, ...]
    against: str
    quantity: str
    tolerance: float
    differences: Callable[[], Iterable[float]]


CHECKS: list[Check] = []


def check(
    *functions: str, against: str, quantity: str = "estimate", tolerance: float = EXACT
) -> Callable[..., Any]:
    """Register a comparison.

    The function under it yields absolute differences unless the quantity says otherwise.
    """

    def register(differences: Callable[[], Iterator[float]]) -> Callable[[], Iterator[float]]:
        CHECKS.append(Check(functions, against, quantity, tolerance, differences))
        return differences

    return register


def gap(ours: Any, theirs: Any) -> float:
    """Return the largest absolute difference; infinite where only one of two is a number."""
    first, second = np.broadcast_arrays(np.asarray(ours, float), np.asarray(theirs, float))
    known = ~(np.isnan(first) & np.isnan(second))
    difference = np.abs(first - second)[known & (first != second)]
    return float(np.nan_to_num(difference, nan=np.inf).max(initial=0.0))


def relative(ours: Any, theirs: Any) -> float:
    """Return the largest difference as a share of the other's value."""
    return gap(np.asarray(ours, float) / np.asarray(theirs, float), 1.0)
