"""NIfTI files, plain or compressed.

Orientation follows nibabel's rule: the sform where its code is above 0, else the qform where its
code is above 0. A file with neither says nothing about left and right (readers disagree on what to
assume) and is refused.
"""

# mypy: disable-error-code="no-untyped-call"
# (nibabel's header functions carry no annotations)

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import nibabel as nib
import numpy as np
from isal import igzip
from isal.igzip_lib import IsalError
from jaxtyping import Float, Shaped
from nibabel.spatialimages import HeaderDataError

from concordant.core.errors import VolumeError
from concordant.core.volume import StoredVolume
from concordant.data.volumes.grid import (
    MAX_VOXELS,
    on_grid,
    refuse_bomb,
    refuse_size,
    refuse_spacing,
)

_GZIP_MAGIC = b"\x1f\x8b"
_HEADERS = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
_MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # unknown, metre, millimetre, micron
_GREATEST_DEFLATE_RATIO = 1032
_GREATEST_TRAILER = 1 << 20
_NO_STREAM = "Not a gzipped file"  # how the standard library begins to say so
_BLOCK = 1 << 20  # the reader makes a copy of what it is asked for


@dataclass(frozen=True, slots=True)
class _Layout:
    """What a header says about the voxels that follow it."""

    shape: tuple[int, int, int]
    dtype: np.dtype[np.generic]
    offset: int
    slope: float
    intercept: float
    affine_mm: Float[np.ndarray, "4 4"]

    @property
    def n_bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def open_nifti(path: Path) -> StoredVolume:
    """Open a NIfTI file: a compressed one is inflated and checked whole, a plain one is mapped.

    Raises:
        VolumeError: Damaged, truncated, not three-dimensional, no orientation, a header that cannot
            be right, or voxels that cannot be Hounsfield units.
    """
    with _readable(path) as raw:
        compressed = raw.read(2) == _GZIP_MAGIC
        raw.seek(0)
        layout, stored = _inflated(raw, path) if compressed else _mapped(raw, path)
    return on_grid(_plain(stored), layout.affine_mm, layout.slope, layout.intercept)


def nifti_affine(path: Path) -> Float[np.ndarray, "4 4"]:
    """Return a header's affine: from (i, j, k, 1) to millimetres (right, anterior, superior, 1).

    Raises:
        VolumeError: A header that cannot be read or used.
    """
    with _readable(path) as raw:
        compressed = raw.read(2) == _GZIP_MAGIC
        raw.seek(0)
        if not compressed:
            return _read_layout(raw).affine_mm
        with _gunzip(raw) as stream:
            return _read_layout(stream).affine_mm


@contextmanager
def _readable(path: Path) -> Iterator[BinaryIO]:
    """Open a file; what goes wrong with its bytes becomes a `VolumeError`."""
    try:
        with path.open("rb") as raw:
            yield raw
    except EOFError as error:
        raise VolumeError("truncated file") from error
    # isal's annotations name no base class
    except (gzip.BadGzipFile, IsalError) as error:  # type: ignore[misc]
        raise VolumeError("damaged compression (wrong checksum or corrupt stream)") from error
    except OSError as error:
        raise VolumeError("unreadable file") from error


def _inflated(raw: BinaryIO, path: Path) -> tuple[_Layout, Shaped[np.ndarray, "x y z"]]:
    n_file = path.stat().st_size
    with _gunzip(raw) as stream:
        layout = _read_layout(stream)
        if layout.n_bytes > _GREATEST_DEFLATE_RATIO * n_file:
            raise EOFError("fewer bytes than the header promises")
        refuse_bomb(layout.n_bytes, n_file)
        buffer = np.empty(layout.n_bytes, np.uint8)
        stream.seek(layout.offset)
        _fill(stream, buffer.data)
        _finish(stream)
    return layout, buffer.view(layout.dtype).reshape(layout.shape, order="F")


@contextmanager
def _gunzip(raw: BinaryIO) -> Iterator[BinaryIO]:
    """Inflate a file; as for gzip itself, zeros may pad its end, and further streams follow."""
    try:
        with igzip.IGzipFile(fileobj=raw, mode="rb") as stream:
            yield cast(BinaryIO, stream)
    except (EOFError, gzip.BadGzipFile):
        if _ends_in_other_bytes(raw):
            raise VolumeError("other bytes follow the compressed data") from None
        raise


def _ends_in_other_bytes(raw: BinaryIO) -> bool:
    """Say whether whole streams are followed by what is none, as the slower reader tells."""
    n_file = raw.seek(0, os.SEEK_END)
    raw.seek(0)
    n_inflated = 0
    try:
        with gzip.GzipFile(fileobj=raw) as stream:
            while block := stream.read(_BLOCK):
                n_inflated += len(block)
                refuse_bomb(n_inflated, n_file)
    except gzip.BadGzipFile as error:
        return str(error).startswith(_NO_STREAM)
    except (EOFError, zlib.error):
        pass
    return False


def _fill(stream: BinaryIO, buffer: memoryview) -> None:
    filled = 0
    while filled < len(buffer):
        # a buffered reader has it
        got = stream.readinto(buffer[filled : filled + _BLOCK])  # type: ignore[attr-defined]
        if not got:
            raise EOFError("fewer voxels than the header promises")
        filled += got


def _finish(stream: BinaryIO) -> None:
    """Read to the end, where the checksum is compared; what inflates on and on is refused."""
    if len(stream.read(_GREATEST_TRAILER + 1)) > _GREATEST_TRAILER:
        raise VolumeError("absurd file: more data than its header promises")


def _mapped(raw: BinaryIO, path: Path) -> tuple[_Layout, Shaped[np.ndarray, "x y z"]]:
    layout = _read_layout(raw)
    if layout.offset + layout.n_bytes > path.stat().st_size:
        raise EOFError("fewer voxels than the header promises")
    return layout, np.memmap(
        path, layout.dtype, mode="r", offset=layout.offset, shape=layout.shape, order="F"
    )


def _plain(stored: Shaped[np.ndarray, "x y z"]) -> Shaped[np.ndarray, "x y z"]:
    """Return an array that any kernel takes: native byte order, aligned, at most 8 bytes each."""
    native = stored.dtype.newbyteorder("=")
    if native.itemsize > 8:
        native = np.dtype(np.float64)
    with np.errstate(over="ignore"):  # an infinity is refused later
        return np.asarray(stored, native) if stored.flags.aligned else stored.astype(native)


def _read_layout(stream: BinaryIO) -> _Layout:
    start = stream.read(max(_HEADERS))
    if not start:
        raise VolumeError("empty file")
    sizes = [int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")]
    size = next((one for one in sizes if one in _HEADERS), None)
    if size is None:
        raise VolumeError("not a NIfTI file")
    if len(start) < size:
        raise EOFError("the file ends inside its header")
    return _layout(_HEADERS[size](start[:size], check=False))


def _layout(header: nib.Nifti1Header) -> _Layout:
    if not header["magic"].item().startswith(b"n+"):
        raise VolumeError("not a single-file NIfTI (an Analyze or .hdr/.img pair)")
    try:
        shape, dtype = header.get_data_shape(), header.get_data_dtype()
        slope, intercept = header.get_slope_inter()
    except (HeaderDataError, KeyError, ValueError) as error:
        raise VolumeError("damaged header") from error
    if dtype.kind not in "iuf":
        raise VolumeError(f"voxels are not plain numbers ({header.get_value_label('datatype')})")
    return _Layout(
        _three_axes(shape),
        dtype,
        _data_offset(header),
        1.0 if slope is None else float(slope),
        0.0 if intercept is None else float(intercept),
        _affine_mm(header),
    )


def _three_axes(shape: tuple[int, ...]) -> tuple[int, int, int]:
    sizes = [int(size) for size in shape]
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    if len(sizes) != 3:
        raise VolumeError(f"{len(sizes)}-D image, expected one 3-D volume")
    if min(sizes) < 1:
        raise VolumeError("empty volume")
    refuse_size(math.prod(sizes))
    return sizes[0], sizes[1], sizes[2]


def _data_offset(header: nib.Nifti1Header) -> int:
    offset = float(header["vox_offset"])
    if not (header.sizeof_hdr <= offset < MAX_VOXELS and offset.is_integer()):
        raise VolumeError("absurd header: voxel offset")
    return int(offset)


def _affine_mm(header: nib.Nifti1Header) -> Float[np.ndarray, "4 4"]:
    unit = _MILLIMETRES.get(int(header["xyzt_units"]) & 7)
    if unit is None:
        raise VolumeError("absurd header: unknown unit of length")
    if int(header["sform_code"]) == 0 and int(header["qform_code"]) == 0:
        raise VolumeError("no orientation (sform and qform codes are both 0)")
    affine = _best_affine(header)
    if not np.isfinite(affine).all():
        raise VolumeError("absurd header: affine is not finite")
    affine[:3] *= unit
    pixdim = np.asarray(header["pixdim"][1:4], dtype=np.float64) * unit
    for spacing in (pixdim, np.linalg.norm(affine[:3, :3], axis=0)):
        refuse_spacing(spacing)
    return affine


def _best_affine(header: nib.Nifti1Header) -> Float[np.ndarray, "4 4"]:
    try:
        return np.array(header.get_best_affine(), dtype=np.float64)
    except (HeaderDataError, ValueError) as error:  # a quaternion longer than 1
        raise VolumeError("absurd header: qform is no rotation") from error
