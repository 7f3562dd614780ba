"""Statistics of a scan in physical units over a grid of regions: the honest floor, nothing fitted.

One token per region: the distribution of Hounsfield units, tissue shares, texture at stated lengths
in millimetres, position. The pooled vector holds the same statistics of the whole volume, and size,
place and spread of the body and its tissues.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from concordant.core.embedding import TokenEmbedding
from concordant.core.errors import ConfigError, VolumeError
from concordant.core.volume import StoredVolume, Volume
from concordant.encoders.base import ENCODERS, EncoderCard, VolumeEncoder
from concordant.encoders.region_statistics import (
    AXES,
    FEATURE_NAMES,
    INF,
    block_sums,
    part_starts,
    region_statistics,
)
from concordant.encoders.token_places import region_boxes

SHAPE_MM = 2.0
BODY_HU = -300
ORGANS_HU = {
    "lung": (-INF, -500),
    "fat": (-150, -30),
    "soft": (-30, 130),
    "contrast": (130, 400),
    "bone": (400, INF),
}
"""What is told apart inside the body, from (included) to (excluded).

"lung" is all air inside the body's outline.
"""

SHAPE_NAMES = (
    "body_log_ml",
    *(f"body_{measure}_mm_{axis}" for measure in ("extent", "spread") for axis in AXES),
    *(
        f"{organ}_{measure}"
        for organ in ORGANS_HU
        for measure in (
            "log_ml",
            "share",
            *(f"{what}_{axis}" for what in ("offset", "spread") for axis in AXES),
        )
    ),
)


@ENCODERS.register("volume_features")
class VolumeFeatures(VolumeEncoder):
    """Describe a scan by named statistics, per region and as a whole.

    Args:
        grid: Regions along each axis; the volume is cut into grid x grid x grid boxes of equal
            size, one token each.
        window: Hounsfield units are clamped to this range first, so that metal does not swamp the
            rest.
    """

    version = 2

    def __init__(self, *, grid: int = 3, window: tuple[int, int] = (-1024, 1024)) -> None:
        if not 1 <= grid <= 16:
            raise ConfigError(
                f"encoder 'volume_features', option grid: {grid} given, expected 1 to 16 regions "
                "along each axis"
            )
        if not -32768 <= window[0] < window[1] <= 32767:
            raise ConfigError(
                f"encoder 'volume_features', option window: {list(window)} given, expected [low, "
                "high] in HU with low < high"
            )
        self.grid = grid
        self.window = window

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of a token's features, in order; a position runs from -1 to 1 over the volume."""
        return (*FEATURE_NAMES, *(f"position_{axis}" for axis in AXES))

    @property
    def pooled_feature_names(self) -> tuple[str, ...]:
        """Names of the pooled vector's features, in order."""
        return (*FEATURE_NAMES, *SHAPE_NAMES)

    @property
    def card(self) -> EncoderCard:
        """What this encoder declares of itself."""
        return EncoderCard(
            kind="tokens",
            token_dim=len(self.feature_names),
            pooled_dim=len(self.pooled_feature_names),
            max_tokens=self.grid**3,
            window_hu=self.window,
        )

    def encode(self, volumes: Sequence[Volume]) -> list[TokenEmbedding]:
        """Encode volumes one by one.

        Raises:
            VolumeError: A volume with fewer voxels than regions along an axis.
        """
        return [self._encode(volume) for volume in volumes]

    def token_boxes(self, volume: Volume | StoredVolume) -> Float[np.ndarray, "token 2 3"]:
        """Return the regions."""
        shape = (volume.voxels if isinstance(volume, Volume) else volume.stored).shape
        return region_boxes([part_starts(size, self.grid).astype(np.float64) for size in shape])

    def _encode(self, volume: Volume) -> TokenEmbedding:
        if min(volume.voxels.shape) < self.grid:
            raise VolumeError(
                f"fewer voxels along an axis than the {self.grid} regions of the grid"
            )
        clamped = Volume(np.clip(volume.voxels, *self.window), volume.spacing_mm)
        statistics = region_statistics(clamped, grid=self.grid, window=self.window)
        tokens = np.concatenate([statistics.features(), self._positions()], 1)
        pooled = np.concatenate([statistics.whole().features()[0], shape_features(clamped)])
        return TokenEmbedding(tokens.astype(np.float32), pooled.astype(np.float32))

    def _positions(self) -> Float[np.ndarray, "region 3"]:
        centres = (2 * np.arange(self.grid) + 1) / self.grid - 1
        return np.stack(np.meshgrid(centres, centres, centres, indexing="ij"), -1).reshape(-1, 3)


def shape_features(volume: Volume) -> Float[np.ndarray, " feature"]:
    """Measure `SHAPE_NAMES`, all 0 without a body, on blocks of about 2 mm.

    Offsets (centroid of a tissue against that of the body) are in units of the body's extent,
    spreads (standard deviation of position) in units of the body's own, so that neither grows with
    the patient's size.
    """
    blocks = [
        max(1, round(size * step / SHAPE_MM))
        for size, step in zip(volume.voxels.shape, volume.spacing_mm, strict=True)
    ]
    blocks = [min(size, n) for size, n in zip(volume.voxels.shape, blocks, strict=True)]
    count, total, _ = block_sums(volume, blocks)
    means = total / count
    step = np.array(volume.voxels.shape) * volume.spacing_mm / blocks
    body = _body(means)
    if not body.any():
        return np.zeros(len(SHAPE_NAMES))
    centre, spread = _place(body, step)
    inside = [np.flatnonzero(body.any(axis)) for axis in ((1, 2), (0, 2), (0, 1))]
    extent = np.array([where[-1] - where[0] + 1 for where in inside]) * step
    organs = [body & (means >= low) & (means < high) for low, high in ORGANS_HU.values()]
    parts = [_organ(organ, step, body.sum(), centre, extent, spread) for organ in organs]
    return np.concatenate([[_log_ml(body, step)], extent, spread, *parts])


def _body(means: Float[np.ndarray, "depth height width"]) -> Bool[np.ndarray, "depth height width"]:
    """Return the largest dense part with what it encloses within a slice, open lungs too."""
    labels, _ = ndimage.label(means > BODY_HU)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    if sizes.max() == 0:
        return np.zeros(means.shape, dtype=bool)
    dense = labels == sizes.argmax()
    in_plane = np.zeros((3, 3, 3), dtype=bool)
    in_plane[1] = ndimage.generate_binary_structure(2, 1)
    gaps, n_gaps = ndimage.label(~dense, in_plane)
    outside = np.zeros(n_gaps + 1, dtype=bool)
    for edge in (gaps[:, 0], gaps[:, -1], gaps[:, :, 0], gaps[:, :, -1]):
        outside[edge] = True
    outside[0] = False
    return np.asarray(~outside[gaps])


def _place(
    mask: Bool[np.ndarray, "z y x"], step: Float[np.ndarray, " 3"]
) -> Float[np.ndarray, "centroid_and_sd 3"]:
    """Return centroid and standard deviation of position along each axis in mm."""
    result = np.zeros((2, 3))
    for axis, others in enumerate(((1, 2), (0, 2), (0, 1))):
        weight = mask.sum(others)
        place = (np.arange(len(weight)) + 0.5) * step[axis]
        mean = np.average(place, weights=weight)
        variance = np.average((place - mean) ** 2, weights=weight) + step[axis] ** 2 / 12
        result[:, axis] = mean, np.sqrt(variance)
    return result


def _organ(
    organ: Bool[np.ndarray, "z y x"],
    step: Float[np.ndarray, " 3"],
    body_size: int,
    body_centre: Float[np.ndarray, " 3"],
    body_extent: Float[np.ndarray, " 3"],
    body_spread: Float[np.ndarray, " 3"],
) -> Float[np.ndarray, " 8"]:
    if not organ.any():
        return np.zeros(8)
    centre, spread = _place(organ, step)
    size = [_log_ml(organ, step), organ.sum() / body_size]
    offset = (centre - body_centre) / body_extent
    return np.concatenate([size, offset, spread / body_spread])


def _log_ml(mask: Bool[np.ndarray, "z y x"], step: Float[np.ndarray, " 3"]) -> float:
    return float(np.log1p(mask.sum() * step.prod() / 1000.0))
