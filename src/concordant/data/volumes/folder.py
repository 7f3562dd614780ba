"""The files of a folder, and of an index file: found without leaving the folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from concordant.core.errors import VolumeError
from concordant.data.volumes.dicom_header import Image, is_dicom, quiet_pydicom, read_header

INDEX_SUFFIX = ".series"
CHOSEN = "chosen.series"
"""An index file of this name in a folder says which of its series is the scan."""

LEAVES_FOLDER = "a path that leaves the folder"
NOT_A_FILE = "not a file"
UNREADABLE_FOLDER = "unreadable folder"
_UNREADABLE = "unreadable file"
_START = 132
_APPLE_DOUBLE = "._"  # "._x.dcm" holds attributes of "x.dcm"
_DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
_MAX_INDEX_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class Found:
    """What lies in a folder.

    Attributes:
        images: Headers of the DICOM images.
        refused: Files that are DICOM or claim to be and cannot be read, links that leave the
            folder, and folders that cannot be read, each with its reason.
        others: Files that are something else.
    """

    images: tuple[Image, ...]
    refused: tuple[tuple[Path, str], ...]
    others: tuple[Path, ...]


def files_below(folder: Path) -> list[Path]:
    """Return all files below a folder, and the folders that cannot be read, sorted.

    Folders that are links are not entered, what macOS leaves beside files is no file; pipes,
    sockets and devices are among the files.
    """
    unread: list[Path] = []
    walk = os.walk(folder, onerror=lambda error: unread.append(Path(error.filename)))
    files = [Path(parent, name) for parent, _, names in walk for name in names]
    return sorted([one for one in files if not one.name.startswith(_APPLE_DOUBLE)] + unread)


def not_to_be_read(file: Path, root: Path) -> str | None:
    """Return why a file is not opened: a link out of the folder, a folder, a pipe; or None."""
    try:
        if file.is_symlink() and not file.resolve().is_relative_to(root):
            return LEAVES_FOLDER
        mode = file.stat().st_mode
    except OSError:  # a broken link, or in a folder that may be listed, but not entered
        return _UNREADABLE
    if stat.S_ISDIR(mode):
        return UNREADABLE_FOLDER
    return None if stat.S_ISREG(mode) else NOT_A_FILE


def find_images(files: Sequence[Path], folder: Path) -> Found:
    """Read the headers of those files that are DICOM; a DICOMDIR is none of them.

    Raises:
        ConcordantError: There is a DICOM file, and the extra `dicom` is not installed.
    """
    root = folder.resolve()
    dicom: list[Path] = []
    refused: list[tuple[Path, str]] = []
    others: list[Path] = []
    for file in files:
        try:
            (dicom if _claims_dicom(file, root) else others).append(file)
        except VolumeError as error:
            refused.append((file, error.reason))
    images: list[Image] = []
    with quiet_pydicom() if dicom else nullcontext():
        for file in dicom:
            try:
                images.append(read_header(file))
            except VolumeError as error:
                refused.append((file, error.reason))
    return Found(tuple(images), tuple(refused), tuple(others))


def _claims_dicom(file: Path, root: Path) -> bool:
    claims = file.suffix.lower() in _DICOM_SUFFIXES
    reason = not_to_be_read(file, root)
    if reason == NOT_A_FILE and not claims:
        return False
    if reason is not None:
        raise VolumeError(reason)
    if file.name == "DICOMDIR":
        return False
    if is_dicom(first_bytes(file)):
        return True
    if claims:
        raise VolumeError("truncated file (named as DICOM, without its mark)")
    return False


def first_bytes(file: Path) -> bytes:
    """Return what tells a file's format.

    Raises:
        VolumeError: The file cannot be read.
    """
    try:
        with file.open("rb") as stream:
            return stream.read(_START)
    except OSError as error:
        raise VolumeError(_UNREADABLE) from error


def indexed_files(index: Path) -> list[Path]:
    """Return the files that an index file lists: one path a line, relative to the index's folder.

    Empty lines and # comments are skipped.

    Raises:
        VolumeError: Not text, no path at all, a path that leaves the folder, is listed twice or
            does not exist.
    """
    try:
        if index.stat().st_size > _MAX_INDEX_BYTES:
            raise VolumeError("absurd index file: more than 16 MiB")
        lines = index.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise VolumeError("unreadable index file") from error
    names = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not names or len(set(names)) < len(names):
        raise VolumeError("index file lists no file, or one twice")
    root = index.parent.resolve()
    files = [index.parent / name for name in names]
    if any(not file.resolve().is_relative_to(root) for file in files):
        raise VolumeError(LEAVES_FOLDER)
    if not all(file.is_file() for file in files):
        raise VolumeError("index file lists a file that is not there")
    return files
