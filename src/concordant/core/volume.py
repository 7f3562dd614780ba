"""A CT volume, left of the embedding store."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Num

_BLOCK = (
    1 << 20
)  # voxels converted at a time: what one pass leaves in the cache, the next finds there


@dataclass(frozen=True, slots=True)
class Volume:
    """A scan in Hounsfield units on an orthogonal grid.

    Attributes:
        voxels: Hounsfield units, float32. The index grows to superior (depth), anterior (height)
            and right (width): RAS+ with the last axis first.
        spacing_mm: Voxel spacing in millimetres, in the order (depth, height, width).
    """

    voxels: Float[np.ndarray, "depth height width"]
    spacing_mm: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class StoredVolume:
    """A scan as its file stores it, on an orthogonal grid; HU are stored * slope + intercept.

    A quarter to a half of the memory of a `Volume`, and no pass over it: what resamples can do so
    from here.

    Attributes:
        stored: The file's numbers, axes and directions as in a `Volume`; a view of the file's bytes
            in any memory layout.
        slope: Hounsfield units per stored unit.
        intercept: Hounsfield units of a stored 0.
        spacing_mm: Voxel spacing in millimetres, in the order (depth, height, width).
    """

    stored: Num[np.ndarray, "depth height width"]
    slope: float
    intercept: float
    spacing_mm: tuple[float, float, float]

    def to_volume(self) -> Volume:
        """Return the scan in Hounsfield units, contiguous float32."""
        voxels = np.empty(self.stored.shape, np.float32)
        step = max(_BLOCK // max(voxels[:1].size, 1), 1)
        for start in range(0, len(voxels), step):
            block = voxels[start : start + step]
            block[...] = self.stored[start : start + step]
            if self.slope != 1.0:
                block *= np.float32(self.slope)
            if self.intercept != 0.0:
                block += np.float32(self.intercept)
        return Volume(voxels, self.spacing_mm)
