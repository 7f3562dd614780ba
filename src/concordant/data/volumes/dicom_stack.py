"""From planes in any order to a regular stack: sorted along their normal, copies and gaps found.

The rules:

* Planes nearer than 0.01 mm are copies of one slice; the pixels have to agree.
* Positions that lie within 0.1 mm of a lattice (every slice of it, or some missing) are that
  lattice. Missing slices are interpolated linearly between their neighbours where the gap is at
  most 10 mm, or one slice; a wider gap is refused.
* Other positions are resampled linearly to their median distance, under the same limit for gaps.
* Slices that move sideways from one to the next, evenly, are a sheared grid (a tilted gantry);
  unevenly, they are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped

from concordant.core.errors import VolumeError
from concordant.data.volumes.dicom_header import Plane
from concordant.data.volumes.grid import MAX_SPACING_MM, MIN_SPACING_MM, refuse_spacing

SAME_POSITION_MM = 0.01
POSITION_TOLERANCE_MM = 0.1
MAX_FILLED_GAP_MM = 10.0
MAX_FILLED_STEPS = 2.0
MAX_GROWTH = 10  # slices of the regular stack per slice that is there


@dataclass(frozen=True, slots=True)
class Stack:
    """A regular stack and how the planes fill it.

    Attributes:
        slot: For each plane given, its place among the distinct positions in order; copies share
            one.
        at: For each distinct position, its index on the regular stack, 0 first; whole where no
            interpolation is needed.
        n_slices: Number of slices of the regular stack.
        affine_mm: From (column, row, slice, 1) to millimetres (right, anterior, superior, 1).
        even: Whether every position lies on the lattice.
    """

    slot: Int[np.ndarray, " plane"]
    at: Float[np.ndarray, " position"]
    n_slices: int
    affine_mm: Float[np.ndarray, "4 4"]
    even: bool

    @property
    def n_missing(self) -> int:
        """Number of lattice slices that are not there and are interpolated."""
        return self.n_slices - len(self.at) if self.even else 0

    @property
    def n_copies(self) -> int:
        """Number of planes that repeat the position of another."""
        return len(self.slot) - len(self.at)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of slices, rows and columns."""
        between_columns, between_rows, between_slices = (
            float(step) for step in np.linalg.norm(self.affine_mm[:3, :3], axis=0)
        )
        return between_slices, between_rows, between_columns


def stack_planes(
    planes: Sequence[Plane],
    *,
    distance_mm: float = float("nan"),
    thickness_mm: float = float("nan"),
) -> Stack:
    """Sort planes of one orientation along their normal and find the regular stack they fill.

    Args:
        planes: In any order.
        distance_mm: Declared distance of slices; used for a single slice only, whose neighbours are
            unknown.
        thickness_mm: Used in its place where no distance is declared; without either a single slice
            counts as 1 mm.

    Raises:
        VolumeError: A gap too wide to be filled, slices shifted against each other, or a distance
            that cannot be right.
    """
    positions = np.stack([plane.position for plane in planes])
    along_normal = positions @ planes[0].normal
    order = np.argsort(along_normal, kind="stable")
    is_new = np.r_[True, np.diff(along_normal[order]) > SAME_POSITION_MM]
    slot = np.empty(len(planes), np.int64)
    slot[order] = np.cumsum(is_new) - 1
    distinct = order[is_new]
    first = planes[distinct[0]]
    if len(distinct) == 1:
        lone = planes[0].normal * _lone_step(distance_mm, thickness_mm)
        return Stack(slot, np.zeros(1), 1, _affine(first, lone), even=True)
    height = along_normal[distinct] - along_normal[distinct[0]]
    direction = (positions[distinct[-1]] - positions[distinct[0]]) / height[-1]
    _refuse_shifts(positions[order], along_normal[order] - along_normal[order[0]], direction)
    at, step, even = _lattice(height)
    refuse_spacing(np.array([step * np.linalg.norm(direction)]))
    return Stack(slot, at, int(at[-1] + 1e-6) + 1, _affine(first, direction * step), even=even)


def _lone_step(distance_mm: float, thickness_mm: float) -> float:
    steps = (distance_mm, thickness_mm)
    return next((one for one in steps if MIN_SPACING_MM <= one <= MAX_SPACING_MM), 1.0)


def _affine(first: Plane, step_mm: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "4 4"]:
    between_rows, between_columns = first.spacing_mm
    along_row, along_column = first.along_row * between_columns, first.along_column * between_rows
    affine = np.eye(4)
    affine[:3] = np.stack([along_row, along_column, step_mm, first.position], axis=1)
    return affine


def _refuse_shifts(
    positions: Float[np.ndarray, "plane 3"],
    height: Float[np.ndarray, " plane"],
    direction: Float[np.ndarray, " 3"],
) -> None:
    expected = positions[0] + height[:, None] * direction
    if np.abs(positions - expected).max() > POSITION_TOLERANCE_MM:
        raise VolumeError("slices are shifted sideways against each other")


def _lattice(
    height: Float[np.ndarray, " position"],
) -> tuple[Float[np.ndarray, " position"], float, bool]:
    """Return positions in steps of the regular stack, the step in mm, whether all lie on it."""
    gaps = np.diff(height)
    median = float(np.percentile(gaps, 50, method="lower"))
    if gaps.max() > max(MAX_FILLED_GAP_MM, MAX_FILLED_STEPS * median + POSITION_TOLERANCE_MM):
        raise VolumeError(f"missing slices: a gap of more than {MAX_FILLED_GAP_MM:g} mm")
    whole = np.r_[0.0, np.cumsum(np.maximum(np.rint(gaps / median), 1.0))]
    step = float(height[-1] / whole[-1])
    even = bool(np.abs(height - whole * step).max() <= POSITION_TOLERANCE_MM)
    at, step = (whole, step) if even else (height / median, median)
    if at[-1] > MAX_GROWTH * len(height):
        raise VolumeError("gaps between slices too uneven")
    return at, step, even


def regular(
    slices: Shaped[np.ndarray, "position row column"], stack: Stack
) -> Shaped[np.ndarray, "slice row column"]:
    """Return the slices where all are there, else those interpolated along the stack, float32."""
    if len(slices) == stack.n_slices and stack.even:
        return slices
    filled = np.empty((stack.n_slices, *slices.shape[1:]), np.float32)
    for index in range(stack.n_slices):
        after = min(int(np.searchsorted(stack.at, index)), len(slices) - 1)
        before = max(after - 1, 0)
        gap = stack.at[after] - stack.at[before]
        share = (index - stack.at[before]) / gap if after else 1.0
        rest, share = np.float32(1 - share), np.float32(share)
        filled[index] = slices[before] * rest + slices[after] * share if rest > 0 else slices[after]
    return filled
