"""NIfTI files to volumes in Hounsfield units; what is damaged or ambiguous is refused with a short, stable reason.

Orientation follows nibabel's rule: the sform where its code is above 0, else the qform where its code is above 0. A file with neither
says nothing about left and right (readers disagree on what to assume) and is refused.
"""

# mypy: disable-error-code="no-untyped-call"
# (nibabel's header and orientation functions carry no annotations)

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import nibabel as nib
import numpy as np
from jaxtyping import Float
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from nibabel.spatialimages import HeaderDataError
from scipy import ndimage

from concordant.core.errors import VolumeError as VolumeError
from concordant.core.volume import Volume

MIN_SPACING_MM = 0.01
MAX_SPACING_MM = 50.0
MAX_VOXELS = 2**31
MAX_OBLIQUITY_DEGREES = 0.1
MIN_VOLUME_OF_DIRECTIONS = 1e-3  # of the box that the three unit axes span; 1 for a grid without shear

_GZIP_MAGIC = b"\x1f\x8b"
_HEADERS = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
_MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # NIfTI's codes: unknown, metre, millimetre, micron
_DRAIN = 1 << 20
_GREATEST_DEFLATE_RATIO = 1032


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


def read_volume(path: Path | str) -> Volume:
    """Read a NIfTI file (`.nii`, `.nii.gz`, versions 1 and 2) as a volume with axes (superior, anterior, right).

    Slope and intercept are applied; metre and micron units become millimetres; trailing axes of length 1 are dropped. A grid that is
    oblique by at most 0.1 degree is reordered by its closest axes and its values stay exact. A grid that is more oblique, or sheared,
    is resampled linearly to an axis-aligned grid with the same spacing that holds all of it, filled with the volume's minimum outside.

    Args:
        path: The file. Compression is recognised by content, not by name; the whole stream and its checksum are read.

    Returns:
        Hounsfield units as contiguous float32, spacing in millimetres as (depth, height, width).

    Raises:
        VolumeError: Not a file, a folder or DICOM (not read yet), damaged or truncated, not three-dimensional, a header that cannot be
            right, no orientation, NaN or infinite voxels, or the same value everywhere. `reason` names neither path nor patient.
    """
    path = Path(path)
    try:
        return _read(path)
    except VolumeError as error:
        raise VolumeError(error.reason, path) from error.__cause__


def _read(path: Path) -> Volume:
    _refuse_what_is_no_file(path)
    try:
        with _decompressed(path) as stream:
            layout = _read_layout(stream)
            if layout.n_bytes > _GREATEST_DEFLATE_RATIO * path.stat().st_size:
                raise EOFError("fewer bytes than the header promises")
            stored = _read_stored(stream, layout)
    except EOFError as error:
        raise VolumeError("truncated file") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise VolumeError("damaged compression (wrong checksum or corrupt stream)") from error
    except OSError as error:
        raise VolumeError("unreadable file") from error
    return _to_ras(stored, layout)


def _refuse_what_is_no_file(path: Path) -> None:
    if path.is_dir():
        raise VolumeError("a folder: DICOM series are not read yet, convert it to NIfTI")
    if not path.is_file():
        raise VolumeError("not a file")


@contextmanager
def _decompressed(path: Path) -> Iterator[BinaryIO]:
    with path.open("rb") as raw:
        compressed = raw.read(2) == _GZIP_MAGIC
        raw.seek(0)
        if not compressed:
            yield raw
            return
        with gzip.GzipFile(fileobj=raw, mode="rb") as stream:
            yield cast(BinaryIO, stream)


def _read_layout(stream: BinaryIO) -> _Layout:
    start = stream.read(max(_HEADERS))
    if not start:
        raise VolumeError("empty file")
    if start[128:132] == b"DICM":
        raise VolumeError("a DICOM file: DICOM is not read yet, convert it to NIfTI")
    size = next((size for size in _HEADERS for order in ("little", "big") if int.from_bytes(start[:4], order) == size), None)
    if size is None:
        raise VolumeError("not a NIfTI file")
    if len(start) < size:
        raise EOFError("the file ends inside its header")
    stream.seek(0)
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
    if int(np.prod(sizes, dtype=object)) > MAX_VOXELS:
        raise VolumeError("absurd header: more than 2^31 voxels")
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
        if not ((spacing >= MIN_SPACING_MM) & (spacing <= MAX_SPACING_MM)).all():
            raise VolumeError(f"absurd header: spacing outside {MIN_SPACING_MM:g} to {MAX_SPACING_MM:g} mm")
    return affine


def _best_affine(header: nib.Nifti1Header) -> Float[np.ndarray, "4 4"]:
    try:
        return np.array(header.get_best_affine(), dtype=np.float64)
    except (HeaderDataError, ValueError) as error:  # a quaternion longer than 1
        raise VolumeError("absurd header: qform is no rotation") from error


def _read_stored(stream: BinaryIO, layout: _Layout) -> np.ndarray:
    stream.seek(layout.offset)
    buffer = bytearray(layout.n_bytes)
    filled = 0
    while filled < len(buffer):
        got = stream.readinto(memoryview(buffer)[filled:])  # type: ignore[attr-defined]
        if not got:
            raise EOFError("fewer voxels than the header promises")
        filled += got
    while stream.read(_DRAIN):  # the checksum is compared only at the end of the stream
        pass
    return np.frombuffer(buffer, layout.dtype).reshape(layout.shape, order="F")


def _to_ras(stored: np.ndarray, layout: _Layout) -> Volume:
    orientation = io_orientation(layout.affine_mm)
    if np.isnan(orientation).any() or abs(np.linalg.det(_directions(layout.affine_mm))) < MIN_VOLUME_OF_DIRECTIONS:
        raise VolumeError("absurd header: affine is singular")
    affine = layout.affine_mm @ inv_ornt_aff(orientation, stored.shape)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    voxels = _hounsfield(apply_orientation(stored, orientation).transpose(2, 1, 0), layout)
    if _obliquity_degrees(affine) > MAX_OBLIQUITY_DEGREES:
        voxels = _resample(voxels.transpose(2, 1, 0), affine, spacing)
    depth, height, width = (float(step) for step in spacing[::-1])
    return Volume(voxels, (depth, height, width))


def _hounsfield(stored: np.ndarray, layout: _Layout) -> Float[np.ndarray, "depth height width"]:
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused below
        values = np.ascontiguousarray(stored, dtype=np.float32)
        if layout.slope != 1.0:
            values *= np.float32(layout.slope)
        if layout.intercept != 0.0:
            values += np.float32(layout.intercept)
        low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise VolumeError("NaN or infinite voxels")
    if low == high:
        raise VolumeError("constant volume")
    return values


def _obliquity_degrees(affine: Float[np.ndarray, "4 4"]) -> float:
    """Return the greatest angle between an axis of the grid and the body axis it is closest to (a shear tilts at least one)."""
    directions = _directions(affine)
    along = np.diag(directions)
    across = np.linalg.norm(directions - np.diag(along), axis=0)
    return float(np.degrees(np.arctan2(across, along).max()))


def _directions(affine: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "3 3"]:
    return np.asarray(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))


def _resample(
    values: Float[np.ndarray, "x y z"], affine: Float[np.ndarray, "4 4"], spacing: Float[np.ndarray, " 3"]
) -> Float[np.ndarray, "depth height width"]:
    ends = np.array(np.meshgrid(*[(0, size - 1) for size in values.shape], indexing="ij")).reshape(3, -1)
    corners = affine[:3, :3] @ ends + affine[:3, 3:]
    origin = corners.min(1)
    shape = np.floor((corners.max(1) - origin) / spacing + 1e-6).astype(np.int64) + 1
    if int(np.prod(shape, dtype=object)) > MAX_VOXELS:
        raise VolumeError("absurd header: a shear that needs more than 2^31 voxels")
    to_index = np.linalg.inv(affine[:3, :3])
    resampled = ndimage.affine_transform(
        values,
        to_index * spacing,
        offset=to_index @ (origin - affine[:3, 3]),
        output_shape=tuple(int(size) for size in shape),
        order=1,
        cval=float(values.min()),
    )
    return np.ascontiguousarray(resampled.transpose(2, 1, 0))
