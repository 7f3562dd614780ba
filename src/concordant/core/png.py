"""Pictures as PNG, without a drawing library."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from jaxtyping import UInt8

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _COLOUR = 0, 2


def png_bytes(pixels: UInt8[np.ndarray, "row column"] | UInt8[np.ndarray, "row column 3"]) -> bytes:
    """Return a PNG file: grey for (row, column), red-green-blue for (row, column, 3).

    Eight bits a channel.

    Source: PNG specification, ISO/IEC 15948.
    """
    rows, columns = pixels.shape[:2]
    lines = np.ascontiguousarray(pixels).reshape(rows, -1)
    unfiltered = np.concatenate(
        [np.zeros((rows, 1), np.uint8), lines], axis=1
    )  # each line starts with its filter, 0 = none
    header = struct.pack(
        ">IIBBBBB", columns, rows, 8, _GREY if pixels.ndim == 2 else _COLOUR, 0, 0, 0
    )
    return (
        _SIGNATURE
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(unfiltered.tobytes(), 6))
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
