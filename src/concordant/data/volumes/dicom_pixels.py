"""The pixels of one DICOM file: native ones from the file, compressed ones through GDCM."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from jaxtyping import Bool, Shaped

from concordant.core.errors import ConcordantError, VolumeError
from concordant.data.volumes.dicom_header import NATIVE_SYNTAXES, UNDEFINED_LENGTH, Pixels

_ITEM, _END = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
_J2K_START = b"\xff\x4f\xff\x51"
_JPEG_START = b"\xff\xd8"
# start-of-frame markers, 0xF7 that of JPEG-LS
_JPEG_FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})


def decode(pixels: Pixels) -> Shaped[np.ndarray, "frame row column"]:
    """Return a file's stored values, decoded but not rescaled. Call it within `quiet_pydicom`.

    Raises:
        VolumeError: Truncated or damaged pixels, or a transfer syntax that no installed decoder
            reads.
    """
    if pixels.offset is None:
        raise VolumeError("truncated file (no pixels)")
    read = _native if pixels.syntax in NATIVE_SYNTAXES else _compressed
    try:
        return read(pixels, pixels.offset)
    except OSError as error:
        raise VolumeError("unreadable file") from error


def _native(pixels: Pixels, offset: int) -> Shaped[np.ndarray, "frame row column"]:
    shape = (pixels.n_frames, pixels.rows, pixels.columns)
    count = pixels.n_frames * pixels.rows * pixels.columns
    if pixels.path.stat().st_size - offset < count * pixels.dtype.itemsize:
        raise VolumeError("truncated file")
    if pixels.length < count * pixels.dtype.itemsize:
        raise VolumeError("absurd header: fewer pixels than rows times columns")
    stored = np.fromfile(pixels.path, pixels.dtype, count, offset=offset)
    return _used_bits(stored.reshape(shape), pixels)


def _used_bits(
    stored: Shaped[np.ndarray, "frame row column"], pixels: Pixels
) -> Shaped[np.ndarray, "frame row column"]:
    """Clear what lies above the stored bits, extend the sign. Source: DICOM PS3.5, 8.1.1.

    Declared padding stays as it is: it may need more bits, and what is left of it without them
    would be a measurement.
    """
    unused = pixels.bits_allocated - pixels.bits_stored
    if not unused:
        return stored
    used = stored << unused >> unused
    if pixels.padding is None:
        return used
    return np.where(is_padding(stored, pixels.padding), stored, used)


def is_padding(
    stored: Shaped[np.ndarray, "*size"], padding: tuple[int, int]
) -> Bool[np.ndarray, "*size"]:
    """Say which stored values stand for no measurement."""
    return np.asarray((stored >= padding[0]) & (stored <= padding[1]))


def _compressed(pixels: Pixels, offset: int) -> Shaped[np.ndarray, "frame row column"]:
    if pixels.length != UNDEFINED_LENGTH:
        raise VolumeError("damaged pixels (compressed, yet not in fragments)")
    with pixels.path.open("rb") as stream:
        stream.seek(offset)
        encoded = stream.read()
    fragments = list(_fragments(encoded))[1:]  # the first is the table of offsets
    if not fragments:
        raise VolumeError("truncated file (no pixels)")
    for fragment in fragments:
        _check_image(encoded[fragment], pixels)
    return _decoded(encoded, pixels)


def _fragments(encoded: bytes) -> Iterator[slice]:
    """Yield where each fragment lies, the offset table first.

    Raises:
        VolumeError: The data ends before its end mark.
    """
    at = 0
    while at + 8 <= len(encoded):
        group, element, length = struct.unpack_from("<HHL", encoded, at)
        if (group, element) == _END:
            return
        if (group, element) != _ITEM or length == UNDEFINED_LENGTH:
            raise VolumeError("damaged pixels")
        at += 8
        yield slice(at, at + length)
        at += length
    raise VolumeError("truncated file")


@dataclass(frozen=True, slots=True)
class _Coded:
    """What the header of one compressed image says."""

    size: tuple[int, int]
    components: int
    bits: int


def _check_image(fragment: bytes, pixels: Pixels) -> None:
    """Refuse an image whose own header disagrees: decoders would ask for that much memory."""
    try:
        if fragment[:4] == _J2K_START:
            coded = _j2k(fragment)
        elif fragment[:2] == _JPEG_START:
            coded = _jpeg(fragment)
        else:
            return
    except struct.error as error:
        raise VolumeError("damaged pixels") from error
    if coded.size != (pixels.rows, pixels.columns):
        raise VolumeError("absurd header: the compressed image has another size")
    if coded.components != 1 or not 1 <= coded.bits <= pixels.bits_allocated:
        raise VolumeError("damaged pixels")


def _j2k(fragment: bytes) -> _Coded:
    """Read the SIZ segment. Source: ISO/IEC 15444-1, A.5.1."""
    right, bottom, left, top = struct.unpack_from(">4L", fragment, 8)
    components, depth = struct.unpack_from(">HB", fragment, 40)
    return _Coded((bottom - top, right - left), components, (depth & 0x7F) + 1)


def _jpeg(fragment: bytes) -> _Coded:
    """Read the frame header. Source: ISO/IEC 10918-1, B.2.2."""
    at = 2
    while fragment[at : at + 1] == b"\xff":
        if fragment[at + 1] in _JPEG_FRAMES:
            bits, rows, columns, components = struct.unpack_from(">BHHB", fragment, at + 4)
            return _Coded((rows, columns), components, bits)
        at += 2 + int(struct.unpack_from(">H", fragment, at + 2)[0])
    raise VolumeError("damaged pixels")


def _decoded(encoded: bytes, pixels: Pixels) -> Shaped[np.ndarray, "frame row column"]:
    from pydicom.pixels.decoders.base import get_decoder

    try:
        decoder = get_decoder(pixels.syntax)
    except NotImplementedError as error:
        raise VolumeError("unknown transfer syntax") from error
    if not decoder.is_available:
        if find_spec("gdcm") is not None:
            raise VolumeError("unknown transfer syntax")
        raise ConcordantError(
            "reading compressed DICOM needs python-gdcm; install it with: pip install "
            "'concordant[dicom]'"
        )
    options: dict[str, Any] = {
        "rows": pixels.rows,
        "columns": pixels.columns,
        "number_of_frames": pixels.n_frames,
        "samples_per_pixel": 1,
        "photometric_interpretation": pixels.photometric,
        "bits_allocated": pixels.bits_allocated,
        "bits_stored": pixels.bits_stored,
        "pixel_representation": int(pixels.signed),
        "pixel_keyword": "PixelData",
    }
    try:
        values, _ = decoder.as_array(encoded, raw=True, **options)
    except Exception as error:  # each decoder has its own ways to fail
        raise VolumeError("damaged pixels") from error
    if values.size != pixels.n_frames * pixels.rows * pixels.columns:
        raise VolumeError("damaged pixels")
    return np.asarray(values).reshape(pixels.n_frames, pixels.rows, pixels.columns)
