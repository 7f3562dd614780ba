"""From DICOM files to series: one scan each, or the reason why a series is none."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from concordant.core.errors import VolumeError
from concordant.data.volumes.dicom_header import Image, Plane
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
    """Group images by Series Instance UID, in whatever folders they lie.

    Where it is empty, by folder, frame of reference and orientation.

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
    directions = (
        np.round([*plane.along_row, *plane.along_column], 2) + 0.0
    )  # -0 and 0 are one direction
    return (
        *image.study,
        str(image.path.parent),
        image.frame_of_reference,
        *(f"{cosine:.2f}" for cosine in directions),
    )


def check_series(images: Sequence[Image], *, derived_too: bool = False) -> Series:
    """Check the images of one series: each on its own, then against each other.

    Localizers, screenshots and derived images among CT slices are set aside and counted; anything
    else that is wrong with one image refuses the series, since a slice of the scan would be
    missing.
    """
    key = _key(images[0])
    reasons = [refusal(image, derived_too=derived_too) for image in images]
    usable = tuple(image for image, reason in zip(images, reasons, strict=True) if reason is None)
    fatal = [
        reason
        for reason in reasons
        if reason is not None and (not usable or reason not in SET_ASIDE)
    ]
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
    identity = (
        (*image.study, image.series)
        if image.series
        else (*image.study, image.frame_of_reference, image.instance)
    )
    return hashlib.sha256("\n".join(identity).encode()).hexdigest()[:_KEY_DIGITS]


def _worst(reasons: Sequence[str], *, mixed: bool) -> str:
    reason = Counter(reasons).most_common(1)[0][0]
    return f"mixed series: {reason}" if mixed and reason.startswith("wrong modality") else reason


def _refuse_mixture(images: Sequence[Image]) -> None:
    """Refuse slices that cannot belong to one grid."""
    first, planes = images[0], [plane for image in images for plane in image.planes]
    if any(
        (image.pixels.rows, image.pixels.columns) != (first.pixels.rows, first.pixels.columns)
        for image in images
    ):
        raise VolumeError("mixed series: two image sizes")
    if len({image.frame_of_reference for image in images}) > 1:
        raise VolumeError("mixed series: two frames of reference")
    if _spread([plane.spacing_mm for plane in planes]) > _SPACING_TOLERANCE_MM:
        raise VolumeError("mixed series: two pixel spacings")
    if _spread([_directions(plane) for plane in planes]) > _DIRECTION_TOLERANCE:
        raise VolumeError("mixed series: two orientations")


def _directions(plane: Plane) -> tuple[float, ...]:
    return (*plane.along_row, *plane.along_column)


def _spread(values: Sequence[tuple[float, ...]]) -> float:
    return float(np.ptp(np.array(values), axis=0).max())
