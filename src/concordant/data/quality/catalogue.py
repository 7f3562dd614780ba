"""All scans below a folder.

Every NIfTI file, every DICOM series, and every file that claims to be one of these and is not.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from concordant.core.errors import CohortError, VolumeError
from concordant.core.files import write_text
from concordant.data.volumes.dicom_series import Series, choose, group_series
from concordant.data.volumes.folder import (
    CHOSEN,
    INDEX_SUFFIX,
    UNREADABLE_FOLDER,
    Found,
    files_below,
    find_images,
    indexed_files,
    not_to_be_read,
)

_NIFTI_SUFFIXES = (".nii", ".nii.gz")
_KEY_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Scan:
    """One candidate.

    Attributes:
        key: 12 hex digits that stand for the scan and reveal nothing: a digest of its path, or of a
            series' identifiers.
        format: "nifti" or "dicom"; None for a folder that cannot be read.
        ct_path: What a cohort's `ct_path` would say, relative to the folder; None where a series
            needs an index file to be named.
        folder: The folder that was searched.
        file: The file, where the scan is one file.
        series: The series, for DICOM that could be read.
        reason: Why it is refused, as far as headers tell; or None.
    """

    key: str
    format: str | None
    ct_path: str | None
    folder: Path
    file: Path | None
    series: Series | None
    reason: str | None


def find_scans(folder: Path, *, write_index: bool = False) -> tuple[Scan, ...]:
    """Find all scans below a folder, in the order of their paths.

    A DICOM series is named by the deepest folder that holds all of it, where reading that folder
    gives this series. Where it does not (several series in one folder), the series needs an index
    file.

    Args:
        folder: Searched at every depth; links that leave it are refused, each with its reason.
        write_index: Write an index file `KEY.series` for each series that needs one, into the
            folder that holds the series.

    Raises:
        CohortError: Not a folder, or an index file cannot be written.
    """
    if not folder.is_dir():
        raise CohortError(f"{folder}: not a folder; give the folder that holds the scans")
    files = files_below(folder)
    nifti = [file for file in files if file.name.lower().endswith(_NIFTI_SUFFIXES)]
    taken = set(nifti)
    found = find_images([file for file in files if file not in taken], folder)
    series = group_series(found.images)
    scans = [_nifti(file, folder) for file in nifti]
    scans += [_dicom(one, series, found, folder, write_index) for one in series]
    scans += [_refused(file, folder, reason) for file, reason in found.refused]
    return tuple(sorted(scans, key=lambda scan: (scan.ct_path or "", scan.key)))


def _nifti(file: Path, folder: Path) -> Scan:
    return Scan(
        _path_key(file, folder),
        "nifti",
        _relative(file, folder),
        folder,
        file,
        None,
        not_to_be_read(file, folder.resolve()),
    )


def _refused(file: Path, folder: Path, reason: str) -> Scan:
    format_ = None if reason == UNREADABLE_FOLDER else "dicom"
    return Scan(
        _path_key(file, folder), format_, _relative(file, folder), folder, file, None, reason
    )


def _path_key(file: Path, folder: Path) -> str:
    return hashlib.sha256(_relative(file, folder).encode("utf-8", "surrogateescape")).hexdigest()[
        :_KEY_DIGITS
    ]


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _dicom(
    series: Series, all_series: Sequence[Series], found: Found, folder: Path, write_index: bool
) -> Scan:
    file = series.images[0].path if len(series.images) == 1 else None
    place = file or Path(os.path.commonpath([image.path.parent for image in series.images]))
    if file is None and series.reason is None and not _reads_as(series, place, all_series, found):
        index = place / f"{series.key}{INDEX_SUFFIX}"
        if write_index:
            _write_index(index, series)
        ct_path = _relative(index, folder) if index.is_file() else None
    else:
        ct_path = _relative(place, folder)
    return Scan(series.key, "dicom", ct_path, folder, file, series, series.reason)


def _reads_as(series: Series, place: Path, all_series: Sequence[Series], found: Found) -> bool:
    """Say whether reading a folder gives this series.

    No unreadable file in it, and chosen among what else is there.
    """
    if (place / CHOSEN).is_file():
        return _indexed(place / CHOSEN) == {image.path for image in series.images}
    if any(file.is_relative_to(place) for file, _ in found.refused):
        return False
    inside = [
        one for one in all_series if any(image.path.is_relative_to(place) for image in one.images)
    ]
    try:
        return choose(inside) is series
    except VolumeError:
        return False


def _indexed(index: Path) -> set[Path]:
    try:
        return set(indexed_files(index))
    except VolumeError:
        return set()


def _write_index(index: Path, series: Series) -> None:
    try:
        write_text(index, "".join(f"{name}\n" for name in _names(series, index.parent)))
    except OSError as error:
        raise CohortError(
            f"{index}: the index file cannot be written ({error.strerror}); use a folder that can "
            "be, or copy the series"
        ) from None


def _names(series: Series, folder: Path) -> Iterable[str]:
    return (_relative(image.path, folder) for image in series.images)
