"""From values on any grid to a checked volume with axes (superior, anterior, right)."""

from __future__ import annotations

import math
from itertools import permutations, product

import numpy as np
from jaxtyping import Float, Shaped
from numba import njit

from concordant.core.errors import VolumeError
from concordant.core.volume import StoredVolume

MIN_SPACING_MM = 0.01
MAX_SPACING_MM = 50.0
MAX_VOXELS = 2**31

_LARGE_BYTES = 1 << 30
_PLAUSIBLE_RATIO = 200  # of a large volume to its compressed file; real scans stay below 10


def refuse_spacing(spacing_mm: Float[np.ndarray, " axis"]) -> None:
    """Refuse a spacing that is not a number of millimetres a scanner uses.

    Raises:
        VolumeError: Outside 0.01 to 50 mm, or NaN.
    """
    if not ((spacing_mm >= MIN_SPACING_MM) & (spacing_mm <= MAX_SPACING_MM)).all():
        raise VolumeError(
            f"absurd header: spacing outside {MIN_SPACING_MM:g} to {MAX_SPACING_MM:g} mm"
        )


def refuse_size(n_voxels: int) -> None:
    """Refuse more voxels than any scan has.

    Raises:
        VolumeError: More than 2^31 voxels.
    """
    if n_voxels > MAX_VOXELS:
        raise VolumeError("absurd header: more than 2^31 voxels")


def refuse_bomb(n_bytes: int, n_compressed: int) -> None:
    """Refuse a small file that claims to unpack to a large volume.

    Raises:
        VolumeError: More than 1 GiB from a file 200 times smaller.
    """
    if n_bytes > max(_LARGE_BYTES, _PLAUSIBLE_RATIO * n_compressed):
        raise VolumeError("absurd header: more than 1 GiB of voxels in a file 200 times smaller")


_GREATEST = float(np.finfo(np.float32).max)
_BLOCK = 1 << 20  # voxels looked at a time: both passes find them in the cache


def on_grid(
    stored: Shaped[np.ndarray, "i j k"],
    affine_mm: Float[np.ndarray, "4 4"],
    slope: float = 1.0,
    intercept: float = 0.0,
    *,
    resample: bool = True,
) -> StoredVolume:
    """Check values, which can be Hounsfield units, and bring them to the axes of a volume.

    A grid that is oblique by at most 0.1 degree is reordered by its closest axes and its values
    stay exact. One that is more oblique, or sheared (a tilted gantry), is resampled linearly to a
    straight grid of the same spacing that holds all of it, filled outside with the least value.

    Args:
        stored: The values; made read-only.
        affine_mm: From index (i, j, k, 1) to millimetres (right, anterior, superior, 1).
        slope: Hounsfield units per stored unit.
        intercept: Hounsfield units of a stored 0.
        resample: False leaves an oblique grid as it is, with its axes in the closest order.

    Raises:
        VolumeError: NaN or infinite voxels, the same value everywhere, a singular affine, or a
            straight grid of more voxels than any scan has.
    """
    low, high = _range(stored)
    with np.errstate(over="ignore", invalid="ignore"):
        ends = np.array([low, high]) * slope + intercept
    if not (np.abs(ends) <= _GREATEST).all():  # NaN compares as False
        raise VolumeError("NaN or infinite voxels")
    if low == high:
        raise VolumeError("constant volume")
    if slope < 0:  # the least value, which resampling fills with, has to be the least in HU too
        stored, slope = -stored.astype(np.float32), -slope
    if abs(np.linalg.det(_directions(affine_mm))) < MIN_VOLUME_OF_DIRECTIONS:
        raise VolumeError("absurd header: affine is singular")
    ordered, affine = _closest_axes(stored, affine_mm)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if resample and obliquity_degrees(affine) > MAX_OBLIQUITY_DEGREES:
        ordered = _resample(ordered, affine, spacing)
    straight = ordered.transpose(2, 1, 0)
    straight.flags.writeable = False
    depth, height, width = (float(step) for step in spacing[::-1])
    return StoredVolume(straight, slope, intercept, (depth, height, width))


def _range(stored: Shaped[np.ndarray, "i j k"]) -> tuple[float, float]:
    """Return the least and the greatest value, NaN where there is one, in one pass over memory."""
    flat = in_memory_order(stored)
    lows, highs = [], []
    planes = max(_BLOCK // max(flat[:1].size, 1), 1)
    for start in range(0, len(flat), planes):
        part = flat[start : start + planes]
        lows.append(part.min())
        highs.append(part.max())
    return float(np.min(lows)), float(np.max(highs))


def in_memory_order(values: Shaped[np.ndarray, "i j k"]) -> Shaped[np.ndarray, "slow middle fast"]:
    """Return a view whose axes lie as memory does: slowest first, none running backwards."""
    forward = values[tuple(slice(None, None, -1 if step < 0 else 1) for step in values.strides)]
    return forward.transpose(np.argsort([-step for step in forward.strides], kind="stable"))


MAX_OBLIQUITY_DEGREES = 0.1
_EDGE = 1e-6  # of a voxel
MIN_VOLUME_OF_DIRECTIONS = 1e-3
"""Of the box that the three unit axes span; 1 for a grid without shear."""


def _closest_axes(
    stored: Shaped[np.ndarray, "i j k"], affine_mm: Float[np.ndarray, "4 4"]
) -> tuple[Shaped[np.ndarray, "x y z"], Float[np.ndarray, "4 4"]]:
    """Permute and flip axes so that each runs along its body axis."""
    order = _closest_order(affine_mm)
    stored, affine_mm = stored.transpose(order), affine_mm[:, [*order, 3]].copy()
    for axis in range(3):
        if affine_mm[axis, axis] < 0:
            stored = np.flip(stored, axis)
            affine_mm[:3, 3] += affine_mm[:3, axis] * (stored.shape[axis] - 1)
            affine_mm[:3, axis] *= -1
    return stored, affine_mm


def obliquity_degrees(affine_mm: Float[np.ndarray, "4 4"]) -> float:
    """Return the greatest angle between an axis of a grid and its closest body axis."""
    order = _closest_order(affine_mm)
    directions = np.abs(_directions(affine_mm)[:, list(order)])
    along = np.diag(directions)
    across = np.linalg.norm(directions - np.diag(along), axis=0)
    return float(np.degrees(np.arctan2(across, along).max()))


def axis_code(affine_mm: Float[np.ndarray, "4 4"]) -> str:
    """Return where the axes (i, j, k) of a grid run to: "LPS" is left, posterior, superior."""
    order = _closest_order(affine_mm)
    letters = [""] * 3
    for body, axis in enumerate(order):
        letters[axis] = ("LR", "PA", "IS")[body][int(affine_mm[body, axis] > 0)]
    return "".join(letters)


def _closest_order(affine_mm: Float[np.ndarray, "4 4"]) -> tuple[int, ...]:
    """Return which axis runs along right, anterior, superior: the largest product of cosines."""
    cosines = _directions(affine_mm)
    return max(
        permutations(range(3)),
        key=lambda axes: abs(cosines[0, axes[0]] * cosines[1, axes[1]] * cosines[2, axes[2]]),
    )


def _directions(affine_mm: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "3 3"]:
    return np.asarray(affine_mm[:3, :3] / np.linalg.norm(affine_mm[:3, :3], axis=0))


def _resample(
    values: Shaped[np.ndarray, "x y z"],
    affine_mm: Float[np.ndarray, "4 4"],
    spacing: Float[np.ndarray, " 3"],
) -> Float[np.ndarray, "x y z"]:
    ends = [(0, size - 1) for size in values.shape]
    corners = affine_mm[:3, :3] @ np.array(list(product(*ends))).T + affine_mm[:3, 3:]
    origin = corners.min(1)
    shape = np.floor((corners.max(1) - origin) / spacing + 1e-6).astype(np.int64) + 1
    refuse_size(math.prod(int(size) for size in shape))
    to_index = np.linalg.inv(affine_mm[:3, :3])
    resampled = np.empty(tuple(int(size) for size in shape[::-1]), np.float32)
    offset = to_index @ (origin - affine_mm[:3, 3])
    trilinear(values, to_index * spacing, offset, np.float32(values.min()), resampled)
    return resampled.transpose(2, 1, 0)


@njit(cache=True)
def trilinear(
    values: Shaped[np.ndarray, "x y z"],
    matrix: Float[np.ndarray, "3 3"],
    offset: Float[np.ndarray, " 3"],
    fill: np.float32,
    out: Float[np.ndarray, "depth height width"],
) -> None:
    """Fill `out[z, y, x]` with the values at index `matrix @ (x, y, z) + offset`.

    Linear between voxels, `fill` outside the grid.
    """
    to_x, to_y, to_z = matrix[0], matrix[1], matrix[2]
    last_x, last_y, last_z = values.shape[0] - 1, values.shape[1] - 1, values.shape[2] - 1
    for z in range(out.shape[0]):
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                at_x = _snapped(to_x[0] * x + to_x[1] * y + to_x[2] * z + offset[0], last_x)
                at_y = _snapped(to_y[0] * x + to_y[1] * y + to_y[2] * z + offset[1], last_y)
                at_z = _snapped(to_z[0] * x + to_z[1] * y + to_z[2] * z + offset[2], last_z)
                if at_x < 0.0 or at_y < 0.0 or at_z < 0.0:
                    out[z, y, x] = fill
                    continue
                i, j, k = int(at_x), int(at_y), int(at_z)
                right, front, up = min(i + 1, last_x), min(j + 1, last_y), min(k + 1, last_z)
                share_x, share_y, share_z = at_x - i, at_y - j, at_z - k
                left_x, left_y = 1.0 - share_x, 1.0 - share_y
                low = (values[i, j, k] * left_x + values[right, j, k] * share_x) * left_y + (
                    values[i, front, k] * left_x + values[right, front, k] * share_x
                ) * share_y
                high = (values[i, j, up] * left_x + values[right, j, up] * share_x) * left_y + (
                    values[i, front, up] * left_x + values[right, front, up] * share_x
                ) * share_y
                out[z, y, x] = low * (1.0 - share_z) + high * share_z


@njit(cache=True, inline="always")
def _snapped(index: float, last: int) -> float:
    """Return an index within the grid, on its edge where rounding put it outside, else -1."""
    if index < 0.0:
        return 0.0 if index > -_EDGE else -1.0
    if index > last:
        return float(last) if index < last + _EDGE else -1.0
    return index
