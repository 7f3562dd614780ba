"""Which of several series in one folder is the scan.

A stated preference, and a refusal where it does not decide.

1. Series that cover less than half as much of the body (along the stack) as the longest one are no
candidates. 2. ORIGINAL before images that lossy compression derived. 3. A soft-tissue kernel before
an unknown one before a sharp one (lung, bone). 4. The smallest distance of slices, to a tenth of a
millimetre.

Two that are equal in all of this (two contrast phases, say), or series of two studies or patients,
are refused.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from concordant.core.errors import VolumeError
from concordant.data.volumes.dicom_series import Series

SOFT, UNKNOWN, SHARP = 0, 1, 2
_MIN_COVERAGE = 0.5  # of the longest series
_SOFT_NAMES = {"SOFT", "STANDARD", "STND", "A", "B", "C"}  # GE; Philips
_SHARP_NAMES = {
    "LUNG",
    "BONE",
    "BONEPLUS",
    "EDGE",
    "ULTRA",
    "CHST",
    "D",
    "E",
    "L",
    "YA",
    "YB",
    "YC",
    "YD",
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
        raise VolumeError(
            reasons.most_common(1)[0][0] if reasons else "no DICOM images in this folder"
        )
    if len({one.images[0].study for one in usable}) > 1:
        raise VolumeError("series of several studies in one folder; name one of them")
    coverage = [coverage_mm(one) for one in usable]
    candidates = [
        one
        for one, length in zip(usable, coverage, strict=True)
        if length >= _MIN_COVERAGE * max(coverage)
    ]
    ranked = sorted(candidates, key=_preference)
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
    """Return 0 for a soft-tissue kernel, 1 for one that is not known, 2 for a sharp one (lung,
    bone).
    """
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
