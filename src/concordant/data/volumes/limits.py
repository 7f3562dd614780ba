"""What no scan exceeds: checked from headers, before memory is asked for."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from concordant.core.errors import VolumeError

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
