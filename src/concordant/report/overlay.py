"""Token attention over the slices of the scan it came from, as one colour picture.

Colour is how often the even share a place is given; places at or below the even share are left
grey. Attention shows what a model mixed, which is not why it predicts what it predicts (Jain and
Wallace, Attention is not Explanation, NAACL 2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int, Shaped

from concordant.core.volume import StoredVolume

if TYPE_CHECKING:
    from PIL import Image

WINDOW_HU = (-1000.0, 400.0)
"""What becomes black and white unless asked otherwise: lung and soft tissue are both seen."""

MAX_AXIAL = 3
LEAST_TOP = 1.5
"""The scale reaches at least so many times the even share: weights that hardly differ stay pale."""

_RAMP = np.array(
    [[59, 15, 112], [140, 41, 129], [213, 62, 79], [253, 141, 60], [255, 247, 150]], np.float64
)
"""From dark violet to light yellow; lightness rises evenly, seen without colour vision too."""

_OPACITY = 0.7
_TILE = 256
_GAP = 6
_HEADER, _CAPTION, _LINE = 30, 34, 22
_GROUND, _INK, _FAINT = (18, 18, 20), (235, 235, 235), (150, 150, 155)
_BAR = (150, 14)
_LETTERS = 17
_AXIAL, _CORONAL = 0, 1


@dataclass(frozen=True, slots=True)
class Cut:
    """A slice through a scan.

    Attributes:
        axis: 0 = axial, 1 = coronal.
        index: Of the slice along that axis.
    """

    axis: int
    index: int


def attention_picture(
    volume: StoredVolume,
    boxes: Float[np.ndarray, "token 2 3"],
    weights: Float[np.ndarray, " token"],
    *,
    title: str,
    window_hu: tuple[float, float] = WINDOW_HU,
) -> Image.Image:
    """Return up to three axial slices and a coronal one, as they are and with attention.

    Anterior or superior is up; the patient's right is on the viewer's left. Captions give the
    distance from the lowest slice (axial) and from the back (coronal).

    Args:
        volume: The scan.
        boxes: Of each token: low and high corner in voxels of the scan, from its outer edge.
        weights: Of each token, summing to 1.
        title: Written above; must not name a patient.
        window_hu: Hounsfield units that become black and white.
    """
    relative = weights * len(weights)
    top = max(float(relative.max()), LEAST_TOP)
    cuts = most_attended(boxes, weights, volume.stored.shape)
    beyond = _outside(boxes, weights)
    notes = [f"{beyond:.0%} of it fell beyond the scan"] if beyond >= 0.005 else []
    high = _HEADER + 2 * _TILE + _GAP + _CAPTION
    sheet = _Sheet.blank(len(cuts) * (_TILE + _GAP) + _GAP, high + _LINE * (1 + len(notes)))
    window = f"window {window_hu[0]:.0f} to {window_hu[1]:.0f} HU"
    sheet.write(title, _GAP, 7)
    sheet.write(window, sheet.image.width - _GAP, 7, colour=_FAINT, anchor="ra")
    for place, cut in enumerate(cuts):
        left = _GAP + place * (_TILE + _GAP)
        _draw_cut(sheet, left, volume, cut, window_hu, _Paint(boxes, relative, top))
    _draw_scale(sheet, high, top)
    for note in notes:
        sheet.write(note, _GAP, high + _LINE, colour=_FAINT)
    return sheet.image


@dataclass(frozen=True, slots=True)
class _Sheet:
    """A picture that can be written on."""

    image: Image.Image

    @classmethod
    def blank(cls, width: int, height: int) -> _Sheet:
        from PIL import Image

        return cls(Image.new("RGB", (width, height), _GROUND))

    def paste(self, pixels: Float[np.ndarray, "row column 3"], left: int, top: int) -> None:
        from PIL import Image

        self.image.paste(Image.fromarray(np.rint(pixels).astype(np.uint8)), (left, top))

    def write(
        self,
        text: str,
        left: int,
        top: int,
        *,
        colour: tuple[int, int, int] = _INK,
        anchor: str = "la",
    ) -> float:
        """Write one line and return how long it is, in pixels."""
        from PIL import ImageDraw, ImageFont

        pen, font = ImageDraw.Draw(self.image), ImageFont.load_default(_LETTERS)
        pen.text((left, top), text, fill=colour, font=font, anchor=anchor)
        return pen.textlength(text, font=font)


def most_attended(
    boxes: Float[np.ndarray, "token 2 3"],
    weights: Float[np.ndarray, " token"],
    shape: tuple[int, ...],
) -> tuple[Cut, ...]:
    """Return the slices to show.

    Through the middle of the most attended box, and of further ones that no slice meets yet.

    Axial slices come first, from the lowest to the highest. Boxes without extent are passed over;
    without any box the scan's middle is shown.
    """
    order = [
        token
        for token in np.argsort(-weights, kind="stable")
        if (boxes[token, 1] > boxes[token, 0]).all()
    ]
    middles = [boxes[token].mean(0) for token in order] or [np.array(shape) / 2]
    depths: list[int] = []
    for token in order:
        low, high = boxes[token, :, 0]
        if len(depths) < MAX_AXIAL and not any(low <= depth + 0.5 < high for depth in depths):
            depths.append(_voxel((low + high) / 2, shape[0]))
    depths = depths or [_voxel(middles[0][0], shape[0])]
    return (
        *(Cut(_AXIAL, depth) for depth in sorted(depths)),
        Cut(_CORONAL, _voxel(middles[0][1], shape[1])),
    )


def _voxel(at: float, size: int) -> int:
    return int(np.clip(np.floor(at), 0, size - 1))


def ramp(share: Float[np.ndarray, "*size"]) -> Float[np.ndarray, "*size 3"]:
    """Return the colour (red, green, blue, 0 to 255) of each share of the scale, 0 to 1."""
    at = np.linspace(0, 1, len(_RAMP))
    return np.stack([np.interp(share, at, channel) for channel in _RAMP.T], -1)


@dataclass(frozen=True, slots=True)
class _Paint:
    """What lies over the slices: relative weight per box, and which one gets the last colour."""

    boxes: Float[np.ndarray, "token 2 3"]
    relative: Float[np.ndarray, " token"]
    top: float


def _draw_cut(
    sheet: _Sheet,
    left: int,
    volume: StoredVolume,
    cut: Cut,
    window_hu: tuple[float, float],
    paint: _Paint,
) -> None:
    lines = _Lines.of(volume, cut)
    grey = _grey(volume, cut, lines, window_hu)
    painted = _blend(grey, _relative(paint, cut, lines), paint.top)
    for top, slice_ in (
        (_HEADER, grey[..., None].repeat(3, -1)),
        (_HEADER + _TILE + _GAP, painted),
    ):
        tile = np.zeros((_TILE, _TILE, 3))
        up, aside = ((_TILE - size) // 2 for size in slice_.shape[:2])
        tile[up : up + slice_.shape[0], aside : aside + slice_.shape[1]] = slice_[::-1, ::-1]
        tile[:22, :18] = _GROUND
        sheet.paste(tile, left, top)
        sheet.write("R", left + 3, top + 2)
    name, origin = ("axial", 0) if cut.axis == _AXIAL else ("coronal", 1)
    distance = (cut.index + 0.5) * volume.spacing_mm[origin]
    sheet.write(f"{name} {distance:.0f} mm", left, _HEADER + 2 * _TILE + _GAP + 4)


@dataclass(frozen=True, slots=True)
class _Lines:
    """Where rows and columns of a tile lie along axes `down` and `across`, in fractional voxels."""

    down: int
    across: int
    rows: Float[np.ndarray, " row"]
    columns: Float[np.ndarray, " column"]

    @classmethod
    def of(cls, volume: StoredVolume, cut: Cut) -> _Lines:
        """Fill a tile in the slice's longer direction, millimetres equal in both."""
        down, across = (axis for axis in range(3) if axis != cut.axis)
        sides = [volume.stored.shape[axis] * volume.spacing_mm[axis] for axis in (down, across)]
        rows, columns = (max(round(_TILE * side / max(sides)), 1) for side in sides)
        return cls(
            down,
            across,
            _spread(volume.stored.shape[down], rows),
            _spread(volume.stored.shape[across], columns),
        )


def _spread(size: int, count: int) -> Float[np.ndarray, " pixel"]:
    return np.asarray((np.arange(count) + 0.5) * size / count)


def _grey(
    volume: StoredVolume, cut: Cut, lines: _Lines, window_hu: tuple[float, float]
) -> Float[np.ndarray, "row column"]:
    """Return the slice as grey values 0 to 255, each pixel the nearest voxel."""
    stored: Shaped[np.ndarray, "row column"] = np.take(volume.stored, cut.index, axis=cut.axis)
    nearest: tuple[Int[np.ndarray, " pixel"], ...] = np.ix_(
        lines.rows.astype(np.int64), lines.columns.astype(np.int64)
    )
    hounsfield = stored[nearest] * volume.slope + volume.intercept
    low, high = window_hu
    return np.asarray(np.clip((hounsfield - low) / (high - low), 0, 1) * 255, np.float64)


def _relative(paint: _Paint, cut: Cut, lines: _Lines) -> Float[np.ndarray, "row column"]:
    """Return the mean relative weight of the boxes that hold each pixel, 0 where none does."""
    total, count = np.zeros((2, len(lines.rows), len(lines.columns)))
    met = (paint.boxes[:, 0, cut.axis] <= cut.index + 0.5) & (
        cut.index + 0.5 < paint.boxes[:, 1, cut.axis]
    )
    for token in np.flatnonzero(met):
        rows, columns = (
            slice(*np.searchsorted(along, paint.boxes[token, :, axis]))
            for along, axis in ((lines.rows, lines.down), (lines.columns, lines.across))
        )
        total[rows, columns] += paint.relative[token]
        count[rows, columns] += 1
    return np.asarray(total / np.maximum(count, 1))


def _blend(
    grey: Float[np.ndarray, "row column"], relative: Float[np.ndarray, "row column"], top: float
) -> Float[np.ndarray, "row column 3"]:
    """Lay colour over grey: none up to the even share, then the more the higher the weight."""
    share = np.clip((relative - 1) / (top - 1), 0, 1)
    opacity = _OPACITY * np.sqrt(share)[..., None]
    return np.asarray((1 - opacity) * grey[..., None] + opacity * ramp(share))


def _outside(boxes: Float[np.ndarray, "token 2 3"], weights: Float[np.ndarray, " token"]) -> float:
    """Return the share of the attention that fell on padding around the scan."""
    return float(weights[(boxes[:, 1] <= boxes[:, 0]).any(1)].sum())


def _draw_scale(sheet: _Sheet, top: int, most: float) -> None:
    """Say which colour is how many times the even share."""
    wide, high = _BAR
    left = _GAP + round(sheet.write("attention  1x", _GAP, top)) + _GAP
    scale = np.broadcast_to(np.linspace(1.0, most, wide), (high, wide))
    sheet.paste(_blend(np.full(scale.shape, 128.0), scale, most), left, top + 2)
    sheet.write(f"{most:.1f}x even share", left + wide + _GAP, top)
