"""The planes of one series as a volume: decoded, put in their place, padding turned into air."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Shaped

from concordant.core.errors import VolumeError
from concordant.core.volume import StoredVolume
from concordant.data.volumes.dicom_header import NATIVE_SYNTAXES, Image, Plane
from concordant.data.volumes.dicom_pixels import decode, is_padding
from concordant.data.volumes.dicom_stack import Stack, regular
from concordant.data.volumes.grid import on_grid, refuse_bomb, refuse_size

AIR_HU = -1024.0
"""What padding becomes: pixels outside the scanner's circle that were never measured."""


@dataclass(frozen=True, slots=True)
class _Rescale:
    """How stored values become Hounsfield units, where it is the same for every slice."""

    slope: float
    intercept: float

    @property
    def air(self) -> int:
        return round((AIR_HU - self.intercept) / self.slope)


def open_stack(images: Sequence[Image], stack: Stack) -> StoredVolume:
    """Decode the images of a series into one stored volume.

    Where all slices share slope and intercept, the values stay integers as stored. A tilted or
    uneven stack is float32. A single slice keeps its plane, however it is turned: one plane cannot
    be resampled to another.

    Args:
        images: Checked images of one series, with `stack.slot` over all their planes in order.
        stack: Where the planes lie.

    Raises:
        VolumeError: Truncated or damaged pixels, different slices at one position, or voxels that
            cannot be Hounsfield units.
    """
    pixels = images[0].pixels
    dtype = np.result_type(*{image.pixels.dtype.newbyteorder("=") for image in images})
    _refuse_large(images, stack, dtype)
    rescale = _common_rescale([plane for image in images for plane in image.planes])
    dtype = np.dtype(np.float32) if rescale is None else _with_air(dtype, images, rescale)
    slices = np.empty((len(stack.at), pixels.rows, pixels.columns), dtype)
    _fill(slices, images, stack, rescale)
    values = regular(slices, stack).transpose(2, 1, 0)
    slope, intercept = (1.0, 0.0) if rescale is None else (rescale.slope, rescale.intercept)
    return on_grid(values, stack.affine_mm, slope, intercept, resample=stack.n_slices > 1)


def _refuse_large(images: Sequence[Image], stack: Stack, dtype: np.dtype[Any]) -> None:
    every = [image.pixels for image in images]
    n_voxels = max(stack.n_slices, len(stack.slot)) * every[0].rows * every[0].columns
    refuse_size(n_voxels)
    compressed = [one.path.stat().st_size for one in every if one.syntax not in NATIVE_SYNTAXES]
    if compressed:
        refuse_bomb(n_voxels * dtype.itemsize, sum(compressed))


def _common_rescale(planes: Sequence[Plane]) -> _Rescale | None:
    pairs = {(plane.slope, plane.intercept) for plane in planes}
    return _Rescale(*pairs.pop()) if len(pairs) == 1 else None


def _with_air(dtype: np.dtype[Any], images: Sequence[Image], rescale: _Rescale) -> np.dtype[Any]:
    """Return a type that also holds air, where padding has to become air."""
    if all(image.pixels.padding is None for image in images):
        return dtype
    return np.result_type(dtype, np.min_scalar_type(rescale.air))


def _fill(
    slices: Shaped[np.ndarray, "position row column"],
    images: Sequence[Image],
    stack: Stack,
    rescale: _Rescale | None,
) -> None:
    filled = np.zeros(len(slices), np.bool_)
    slots = iter(stack.slot)
    for image in images:
        for plane, stored in zip(image.planes, decode(image.pixels), strict=True):
            slot = next(slots)
            values = _converted(stored, image.pixels.padding, plane, rescale, slices.dtype)
            if not filled[slot]:
                slices[slot] = values
                filled[slot] = True
            elif not np.array_equal(slices[slot], values):
                raise VolumeError(
                    "different slices at one position (two acquisitions, phases or kernels in one "
                    "series)"
                )


def _converted(
    stored: Shaped[np.ndarray, "row column"],
    padding: tuple[int, int] | None,
    plane: Plane,
    rescale: _Rescale | None,
    dtype: np.dtype[Any],
) -> Shaped[np.ndarray, "row column"]:
    """Return stored values, or HU where slices differ in slope and intercept; padding as air."""
    if rescale is not None and not np.can_cast(stored.dtype, dtype):
        raise VolumeError("damaged pixels")  # more bits than the header announced
    values = stored.astype(dtype, copy=False)
    if rescale is None:
        values = values * dtype.type(plane.slope) + dtype.type(plane.intercept)
    if padding is None:
        return values
    outside = is_padding(stored, padding)
    air = AIR_HU if rescale is None else rescale.air
    return np.where(outside, dtype.type(air), values) if outside.any() else values
