"""From DICOM files to series, each a scan or refused, and which of several is the scan.

Where a folder holds several, these decide in turn:

1. Series that cover less than half as much of the body (along the stack) as the longest one are no
   candidates.
2. ORIGINAL before images that lossy compression derived.
3. A soft-tissue kernel before an unknown one before a sharp one (lung, bone).
4. The smallest distance of slices, to a tenth of a millimetre.

Two that are equal in all of this (two contrast phases, say), or series of two studies or patients,
are refused.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from concordant.core.errors import VolumeError
from concordant.data.volumes.dicom_header import Image
from concordant.data.volumes.dicom_rules import SET_ASIDE, refusal
from concordant.data.volumes.dicom_stack import Stack, stack_planes

_DIRECTION_TOLERANCE = 1e-3
_SPACING_TOLERANCE_MM = 1e-3
_KEY_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Series:
    """One DICOM series after all checks that need no pixels.

    Attributes:
        key: Digest of the series' identifiers, which it does not reveal.
        images: The images of the scan; all of the series where it is refused.
        stack: How their planes fill a regular stack; None where the series is refused.
        reason: Why it is refused, or None.
        n_set_aside: Number of localizers, screenshots and derived images left out of a scan.
    """

    key: str
    images: tuple[Image, ...]
    stack: Stack | None
    reason: str | None
    n_set_aside: int = 0


def group_series(images: Iterable[Image], *, derived_too: bool = False) -> list[Series]:
    """Group images by Series Instance UID, else by folder, frame of reference and orientation.

    Args:
        images: Headers.
        derived_too: Accept derived images that are axial and in Hounsfield units: a person has
            chosen them.
    """
    groups: dict[tuple[str, ...], list[Image]] = {}
    for image in images:
        groups.setdefault(_identity(image), []).append(image)
    return [check_series(group, derived_too=derived_too) for group in groups.values()]


def _identity(image: Image) -> tuple[str, ...]:
    if image.series:
        return (*image.study, image.series)
    plane = image.planes[0]
    # -0 and 0 are one direction
    directions = np.round([*plane.along_row, *plane.along_column], 2) + 0.0
    place = (*image.study, str(image.path.parent), image.frame_of_reference)
    return (*place, *(f"{cosine:.2f}" for cosine in directions))


def check_series(images: Sequence[Image], *, derived_too: bool = False) -> Series:
    """Check the images of one series: each on its own, then against each other.

    Localizers, screenshots and derived images among CT slices are set aside and counted; anything
    else that is wrong with one image refuses the series, since a slice of the scan would be
    missing.
    """
    key = _key(images[0])
    reasons = [refusal(image, derived_too=derived_too) for image in images]
    usable = tuple(image for image, reason in zip(images, reasons, strict=True) if reason is None)
    fatal = [one for one in reasons if one is not None and (not usable or one not in SET_ASIDE)]
    if fatal:
        return Series(key, tuple(images), None, _worst(fatal, mixed=bool(usable)))
    try:
        _refuse_mixture(usable)
        stack = stack_planes(
            [plane for image in usable for plane in image.planes],
            distance_mm=usable[0].distance_mm,
            thickness_mm=usable[0].thickness_mm,
        )
    except VolumeError as error:
        return Series(key, tuple(images), None, error.reason)
    return Series(key, usable, stack, None, len(images) - len(usable))


def _key(image: Image) -> str:
    own = (image.series,) if image.series else (image.frame_of_reference, image.instance)
    identity = "\n".join((*image.study, *own))
    return hashlib.sha256(identity.encode()).hexdigest()[:_KEY_DIGITS]


def _worst(reasons: Sequence[str], *, mixed: bool) -> str:
    reason = Counter(reasons).most_common(1)[0][0]
    return f"mixed series: {reason}" if mixed and reason.startswith("wrong modality") else reason


def _refuse_mixture(images: Sequence[Image]) -> None:
    """Refuse slices that cannot belong to one grid."""
    planes = [plane for image in images for plane in image.planes]
    if len({(image.pixels.rows, image.pixels.columns) for image in images}) > 1:
        raise VolumeError("mixed series: two image sizes")
    if len({image.frame_of_reference for image in images}) > 1:
        raise VolumeError("mixed series: two frames of reference")
    if _spread([plane.spacing_mm for plane in planes]) > _SPACING_TOLERANCE_MM:
        raise VolumeError("mixed series: two pixel spacings")
    directions = [(*plane.along_row, *plane.along_column) for plane in planes]
    if _spread(directions) > _DIRECTION_TOLERANCE:
        raise VolumeError("mixed series: two orientations")


def _spread(values: Sequence[tuple[float, ...]]) -> float:
    return float(np.ptp(np.array(values), axis=0).max())


SOFT, UNKNOWN, SHARP = 0, 1, 2
_MIN_COVERAGE = 0.5  # of the longest series
_SOFT_NAMES = {"SOFT", "STANDARD", "STND", "A", "B", "C"}  # GE; Philips
_SHARP_NAMES = {
    *("LUNG", "BONE", "BONEPLUS", "EDGE", "ULTRA", "CHST"),
    *("D", "E", "L", "YA", "YB", "YC", "YD"),
}
_FIRST_SHARP_SIEMENS = 50  # B50, Br54, I70
_FIRST_SHARP_TOSHIBA = 30  # FC30, FC52


def choose(series: Sequence[Series]) -> Series:
    """Return the one series to read.

    Raises:
        VolumeError: No series can be read (the commonest reason is given), or several equally well.
    """
    usable = [one for one in series if one.reason is None]
    if not usable:
        reasons = Counter(one.reason or "" for one in series for _ in one.images)
        commonest = reasons.most_common(1) or [("no DICOM images in this folder", 0)]
        raise VolumeError(commonest[0][0])
    if len({one.images[0].study for one in usable}) > 1:
        raise VolumeError("series of several studies in one folder; name one of them")
    coverage = [coverage_mm(one) for one in usable]
    least = _MIN_COVERAGE * max(coverage)
    long = [one for one, length in zip(usable, coverage, strict=True) if length >= least]
    ranked = sorted(long, key=_preference)
    if len(ranked) > 1 and _preference(ranked[0]) == _preference(ranked[1]):
        raise VolumeError("several series are equally good to read; name one of them")
    return ranked[0]


def coverage_mm(series: Series) -> float:
    """Return how much of the body a series covers along its stack, in millimetres."""
    return 0.0 if series.stack is None else series.stack.n_slices * series.stack.spacing_mm[0]


def _preference(series: Series) -> tuple[bool, int, float]:
    derived = any("DERIVED" in plane.kind for image in series.images for plane in image.planes)
    distance = 0.0 if series.stack is None else round(series.stack.spacing_mm[0], 1)
    return derived, kernel_sharpness(series.images[0].kernel), distance


def kernel_sharpness(name: str) -> int:
    """Return 0 for a soft-tissue kernel, 1 for an unknown, 2 for a sharp one (lung, bone)."""
    name = name.upper()
    if name in _SOFT_NAMES:
        return SOFT
    if name in _SHARP_NAMES:
        return SHARP
    numbered = re.match(r"(FC|[A-Z]{1,2})(\d{2})", name)
    if numbered is None:
        return UNKNOWN
    first_sharp = _FIRST_SHARP_TOSHIBA if numbered[1] == "FC" else _FIRST_SHARP_SIEMENS
    return SHARP if int(numbered[2]) >= first_sharp else SOFT
