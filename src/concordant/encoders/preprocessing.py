"""What a network wants to see of a scan, as data, and the one implementation that makes it.

A network was trained on tensors of one orientation, spacing, window and size; `Preprocessing` says
which, and `preprocess` makes the tensor in one pass over the stored numbers: only the slices, rows
and columns that the result needs are read, and Hounsfield units, window and scaling are applied to
the result, not to the scan.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numba
import numpy as np
from jaxtyping import Float, Float32, Int, Num

from concordant.core.volume import StoredVolume, Volume

_VOLUME_AXES = {"S": (0, 1), "I": (0, -1), "A": (1, 1), "P": (1, -1), "R": (2, 1), "L": (2, -1)}
_SAME_SPACING_MM = 1e-3
"""MONAI leaves an axis alone whose spacing is this near to the wanted one."""

_KERNEL_TYPES = (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64)

Convention = Literal["monai", "torchio"]


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Orientation, spacing, window and size of a network's input.

    The steps are those of MONAI's Orientation, Spacing (linear, border), ScaleIntensityRange (clip)
    and ResizeWithPadOrCrop, in this order.

    Attributes:
        orientation: Where the index of each axis of the tensor grows to, such as "RAS": first
            right, then anterior, then superior.
        spacing_mm: Along each axis of the tensor; None = as scanned.
        window_hu: Hounsfield units that become the ends of `target`; what lies outside is clamped.
        target: Value of the window's ends.
        size: Voxels along each axis of the tensor, cropped and padded around the centre; None = all
            there are.
        pad: Value around a scan that is too small, in units of `target`: a number, "minimum" (of
            the scan inside the window), or None: `size` is then a greatest size, and smaller scans
            stay smaller.
        convention: Where the samples lie. "monai": the first voxel stays where it is, the middle
            voxels of scan and tensor (index n // 2) meet in a crop, and the smaller half of an odd
            padding lies before the scan. "torchio": the centre of the scan stays where it is, the
            new grid does not reach beyond it, and the larger half of an odd crop or padding lies
            before.
    """

    orientation: str
    window_hu: tuple[float, float]
    target: tuple[float, float]
    spacing_mm: tuple[float, float, float] | None = None
    size: tuple[int, int, int] | None = None
    pad: float | Literal["minimum"] | None = "minimum"
    convention: Convention = "monai"

    @property
    def volume_spacing_mm(self) -> tuple[float, float, float] | None:
        """The spacing in the order (depth, height, width) of a `Volume`."""
        if self.spacing_mm is None:
            return None
        by_axis = {
            _VOLUME_AXES[letter][0]: step
            for letter, step in zip(self.orientation, self.spacing_mm, strict=True)
        }
        return by_axis[0], by_axis[1], by_axis[2]


@dataclass(frozen=True, slots=True)
class Samples:
    """Where the samples of one axis of a tensor lie.

    Attributes:
        axis: The axis of the volume.
        direction: 1 where tensor and volume run the same way along it, -1 where they do not.
        place: Of each sample, in voxels of the volume from its first one.
        before: Voxels of padding before the first sample.
        size: Of the tensor along this axis.
        distance: Of neighbouring samples, in voxels of the volume.
    """

    axis: int
    direction: int
    place: Float[np.ndarray, " sample"]
    before: int
    size: int
    distance: float


def samples_along(
    volume: Volume | StoredVolume, steps: Preprocessing
) -> tuple[Samples, Samples, Samples]:
    """Return where samples lie along each axis of the tensor, which ties it to the scan."""
    scan = _as_stored(volume)
    first, second, third = (_samples(scan, steps, place) for place in range(3))
    return first, second, third


def _as_stored(volume: Volume | StoredVolume) -> StoredVolume:
    if isinstance(volume, StoredVolume):
        return volume
    return StoredVolume(volume.voxels, 1.0, 0.0, volume.spacing_mm)


def _samples(scan: StoredVolume, steps: Preprocessing, place: int) -> Samples:
    axis, direction = _VOLUME_AXES[steps.orientation[place]]
    n, step = scan.stored.shape[axis], scan.spacing_mm[axis]
    wanted = step if steps.spacing_mm is None else steps.spacing_mm[place]
    first, ratio, resampled = _grid(n, step, wanted, steps.convention)
    size = resampled if steps.size is None else steps.size[place]
    if steps.pad is None:
        size = min(size, resampled)
    skipped = _cropped(resampled, size, steps.convention)
    before = _padded(resampled, size, steps.convention)
    kept = np.arange(min(size, resampled), dtype=np.float64)
    along = np.clip(first + ratio * (skipped + kept), 0, n - 1)
    return Samples(axis, direction, along if direction > 0 else n - 1 - along, before, size, ratio)


def _grid(n: int, step: float, wanted: float, convention: Convention) -> tuple[float, float, int]:
    """Return the first sample's place, the samples' distance (in voxels), and their number."""
    if convention == "monai":
        if abs(step - wanted) <= _SAME_SPACING_MM:
            return 0.0, 1.0, n
        return 0.0, wanted / step, int(np.round((n - 1) * step / wanted + 1.0))
    resampled = 1 if n == 1 else max(1, int(np.floor(n * step / wanted)))
    return (n - 1) / 2 - (resampled - 1) / 2 * wanted / step, wanted / step, resampled


def _cropped(n: int, size: int, convention: Convention) -> int:
    """Return how many voxels are cropped away before the first one kept."""
    if size >= n:
        return 0
    return n // 2 - size // 2 if convention == "monai" else -((size - n) // 2)


def _padded(n: int, size: int, convention: Convention) -> int:
    """Return how many voxels are padded before the first one of the scan."""
    if size <= n:
        return 0
    return (size - n) // 2 if convention == "monai" else -((n - size) // 2)


def preprocess(
    volume: Volume | StoredVolume, steps: Preprocessing
) -> Float32[np.ndarray, "first second third"]:
    """Make a network's input of a scan.

    Args:
        volume: The scan; one that is still as stored is never turned into Hounsfield units as a
            whole.
        steps: What the network wants.

    Returns:
        A contiguous tensor with axes, spacing and size as `steps` say.
    """
    scan = _as_stored(volume)
    along = samples_along(scan, steps)
    tensor = np.empty([one.size for one in along], np.float32)
    inside = tensor[tuple(slice(one.before, one.before + len(one.place)) for one in along)]
    gain = (steps.target[1] - steps.target[0]) / (steps.window_hu[1] - steps.window_hu[0])
    offset = steps.target[0] + (scan.intercept - steps.window_hu[0]) * gain
    order = np.argsort([one.axis for one in along])
    _resample(
        scan.stored,
        [along[place] for place in order],
        inside.transpose(order),
        _Scale(scan.slope * gain, offset, *steps.target),
    )
    if inside.shape != tensor.shape:
        _fill(tensor, along, _pad_value(scan, steps, inside))
    return tensor


@dataclass(frozen=True, slots=True)
class _Scale:
    """What is done to a number: times gain, plus offset, clamped."""

    gain: float
    offset: float
    low: float
    high: float


def _pad_value(
    scan: StoredVolume, steps: Preprocessing, inside: Float32[np.ndarray, "a b c"]
) -> float:
    """Return what surrounds the scan; a minimum is that of all of it, cropped or not."""
    if steps.pad != "minimum":
        return float(steps.pad or 0.0)
    lowest = float(inside.min())
    if lowest <= steps.target[0]:
        return lowest
    return float(preprocess(scan, replace(steps, size=None)).min())


def _fill(
    tensor: Float32[np.ndarray, "first second third"], along: tuple[Samples, ...], value: float
) -> None:
    for axis, one in enumerate(along):
        by_axis = np.moveaxis(tensor, axis, 0)
        by_axis[: one.before] = value
        by_axis[one.before + len(one.place) :] = value


def _resample(
    voxels: Num[np.ndarray, "depth height width"],
    along: list[Samples],
    result: Float32[np.ndarray, "depth height width"],
    scale: _Scale,
) -> None:
    """Sample a volume, axis by axis, into `result`, which may have any memory layout."""
    places = [one.place for one in along]
    for axis, stride in enumerate(voxels.strides):
        if stride < 0:  # walk through memory the way it lies
            voxels = np.flip(voxels, axis)
            places[axis] = voxels.shape[axis] - 1 - places[axis]
    memory = sorted(range(3), key=lambda axis: -voxels.strides[axis])
    voxels, result = _in_kernel_type(voxels.transpose(memory)), result.transpose(memory)
    tables = [_Table.of(places[axis], n) for axis, n in zip(memory, voxels.shape, strict=True)]
    swapped = int(np.argmin(np.abs(result.strides))) == 0
    # the result's fastest axis has to be one of the two that are gathered before they are written
    if swapped:
        result, tables = result.transpose(1, 0, 2), [tables[1], tables[0], tables[2]]
    outer, inner, line = tables
    _interpolate(
        voxels,
        swapped,
        outer.low,
        outer.high,
        outer.weight,
        inner.low,
        inner.high,
        inner.weight,
        line.low,
        line.high,
        line.weight,
        np.array([scale.gain, scale.offset, scale.low, scale.high], np.float32),
        result,
    )


def _in_kernel_type(voxels: Num[np.ndarray, "a b c"]) -> Num[np.ndarray, "a b c"]:
    known = voxels.dtype.isnative and voxels.dtype.type in _KERNEL_TYPES
    return np.ascontiguousarray(voxels, dtype=voxels.dtype if known else np.float32)


@dataclass(frozen=True, slots=True)
class _Table:
    """The two voxels that each sample lies between, and the weight of the second."""

    low: Int[np.ndarray, " sample"]
    high: Int[np.ndarray, " sample"]
    weight: Float32[np.ndarray, " sample"]

    @classmethod
    def of(cls, place: Float[np.ndarray, " sample"], n: int) -> _Table:
        """Return the table of samples along an axis of n voxels."""
        low = np.clip(np.floor(place), 0, n - 1).astype(np.int64)
        weight = (place - low).astype(np.float32)
        return cls(low, np.where(weight > 0, np.minimum(low + 1, n - 1), low), weight)


@numba.njit(cache=True)
def _interpolate(
    voxels: Num[np.ndarray, "a b c"],
    swapped: bool,
    outer_low: Int[np.ndarray, " i"],
    outer_high: Int[np.ndarray, " i"],
    outer_weight: Float32[np.ndarray, " i"],
    inner_low: Int[np.ndarray, " j"],
    inner_high: Int[np.ndarray, " j"],
    inner_weight: Float32[np.ndarray, " j"],
    line_low: Int[np.ndarray, " k"],
    line_high: Int[np.ndarray, " k"],
    line_weight: Float32[np.ndarray, " k"],
    scale: Float32[np.ndarray, " 4"],
    result: Float32[np.ndarray, "i j k"],
) -> None:
    """Blend four lines of the volume into one, sample that line, and write the lines of one plane
    together.

    `swapped` says that the outer axis of the tables is the second one of the volume. Lines are
    whole and lie in memory as they are read, so the blend runs over contiguous numbers; a plane is
    gathered first because its fastest axis in `result` may be `inner`.
    """
    start, end = min(line_low.min(), line_high.min()), max(line_low.max(), line_high.max()) + 1
    line = np.empty(end - start, np.float32)
    plane = np.empty((len(inner_low), len(line_low)), np.float32)
    gain, offset, lowest, highest = scale[0], scale[1], scale[2], scale[3]
    for i in range(len(outer_low)):
        far = outer_weight[i]
        for j in range(len(inner_low)):
            down = inner_weight[j]
            if swapped:
                near_up, near_down = (
                    voxels[inner_low[j], outer_low[i], start:end],
                    voxels[inner_high[j], outer_low[i], start:end],
                )
                far_up, far_down = (
                    voxels[inner_low[j], outer_high[i], start:end],
                    voxels[inner_high[j], outer_high[i], start:end],
                )
            else:
                near_up, near_down = (
                    voxels[outer_low[i], inner_low[j], start:end],
                    voxels[outer_low[i], inner_high[j], start:end],
                )
                far_up, far_down = (
                    voxels[outer_high[i], inner_low[j], start:end],
                    voxels[outer_high[i], inner_high[j], start:end],
                )
            for k in range(end - start):
                near = np.float32(near_up[k]) + down * (
                    np.float32(near_down[k]) - np.float32(near_up[k])
                )
                beyond = np.float32(far_up[k]) + down * (
                    np.float32(far_down[k]) - np.float32(far_up[k])
                )
                line[k] = near + far * (beyond - near)
            for k in range(len(line_low)):
                left, right = line[line_low[k] - start], line[line_high[k] - start]
                value = (left + line_weight[k] * (right - left)) * gain + offset
                plane[j, k] = min(max(value, lowest), highest)
        for k in range(len(line_low)):
            for j in range(len(inner_low)):
                result[i, j, k] = plane[j, k]
