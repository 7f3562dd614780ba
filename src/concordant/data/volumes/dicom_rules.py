"""What makes a DICOM image an axial CT image in Hounsfield units, else the reason."""

from __future__ import annotations

import math
import re

import numpy as np

from concordant.data.volumes.dicom_header import CT_CLASSES, Image, Plane
from concordant.data.volumes.grid import MAX_SPACING_MM, MIN_SPACING_MM

_SCREENSHOT = "a secondary capture (a screenshot or a report)"
_LOCALIZER = "a localizer (scout image)"
_DERIVED = "a derived image (reformatted or computed), expected ORIGINAL and PRIMARY"
SET_ASIDE = frozenset({_SCREENSHOT, _LOCALIZER, _DERIVED})
"""What may lie among the slices of a scan without being one of them."""

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_MAX_SIDE = 4096
_MAX_ANGLE_TO_AXIAL_DEGREES = 45.0
_UNIT_TOLERANCE = 1e-2
_MAX_SLOPE, _MAX_INTERCEPT = 1e4, 1e6
_NOT_HU = {
    "PERFUSION": "perfusion map",
    "ELECTRON_DENSITY": "electron density",
    "EFF_ATOMIC_NUM": "effective atomic number",
    **{f"MAT_{kind}": "material map" for kind in ("FRACTIONAL", "VALUE_BASED")},
    **{f"MAT_{kind}": "material map" for kind in ("REMOVED", "MODIFIED")},
    "SUBTRACTION": "subtraction",
}
_REFORMATTED = {
    *("MPR", "CURVED_MPR", "REFORMATTED", "PROJECTION", "VOLUME_RENDERING", "RESAMPLED"),
    *("MIP", "MIN_IP", "MAX_IP", "MINIP", "AVERAGE"),
}


def refusal(image: Image, *, derived_too: bool = False) -> str | None:
    """Return why an image is no plain axial CT image, or None.

    Args:
        image: The header.
        derived_too: Accept derived images that are axial and in Hounsfield units: a person has
            chosen them.
    """
    planes = (_wrong_plane(plane, image, derived_too) for plane in image.planes)
    return _wrong_object(image) or _wrong_pixels(image) or next(filter(None, planes), None)


def _wrong_object(image: Image) -> str | None:
    if f"{image.sop_class}.".startswith(f"{_SECONDARY_CAPTURE}."):
        return _SCREENSHOT
    if image.modality != "CT":
        named = f" ({image.modality})" if re.fullmatch("[A-Z]{2,8}", image.modality) else ""
        return f"wrong modality{named}, expected CT"
    if image.sop_class and image.sop_class not in CT_CLASSES:
        return "not a CT image (another kind of DICOM object)"
    return None


def _wrong_pixels(image: Image) -> str | None:
    pixels = image.pixels
    if pixels.samples != 1 or not pixels.photometric.startswith("MONOCHROME"):
        return "a colour image, expected Hounsfield units"
    if pixels.offset is None:
        return "truncated file (no pixels)"
    if not (1 <= pixels.rows <= _MAX_SIDE and 1 <= pixels.columns <= _MAX_SIDE):
        return f"absurd header: rows and columns outside 1 to {_MAX_SIDE}"
    whole_bytes = pixels.bits_allocated in (8, 16, 32)
    if not whole_bytes or not 1 <= pixels.bits_stored <= pixels.bits_allocated:
        return "absurd header: bits per pixel"
    if pixels.n_frames != len(image.planes):
        return "absurd header: number of frames"
    return None


def _wrong_plane(plane: Plane, image: Image, derived_too: bool) -> str | None:
    wrong_kind = _wrong_kind(plane, image, derived_too)
    return _not_hounsfield(plane) or wrong_kind or _wrong_geometry(plane)


def _not_hounsfield(plane: Plane) -> str | None:
    named = next((name for word, name in _NOT_HU.items() if word in plane.kind), None)
    if named is not None:
        return f"not HU: {named}"
    # US, unspecified, is what some scanners write for plain CT
    if plane.rescale_type not in ("", "HU", "US"):
        return "not HU: another unit is declared"
    if not (math.isfinite(plane.slope) and math.isfinite(plane.intercept)):
        return "not HU: no rescale slope or intercept"
    slope, intercept = abs(plane.slope), abs(plane.intercept)
    if not 1 / _MAX_SLOPE <= slope <= _MAX_SLOPE or intercept > _MAX_INTERCEPT:
        return "absurd header: rescale slope or intercept"
    return None


def _wrong_kind(plane: Plane, image: Image, derived_too: bool) -> str | None:
    if "LOCALIZER" in plane.kind:
        return _LOCALIZER
    reformatted = _REFORMATTED & plane.kind
    # compressing with loss derives an image, and changes no geometry
    derived = "DERIVED" in plane.kind and not image.lossy
    if not derived_too and (reformatted or derived or "SECONDARY" in plane.kind):
        return _DERIVED
    return None


def _wrong_geometry(plane: Plane) -> str | None:
    axes = np.stack([plane.along_row, plane.along_column])
    if not (np.isfinite(axes).all() and np.isfinite(plane.position).all()):
        return "no position or orientation"
    if np.abs(axes @ axes.T - np.eye(2)).max() > _UNIT_TOLERANCE:
        return "absurd header: orientation is no rotation"
    if not all(MIN_SPACING_MM <= spacing <= MAX_SPACING_MM for spacing in plane.spacing_mm):
        return f"absurd header: spacing outside {MIN_SPACING_MM:g} to {MAX_SPACING_MM:g} mm"
    if abs(plane.normal[2]) < math.cos(math.radians(_MAX_ANGLE_TO_AXIAL_DEGREES)):
        return "not axial (coronal, sagittal or oblique by more than 45 degrees)"
    return None
