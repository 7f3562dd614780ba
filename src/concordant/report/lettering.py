# ruff: noqa: E501
"""Short texts inside a picture, without a drawing library.

Capitals, digits and a few signs, five dots wide and seven high.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, UInt8

_ROWS, _COLUMNS = 7, 5
_GLYPHS = {
    "A": "0e11111f111111", "B": "1e11111e11111e", "C": "0e11101010110e", "D": "1e11111111111e", "E": "1f10101e10101f",
    "F": "1f10101e101010", "G": "0e11101711110f", "H": "1111111f111111", "I": "0e04040404040e", "J": "0702020202120c",
    "K": "11121418141211", "L": "1010101010101f", "M": "111b1515111111", "N": "11111915131111", "O": "0e11111111110e",
    "P": "1e11111e101010", "Q": "0e11111115120d", "R": "1e11111e141211", "S": "0f10100e01011e", "T": "1f040404040404",
    "U": "1111111111110e", "V": "11111111110a04", "W": "1111111515150a", "X": "11110a040a1111", "Y": "11110a04040404",
    "Z": "1f01020408101f", "0": "0e11131519110e", "1": "040c040404040e", "2": "0e11010204081f", "3": "1f02040201110e",
    "4": "02060a121f0202", "5": "1f101e0101110e", "6": "0608101e11110e", "7": "1f010204080808", "8": "0e11110e11110e",
    "9": "0e11110f01020c", ".": "00000000000c0c", ",": "000000000c0408", "-": "0000001f000000", "%": "18190204081303",
    ":": "000c0c000c0c00", "/": "00010204081000", "(": "02040808080402", ")": "08040202020408", "=": "00001f001f0000",
    " ": "00000000000000",
}  # fmt: skip
"""Seven rows of five bits, from the top, each as two hexadecimal digits."""

_UNKNOWN = "1f11111111111f"  # a box


def lettered(text: str, scale: int = 2) -> Bool[np.ndarray, "row column"]:
    """Return a text as dots: True where there is ink.

    Small letters become capitals, and an unknown sign a box.

    Args:
        text: What to write, one line.
        scale: Pixels per dot.
    """
    dots = np.zeros((_ROWS, max(len(text) * (_COLUMNS + 1) - 1, 0)), bool)
    for place, sign in enumerate(text.upper()):
        rows = np.frombuffer(bytes.fromhex(_GLYPHS.get(sign, _UNKNOWN)), np.uint8)[:, None]
        start = place * (_COLUMNS + 1)
        dots[:, start : start + _COLUMNS] = np.unpackbits(rows, axis=1)[:, -_COLUMNS:]
    return dots.repeat(scale, 0).repeat(scale, 1)


def write_text(
    canvas: UInt8[np.ndarray, "row column 3"],
    text: str,
    *,
    top: int,
    left: int,
    colour: tuple[int, int, int],
    scale: int = 2,
) -> None:
    """Write a text onto a picture; what does not fit is cut off."""
    ink = lettered(text, scale)
    part = canvas[top : top + ink.shape[0], left : left + ink.shape[1]]
    part[ink[: part.shape[0], : part.shape[1]]] = colour
