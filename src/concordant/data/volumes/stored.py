"""From stored values on any grid to a checked `StoredVolume`.

Finite, not constant, with axes (superior, anterior, right).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Shaped

from concordant.core.errors import VolumeError
from concordant.core.volume import StoredVolume
from concordant.data.volumes.grid import straightened

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
    """Check values that can be Hounsfield units, and bring them to axes (superior, anterior,
    right).

    Args:
        stored: The values; made read-only.
        affine_mm: From index (i, j, k, 1) to millimetres (right, anterior, superior, 1).
        slope: Hounsfield units per stored unit.
        intercept: Hounsfield units of a stored 0.
        resample: False leaves an oblique grid as it is, with its axes in the closest order.

    Raises:
        VolumeError: NaN or infinite voxels, the same value everywhere, or what `straightened`
            refuses.
    """
    low, high = _range(stored)
    with np.errstate(over="ignore", invalid="ignore"):
        ends = np.array([low, high]) * slope + intercept
    if not (np.abs(ends) <= _GREATEST).all():  # NaN compares as False
        raise VolumeError("NaN or infinite voxels")
    if low == high:
        raise VolumeError("constant volume")
    if (
        slope < 0
        # the least value fills what resampling leaves outside: it has to be the least in Hounsfield
        # units
    ):
        stored, slope = -stored.astype(np.float32), -slope
    grid = straightened(stored, affine_mm, resample=resample)
    grid.stored.flags.writeable = False
    return StoredVolume(grid.stored, slope, intercept, grid.spacing_mm)


def _range(stored: Shaped[np.ndarray, "i j k"]) -> tuple[float, float]:
    """Return the least and the greatest value, read once in the order of memory.

    NaN where there is one.
    """
    flat = in_memory_order(stored)
    lows, highs = [], []
    planes = max(_BLOCK // max(flat[:1].size, 1), 1)
    for start in range(0, len(flat), planes):
        part = flat[start : start + planes]
        lows.append(part.min())
        highs.append(part.max())
    return float(np.min(lows)), float(np.max(highs))


def in_memory_order(values: Shaped[np.ndarray, "i j k"]) -> Shaped[np.ndarray, "slow middle fast"]:
    """Return the same values as a view whose axes lie as memory does.

    Slowest first, none running backwards.
    """
    forward = values[
        tuple(slice(None, None, -1) if step < 0 else slice(None) for step in values.strides)
    ]
    return forward.transpose(np.argsort([-step for step in forward.strides], kind="stable"))
