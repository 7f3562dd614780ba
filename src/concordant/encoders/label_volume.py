"""Shape of an expert mask: a volume whose values are labels. No weights, nothing fitted.

One token per connected part of a label; the pooled vector sums up every label and compares the
labels with each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

import numpy as np
from jaxtyping import Float, Int
from scipy import ndimage

from concordant.core.embedding import TokenEmbedding
from concordant.core.errors import ConfigError, VolumeError
from concordant.core.volume import Volume
from concordant.encoders.base import ENCODERS, EncoderCard, VolumeEncoder

AXES = ("depth", "height", "width")
SHAPE_NAMES = (
    *("log_ml", "log_cm2", "sphericity", "log_mm_major", "log_mm_middle", "log_mm_minor"),
    *("elongation", "flatness", "log_mm_extent", "extent_filled"),
)
"""Measures of a part; the axes are those of the ellipsoid with the same second moments."""

PLACE_NAMES = (*(f"offset_dm_{axis}" for axis in AXES), "log_mm_distance")
TINY = float(np.finfo(np.float64).tiny)

_TOUCHING = np.ones((3, 3, 3), dtype=bool)  # parts that meet in a corner are one


@dataclass(frozen=True, slots=True)
class Parts:
    """The connected parts of a mask, per label the largest first.

    Attributes:
        label: Place of the part's label among the encoder's labels.
        ml: Volume.
        centroid: In mm from a corner that all parts share.
        shape: `SHAPE_NAMES`.
        cm2: Surface against the background (column 0) and against each label (columns 1 on).
    """

    label: Int[np.ndarray, " part"]
    ml: Float[np.ndarray, " part"]
    centroid: Float[np.ndarray, "part 3"]
    shape: Float[np.ndarray, "part measure"]
    cm2: Float[np.ndarray, "part label_plus_one"]

    @property
    def rank(self) -> Int[np.ndarray, " part"]:
        """Place of a part among those of its label, 0 for the largest."""
        return np.arange(len(self.label)) - np.searchsorted(self.label, self.label)

    @property
    def reference(self) -> Float[np.ndarray, " 3"]:
        """Centroid of the first label that is there, which all parts are placed against."""
        first = self.label == self.label[0]
        return np.average(self.centroid[first], axis=0, weights=self.ml[first])

    @property
    def place(self) -> Float[np.ndarray, "part 4"]:
        """Offset from the reference along each axis in dm, and log(1 + distance in mm)."""
        offset = self.centroid - self.reference
        distance = np.linalg.norm(offset, axis=1, keepdims=True)
        return np.concatenate([offset / 100.0, np.log1p(distance)], 1)


@ENCODERS.register("label_volume")
class LabelVolume(VolumeEncoder):
    """Describe a mask by the shapes of its labels' connected parts.

    A token says which label the part has, its shape, where it lies against the centroid of the
    first label that is there, and how much of its surface touches each other label (a tumour inside
    an organ is all contact, one that grows out of it has little). Values other than `labels` count
    as background; where the volume cuts a part, the cut counts as surface.

    Args:
        labels: Label numbers, the organ that the others are placed against first.
        max_parts: At most so many parts per label, the largest ones.
        max_tokens: At most so many tokens; every label's largest part comes before any label's
            second.
    """

    def __init__(
        self, *, labels: tuple[int, ...] = (1,), max_parts: int = 4, max_tokens: int = 12
    ) -> None:
        if not labels or len(set(labels)) < len(labels) or min(labels) < 1:
            raise ConfigError(
                f"encoder 'label_volume', option labels: {list(labels)} given, expected at least "
                "one number, all above 0, none twice"
            )
        if min(max_parts, max_tokens) < 1:
            raise ConfigError(
                f"encoder 'label_volume', options max_parts and max_tokens: {max_parts}, "
                f"{max_tokens} given, expected at least 1"
            )
        self.labels = labels
        self.max_parts = max_parts
        self.max_tokens = max_tokens

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of a token's features, in order."""
        kinds = ("contact_share", "contact_log_cm2")
        contact = (f"{kind}_{label}" for kind in kinds for label in self.labels)
        return (*(f"is_{label}" for label in self.labels), *SHAPE_NAMES, *PLACE_NAMES, *contact)

    @property
    def pooled_feature_names(self) -> tuple[str, ...]:
        """Names of the pooled vector's features; 0 where a label, or one of a pair, is absent."""
        largest = (f"largest_{name}" for name in SHAPE_NAMES)
        of_one = ("present", "total_log_ml", "log_parts", *largest)
        return (
            *(f"{label}_{name}" for label in self.labels for name in of_one),
            *(f"{one}_contact_share_{other}" for one, other in permutations(self.labels, 2)),
            *(f"{one}_contact_log_cm2_{other}" for one, other in combinations(self.labels, 2)),
            *(f"{other}_log_ratio_{one}" for one, other in combinations(self.labels, 2)),
        )

    @property
    def card(self) -> EncoderCard:
        """What this encoder declares of itself."""
        return EncoderCard(
            kind="tokens",
            token_dim=len(self.feature_names),
            pooled_dim=len(self.pooled_feature_names),
            max_tokens=min(self.max_tokens, self.max_parts * len(self.labels)),
        )

    def encode(self, volumes: Sequence[Volume]) -> list[TokenEmbedding]:
        """Encode masks one by one.

        Raises:
            VolumeError: Values that are not whole numbers, or none of the labels.
        """
        return [self._encode(volume) for volume in volumes]

    def _encode(self, volume: Volume) -> TokenEmbedding:
        parts = find_parts(volume, self.labels)
        touched = parts.cm2[:, 1:]
        contact = [touched / parts.cm2.sum(1, keepdims=True), np.log1p(touched)]
        tokens = np.concatenate(
            [np.eye(len(self.labels))[parts.label], parts.shape, parts.place, *contact], 1
        )
        order = np.lexsort((parts.label, parts.rank))
        order = order[parts.rank[order] < self.max_parts][: self.max_tokens]
        pooled = self._pooled(parts).astype(np.float32)
        return TokenEmbedding(tokens[order].astype(np.float32), pooled)

    def _pooled(self, parts: Parts) -> Float[np.ndarray, " feature"]:
        places = range(len(self.labels))
        ml = np.bincount(parts.label, parts.ml, minlength=len(places))
        cm2 = np.stack([parts.cm2[parts.label == place].sum(0) for place in places])
        pairs = list(combinations(places, 2))
        surface = np.maximum(cm2.sum(1), TINY)
        return np.concatenate(
            [
                *(_of_one(parts, place) for place in places),
                [cm2[a, 1 + b] / surface[a] for a, b in permutations(places, 2)],
                [np.log1p(cm2[a, 1 + b]) for a, b in pairs],
                [np.log(ml[b] / ml[a]) if ml[a] * ml[b] > 0 else 0.0 for a, b in pairs],
            ]
        )


def _of_one(parts: Parts, place: int) -> Float[np.ndarray, " feature"]:
    own = np.flatnonzero(parts.label == place)
    if len(own) == 0:
        return np.zeros(3 + len(SHAPE_NAMES))
    sums = [1.0, np.log1p(parts.ml[own].sum()), np.log1p(len(own))]
    return np.concatenate([sums, parts.shape[own[0]]])


def find_parts(volume: Volume, labels: Sequence[int]) -> Parts:
    """Find and measure all connected parts (corners count as connection) of the labels of a mask.

    The surface is 2/3 of the area of the exposed voxel faces: right in the mean over orientations,
    since a surface element of area A shows A (|n_x| + |n_y| + |n_z|), 3/2 A in the mean, to the
    three axes (Cauchy-Crofton).

    Raises:
        VolumeError: Values that are not whole numbers, or none of the labels.
    """
    places = _places(volume.voxels, labels)
    numbers = _number_parts(places, len(labels))
    label_of = np.zeros(numbers.max() + 1, dtype=np.int64)
    label_of[numbers] = places
    step = np.array(volume.spacing_mm)
    moments = _moments(numbers, step)
    ml = moments.n * step.prod() / 1000.0
    cm2 = _faces(numbers, label_of, 1 + len(labels), step) * (2 / 3) / 100.0
    boxes = ndimage.find_objects(numbers)
    extents = np.array([[place.stop - place.start for place in box] for box in boxes]) * step
    shape = _shape(ml, cm2.sum(1), moments.axes, extents)
    order = np.lexsort((-moments.n, label_of[1:]))
    label = label_of[1:][order] - 1
    return Parts(label, ml[order], moments.centroid[order], shape[order], cm2[order])


def _places(voxels: Float[np.ndarray, "z y x"], labels: Sequence[int]) -> Int[np.ndarray, "z y x"]:
    """Return 1 + the place of each voxel's label, else 0, cut to the labels and a rim of one."""
    with np.errstate(invalid="ignore"):  # what does not fit is refused in the next line
        values = voxels.astype(np.int32)
    if not np.array_equal(values, voxels):
        raise VolumeError(
            "no mask: values are not whole numbers (an oblique mask is interpolated on reading)"
        )
    places = np.zeros(values.shape, dtype=np.int32)
    for place, label in enumerate(labels, 1):
        places[values == label] = place
    if not places.any():
        raise VolumeError("mask without any label")
    return np.pad(places[ndimage.find_objects((places > 0).view(np.uint8))[0]], 1)


def _number_parts(places: Int[np.ndarray, "z y x"], n_labels: int) -> Int[np.ndarray, "z y x"]:
    """Number the connected parts from 1, label after label."""
    numbers = np.zeros(places.shape, dtype=np.int32)
    for place in range(1, n_labels + 1):
        found, _ = ndimage.label(places == place, _TOUCHING)
        numbers = np.where(found > 0, found + numbers.max(), numbers)
    return numbers


@dataclass(frozen=True, slots=True)
class _Moments:
    """Size, centroid and axes (mm, longest first) of the ellipsoid with a part's moments."""

    n: Int[np.ndarray, " part"]
    centroid: Float[np.ndarray, "part 3"]
    axes: Float[np.ndarray, "part 3"]


def _moments(numbers: Int[np.ndarray, "z y x"], step: Float[np.ndarray, " 3"]) -> _Moments:
    at = np.nonzero(numbers)
    part = numbers[at] - 1
    n = np.bincount(part)
    position = (np.stack(at, 1) + 0.5) * step
    centroid = np.stack([np.bincount(part, along) for along in position.T], 1) / n[:, None]
    centred = (position - centroid[part]).T
    products = np.array([[np.bincount(part, a * b) / n for a in centred] for b in centred])
    within_a_voxel = np.diag(step**2 / 12)
    variances = np.linalg.eigvalsh(products.transpose(2, 0, 1) + within_a_voxel)[:, ::-1]
    # a solid ellipsoid of half axis a has variance a^2 / 5 along it
    return _Moments(n, centroid, 2 * np.sqrt(5 * variances))


def _faces(
    numbers: Int[np.ndarray, "z y x"],
    label_of: Int[np.ndarray, " number"],
    n_columns: int,
    step: Float[np.ndarray, " 3"],
) -> Float[np.ndarray, "part label"]:
    """Return each part's faces in mm2 against the background (0) and against each label."""
    area = np.zeros(len(label_of) * n_columns)
    for axis in range(3):
        along = np.moveaxis(numbers, axis, 0)
        differs = along[:-1] != along[1:]
        before, after = along[:-1][differs], along[1:][differs]
        for one, other in ((before, after), (after, before)):
            faces = np.bincount(one * n_columns + label_of[other], minlength=len(area))
            area += faces * step.prod() / step[axis]
    return area.reshape(len(label_of), n_columns)[1:]


def _shape(
    ml: Float[np.ndarray, " part"],
    cm2: Float[np.ndarray, " part"],
    axes: Float[np.ndarray, "part 3"],
    extents: Float[np.ndarray, "part 3"],
) -> Float[np.ndarray, "part measure"]:
    """Return `SHAPE_NAMES`; sphericity is the surface of an equal ball over the part's."""
    sphericity = np.cbrt(np.pi) * np.cbrt(6 * ml) ** 2 / cm2
    logs = np.log1p(axes)
    elongation, flatness = axes[:, 1] / axes[:, 0], axes[:, 2] / axes[:, 0]
    extent, filled = np.log1p(extents.max(1)), 1000.0 * ml / extents.prod(1)
    sizes = np.log1p(ml), np.log1p(cm2), sphericity, *logs.T
    return np.stack([*sizes, elongation, flatness, extent, filled], 1)
