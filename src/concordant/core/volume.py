"""A CT volume, left of the embedding store."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True, slots=True)
class Volume:
    """A scan in Hounsfield units on an orthogonal grid.

    Attributes:
        voxels: Hounsfield units, float32. The index grows to superior (depth), anterior (height) and right (width): RAS+ with the
            last axis first.
        spacing_mm: Voxel spacing in millimetres, in the order (depth, height, width).
    """

    voxels: Float[np.ndarray, "depth height width"]
    spacing_mm: tuple[float, float, float]
