"""A scan at a glance: axial, coronal and sagittal slices in one grey picture, for a person to
look at.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Shaped, UInt8

from concordant.core.volume import StoredVolume

WINDOW_HU = (-1000.0, 400.0)
"""What becomes black and white: lung and soft tissue are both seen."""

_TILE = 192
_SHARES = (0.2, 0.4, 0.6, 0.8)  # of the way through the body


def montage(volume: StoredVolume) -> UInt8[np.ndarray, "row column"]:
    """Return three rows of four slices (axial, coronal, sagittal), as a radiologist sees them.

    Anterior or superior is up; the patient's right is on the viewer's left; sagittal slices look to
    the left. Millimetres are equal in both directions, and each slice fills its tile in its longer
    one.
    """
    depth, height, width = volume.spacing_mm
    rows = [
        [
            _tile(volume, _at(volume.stored, 0, share)[::-1, ::-1], height, width)
            for share in _SHARES
        ],
        [
            _tile(volume, _at(volume.stored, 1, share)[::-1, ::-1], depth, width)
            for share in _SHARES
        ],
        [
            _tile(volume, _at(volume.stored, 2, share)[::-1, ::-1], depth, height)
            for share in _SHARES
        ],
    ]
    return np.asarray(np.block(rows))


def _at(
    stored: Shaped[np.ndarray, "depth height width"], axis: int, share: float
) -> Shaped[np.ndarray, "row column"]:
    return np.asarray(np.take(stored, round(share * (stored.shape[axis] - 1)), axis=axis))


def _tile(
    volume: StoredVolume,
    stored: Shaped[np.ndarray, "row column"],
    between_rows: float,
    between_columns: float,
) -> UInt8[np.ndarray, "row column"]:
    """Return a slice as grey values in the middle of a black tile, each pixel the nearest voxel."""
    high, wide = stored.shape[0] * between_rows, stored.shape[1] * between_columns
    rows, columns = (max(round(_TILE * side / max(high, wide)), 1) for side in (high, wide))
    nearest = stored[np.ix_(_spread(stored.shape[0], rows), _spread(stored.shape[1], columns))]
    tile = np.zeros((_TILE, _TILE), np.uint8)
    top, left = (_TILE - rows) // 2, (_TILE - columns) // 2
    tile[top : top + rows, left : left + columns] = _grey(nearest * volume.slope + volume.intercept)
    return tile


def _spread(size: int, count: int) -> Shaped[np.ndarray, " pixel"]:
    return ((np.arange(count) + 0.5) * size / count).astype(np.int64)


def _grey(hounsfield: Shaped[np.ndarray, "row column"]) -> UInt8[np.ndarray, "row column"]:
    low, high = WINDOW_HU
    return np.asarray(np.rint(np.clip((hounsfield - low) / (high - low), 0, 1) * 255), np.uint8)
