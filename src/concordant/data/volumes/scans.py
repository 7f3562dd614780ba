"""Open a scan whatever its format: the one way in."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from concordant.core.errors import VolumeError
from concordant.core.volume import StoredVolume, Volume
from concordant.data.volumes.dicom_header import is_dicom, quiet_pydicom
from concordant.data.volumes.dicom_series import Series, choose, group_series
from concordant.data.volumes.dicom_volume import open_stack
from concordant.data.volumes.folder import (
    CHOSEN,
    INDEX_SUFFIX,
    NOT_A_FILE,
    files_below,
    find_images,
    first_bytes,
    indexed_files,
)
from concordant.data.volumes.nifti import open_nifti

logger = logging.getLogger(__name__)


def read_volume(path: Path | str) -> Volume:
    """Read a scan as a volume with axes (superior, anterior, right).

    See `open_volume` for what is read, and how.

    Returns:
        Hounsfield units as contiguous float32, spacing in millimetres as (depth, height, width).

    Raises:
        VolumeError: As `open_volume`.
        ConcordantError: DICOM without the extra `dicom`.
    """
    return open_volume(path).to_volume()


def open_volume(path: Path | str) -> StoredVolume:
    """Open a scan as it is stored, with axes (superior, anterior, right).

    A grid that is oblique by at most 0.1 degree is reordered by its closest axes and its values
    stay exact. A grid that is more oblique, or sheared (a tilted gantry), is resampled linearly to
    a straight grid of the same spacing that holds all of it, filled outside with its least value.

    NIfTI (`.nii`, `.nii.gz`, versions 1 and 2): orientation by the sform, else the qform, by their
    codes; metre and micron units become millimetres; trailing axes of length 1 are dropped; the
    whole stream and its checksum are read.

    DICOM: axial CT images in Hounsfield units; localizers and derived images are left out. Slices
    are sorted by position, rescaled each with its own slope and intercept, and brought to a regular
    stack by the rules of `dicom_stack`; padding becomes -1024 HU.

    Args:
        path: One of: a NIfTI file (recognised by content, not by name). A DICOM file, which is that
            file alone: all frames of a multi-frame image, else one slice, which is never resampled.
            A folder with DICOM files at any depth: of several series one is chosen by the rules of
            `dicom_choice`, or by a file `chosen.series` in the folder. An index file `NAME.series`,
            which lists the DICOM files of one series.

    Raises:
        VolumeError: What is damaged, truncated, no three-dimensional CT, without orientation, or
            ambiguous; a header that cannot be right; NaN or infinite voxels, or the same value
            everywhere. `reason` names neither path nor patient.
        ConcordantError: DICOM without the extra `dicom`.
    """
    path = Path(path)
    try:
        return _open(path)
    except VolumeError as error:
        raise VolumeError(error.reason, path) from error.__cause__
    except OSError as error:  # a name that is too long, say
        raise VolumeError("unreadable file", path) from error


def _open(path: Path) -> StoredVolume:
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise VolumeError(NOT_A_FILE)
    if path.suffix == INDEX_SUFFIX:
        return _open_files(indexed_files(path), path.parent)
    if is_dicom(first_bytes(path)):  # a link that is named itself may lead anywhere
        return _open_files([path], path.resolve().parent)
    return open_nifti(path)


def source_files(path: Path) -> list[Path]:
    """Return all files that the volume at a path may depend on.

    An index file comes with those it lists; one that cannot be used stands alone, reading says why.
    """
    if path.is_dir():
        return files_below(path)
    if path.suffix != INDEX_SUFFIX:
        return [path]
    try:
        return [path, *indexed_files(path)]
    except VolumeError:
        return [path]


def _open_folder(folder: Path) -> StoredVolume:
    if (folder / CHOSEN).is_file():
        return _open_files(indexed_files(folder / CHOSEN), folder)
    found = find_images(files_below(folder), folder)
    if not found.images and not found.refused:
        raise VolumeError(
            "no DICOM images in this folder; name a NIfTI file itself"
            if found.others
            else "an empty folder (links to folders are not entered)"
        )
    if found.refused:  # it may be a slice of the scan
        raise VolumeError(found.refused[0][1])
    series = group_series(found.images)
    chosen = choose(series)
    n_usable = sum(one.reason is None for one in series)
    if n_usable > 1:
        logger.info(
            f"{n_usable} usable series in one folder: series {chosen.key} is read "
            f"({len(chosen.images)} slices)"
        )
    return open_series(chosen)


def _open_files(files: Sequence[Path], folder: Path) -> StoredVolume:
    """Open files that were named one by one: all have to be one series, which may be derived."""
    found = find_images(files, folder)
    if found.refused:
        raise VolumeError(found.refused[0][1])
    if found.others:
        raise VolumeError("index file lists a file that is no DICOM image")
    series = group_series(found.images, derived_too=True)
    if len(series) > 1:
        raise VolumeError("index file lists several series")
    return open_series(series[0])


def open_series(series: Series) -> StoredVolume:
    """Open a series that was found before, without reading its headers again.

    Raises:
        VolumeError: The series is refused, or its pixels are.
    """
    if series.stack is None:
        raise VolumeError(series.reason or "no scan")
    with quiet_pydicom():
        return open_stack(series.images, series.stack)
