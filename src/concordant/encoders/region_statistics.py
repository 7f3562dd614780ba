"""Distribution and texture of a volume's values over a fixed grid of box-shaped regions, at lengths
in millimetres.

Everything is a sum over regions first, so the whole volume's statistics are those of the summed
sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numba
import numpy as np
from jaxtyping import Float, Int

from concordant.core.volume import Volume

INF = float("inf")
HISTOGRAM_EDGES_HU = (-950, -850, -700, -500, -200, -100, 0, 50, 100, 200, 400)
TISSUES_HU = {
    "air": (-INF, -950),
    "lung": (-950, -500),
    "fat": (-150, -30),
    "soft": (-30, 130),
    "calcification": (130, INF),
}
"""From (included) to (excluded); calcification by Agatston, doi:10.1016/0735-1097(90)90282-T."""
WITHIN = ("lung", "soft")
PERCENTILES = (5, 25, 50, 75, 95)
GRADIENT_MM = 2.0
LOCAL_MM = (5.0, 15.0)
LAG_MM = 5.0
AXES = ("depth", "height", "width")

FEATURE_NAMES = (
    f"share_below_{HISTOGRAM_EDGES_HU[0]}",
    *(f"share_{low}_to_{high}" for low, high in pairwise(HISTOGRAM_EDGES_HU)),
    f"share_from_{HISTOGRAM_EDGES_HU[-1]}",
    *(f"share_{tissue}" for tissue in TISSUES_HU),
    "mean",
    "sd",
    *(f"{tissue}_{moment}" for tissue in WITHIN for moment in ("mean", "sd")),
    *(f"percentile_{percent}" for percent in PERCENTILES),
    "gradient_per_mm",
    *(f"local_sd_{scale:g}mm" for scale in LOCAL_MM),
    *(f"autocorrelation_{LAG_MM:g}mm_{axis}" for axis in AXES),
)

_ANY_ORDER = {"reassoc", "contract", "nsz"}
"""Lets a sum of numbers be taken in any order, several at a time."""

_Voxels = Float[np.ndarray, "depth height width"]
_Places = Int[np.ndarray, " place"]


@dataclass(frozen=True, slots=True)
class RegionStatistics:
    """Sums over regions, from which all statistics follow.

    Attributes:
        lowest: Hounsfield unit of the first bin.
        counts: Voxels per whole Hounsfield unit.
        sums: What is averaged for each texture feature: gradient magnitude, squared deviations from
            block means (per scale), squared differences at the lag (per axis).
        terms: Number of terms (for blocks: degrees of freedom) of each sum.
    """

    lowest: int
    counts: Int[np.ndarray, "region bin"]
    sums: Float[np.ndarray, "region texture"]
    terms: Float[np.ndarray, "region texture"]

    def whole(self) -> RegionStatistics:
        """Return the statistics of the volume as one region."""
        return RegionStatistics(
            self.lowest,
            *(part.sum(0, keepdims=True) for part in (self.counts, self.sums, self.terms)),
        )

    def features(self) -> Float[np.ndarray, "region feature"]:
        """Return `FEATURE_NAMES` of every region, 0 where a feature has no voxel to stand on."""
        return np.concatenate(
            [self._shares(), self._moments(), self._percentiles(), self._texture()], 1
        )

    @property
    def _hounsfield(self) -> Float[np.ndarray, " bin"]:
        return self.lowest + np.arange(self.counts.shape[1], dtype=np.float64)

    def _between(self, low: float, high: float) -> Int[np.ndarray, "region bin"]:
        return np.asarray(
            np.where((self._hounsfield >= low) & (self._hounsfield < high), self.counts, 0)
        )

    def _shares(self) -> Float[np.ndarray, "region range"]:
        ranges = (*pairwise((-INF, *HISTOGRAM_EDGES_HU, INF)), *TISSUES_HU.values())
        counts = np.stack([self._between(low, high).sum(1) for low, high in ranges], 1)
        return np.asarray(counts / self.counts.sum(1, keepdims=True))

    def _moments(self) -> Float[np.ndarray, "region moment"]:
        ranges = ((-INF, INF), *(TISSUES_HU[tissue] for tissue in WITHIN))
        return np.concatenate([self._mean_and_sd(low, high) for low, high in ranges], 1)

    def _mean_and_sd(self, low: float, high: float) -> Float[np.ndarray, "region 2"]:
        counts, values = self._between(low, high), self._hounsfield
        n = np.maximum(counts.sum(1), 1)
        mean = counts @ values / n
        return np.stack([mean, np.sqrt(np.maximum(counts @ values**2 / n - mean**2, 0.0))], 1)

    def _percentiles(self) -> Float[np.ndarray, "region percentile"]:
        reached = self.counts.cumsum(1) / self.counts.sum(1, keepdims=True)
        return np.asarray(
            self._hounsfield[
                np.stack([(reached >= percent / 100).argmax(1) for percent in PERCENTILES], 1)
            ]
        )

    def _texture(self) -> Float[np.ndarray, "region texture"]:
        means = np.divide(self.sums, self.terms, out=np.zeros_like(self.sums), where=self.terms > 0)
        gradient, local, differences = np.split(means, [1, 1 + len(LOCAL_MM)], 1)
        variance = np.broadcast_to(self._mean_and_sd(-INF, INF)[:, 1:] ** 2, differences.shape)
        defined = (variance > 0) & (self.terms[:, -len(AXES) :] > 0)
        half = np.divide(differences, 2 * variance, out=np.ones_like(differences), where=defined)
        return np.concatenate([gradient, np.sqrt(local), np.maximum(1.0 - half, -1.0)], 1)


def region_statistics(volume: Volume, *, grid: int, window: tuple[int, int]) -> RegionStatistics:
    """Measure a volume over grid x grid x grid regions of equal size.

    Args:
        volume: The scan, with at least `grid` voxels along each axis and all values within the
            window.
        grid: Regions along each axis.
        window: Lowest and highest Hounsfield unit.
    """
    voxels, spacing = volume.voxels, np.array(volume.spacing_mm)
    zs, ys, xs = (_parts(size, grid) for size in voxels.shape)
    counts = _count(voxels, zs, ys, xs, grid, np.float32(window[0]), window[1] - window[0] + 1)
    starts = part_starts(voxels.shape[2], grid)
    gradient = _gradient(voxels, zs, ys, starts, _steps(GRADIENT_MM, spacing), spacing)
    local = [_within_blocks(volume, grid, scale) for scale in LOCAL_MM]
    differences = _squared_differences(voxels, zs, ys, starts, _steps(LAG_MM, spacing))
    sums, terms = np.concatenate([gradient, *local, differences], 1)
    return RegionStatistics(window[0], counts, sums.T, terms.T)


def _parts(size: int, n: int) -> _Places:
    """Return for each place along an axis which of `n` nearly equal parts it lies in."""
    return np.arange(size, dtype=np.int64) * n // size


def part_starts(size: int, n: int) -> _Places:
    """Return where each of `n` nearly equal parts of an axis starts, then the end."""
    return -(-np.arange(n + 1, dtype=np.int64) * size // n)


def _steps(length_mm: float, spacing: Float[np.ndarray, " axis"]) -> Int[np.ndarray, " axis"]:
    return np.maximum(1, np.rint(length_mm / spacing)).astype(np.int64)


def _within_blocks(
    volume: Volume, grid: int, scale_mm: float
) -> Float[np.ndarray, "sums_and_terms 1 region"]:
    """Sum squared deviations from the means of blocks of about `scale_mm` within regions."""
    axes = zip(volume.voxels.shape, volume.spacing_mm, strict=True)
    blocks = [
        max(1, min(size // grid, round(size * step / grid / scale_mm))) for size, step in axes
    ]
    count, total, square = block_sums(volume, [grid * n for n in blocks])
    deviations = np.maximum(square - total**2 / count, 0.0)
    by_region = [part for n in blocks for part in (grid, n)]
    return np.stack(
        [
            part.reshape(by_region).sum((1, 3, 5)).reshape(1, -1)
            for part in (deviations, count - 1.0)
        ]
    )


def block_sums(
    volume: Volume, blocks: Sequence[int]
) -> Float[np.ndarray, "count_total_square block_z block_y block_x"]:
    """Return number, sum and sum of squares of the voxels in each of `blocks` parts."""
    axes = list(zip(volume.voxels.shape, blocks, strict=True))
    (zs, ys, _), (nz, ny, nx) = (
        [_parts(*axis) for axis in axes],
        [np.diff(part_starts(*axis)).astype(np.float64) for axis in axes],
    )
    sums = np.zeros((3, *blocks))
    sums[0] = nz[:, None, None] * ny[:, None] * nx
    _add_blocks(volume.voxels, zs, ys, part_starts(*axes[2]), sums[1:])
    return sums


@numba.njit(cache=True)
def _count(
    voxels: _Voxels,
    zs: _Places,
    ys: _Places,
    xs: _Places,
    grid: int,
    lowest: np.float32,
    n_bins: int,
) -> Int[np.ndarray, "region bin"]:
    counts = np.zeros((grid**3, n_bins), np.int64)
    for z in range(voxels.shape[0]):
        for y in range(voxels.shape[1]):
            row = (zs[z] * grid + ys[y]) * grid
            for x in range(voxels.shape[2]):
                counts[row + xs[x], int(voxels[z, y, x] - lowest + np.float32(0.5))] += 1
    return counts


@numba.njit(cache=True, fastmath=_ANY_ORDER)
def _add_blocks(
    voxels: _Voxels,
    zs: _Places,
    ys: _Places,
    starts: _Places,
    sums: Float[np.ndarray, "total_square block_z block_y block_x"],
) -> None:
    for z in range(voxels.shape[0]):
        for y in range(voxels.shape[1]):
            row = voxels[z, y]
            for block in range(len(starts) - 1):
                total, square = 0.0, 0.0
                for x in range(starts[block], starts[block + 1]):
                    value = np.float64(row[x])
                    total += value
                    square += value * value
                sums[0, zs[z], ys[y], block] += total
                sums[1, zs[z], ys[y], block] += square


@numba.njit(cache=True, fastmath=_ANY_ORDER)
def _gradient(
    voxels: _Voxels,
    zs: _Places,
    ys: _Places,
    starts: _Places,
    steps: Int[np.ndarray, " 3"],
    spacing: Float[np.ndarray, " 3"],
) -> Float[np.ndarray, "sums_and_terms 1 region"]:
    """Sum the magnitude of central differences over `steps` voxels, in HU per mm."""
    grid = len(starts) - 1
    result = np.zeros((2, 1, grid**3))
    dz, dy, dx = steps
    per_z, per_y, per_x = (
        np.float32(1 / (2 * dz * spacing[0])),
        np.float32(1 / (2 * dy * spacing[1])),
        np.float32(1 / (2 * dx * spacing[2])),
    )
    for z in range(dz, voxels.shape[0] - dz):
        for y in range(dy, voxels.shape[1] - dy):
            above, below, before, behind, here = (
                voxels[z + dz, y],
                voxels[z - dz, y],
                voxels[z, y + dy],
                voxels[z, y - dy],
                voxels[z, y],
            )
            for part in range(grid):
                start, end = max(starts[part], dx), min(starts[part + 1], voxels.shape[2] - dx)
                total = 0.0
                for x in range(start, end):
                    along_z = (above[x] - below[x]) * per_z
                    along_y = (before[x] - behind[x]) * per_y
                    along_x = (here[x + dx] - here[x - dx]) * per_x
                    total += np.sqrt(along_z * along_z + along_y * along_y + along_x * along_x)
                region = (zs[z] * grid + ys[y]) * grid + part
                result[0, 0, region] += total
                result[1, 0, region] += max(end - start, 0)
    return result


@numba.njit(cache=True, fastmath=_ANY_ORDER)
def _squared_differences(
    voxels: _Voxels, zs: _Places, ys: _Places, starts: _Places, lags: Int[np.ndarray, " 3"]
) -> Float[np.ndarray, "sums_and_terms 3 region"]:
    """Sum squared differences of voxels `lags` apart along each axis, within regions."""
    grid = len(starts) - 1
    result = np.zeros((2, 3, grid**3))
    for axis in range(3):
        dz = lags[0] if axis == 0 else 0
        dy = lags[1] if axis == 1 else 0
        dx = lags[2] if axis == 2 else 0
        for z in range(voxels.shape[0] - dz):
            for y in range(voxels.shape[1] - dy):
                if zs[z] == zs[z + dz] and ys[y] == ys[y + dy]:
                    here, there = voxels[z, y], voxels[z + dz, y + dy]
                    for part in range(grid):
                        end = starts[part + 1] - dx
                        total = 0.0
                        for x in range(starts[part], end):
                            difference = np.float64(here[x] - there[x + dx])
                            total += difference * difference
                        region = (zs[z] * grid + ys[y]) * grid + part
                        result[0, axis, region] += total
                        result[1, axis, region] += max(end - starts[part], 0)
    return result
