"""Attention over slices: which slices, what is painted where, and how colours are ordered."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from concordant.core.volume import StoredVolume
from concordant.report.overlay import Cut, attention_picture, most_attended, ramp

SHAPE, GRID = (12, 18, 24), (4, 3, 2)
TILE, GAP, HEADER = 256, 6, 30


def grid_boxes(shape=SHAPE, grid=GRID):
    """Cut a scan into equal boxes, depth slowest."""
    edges = [np.linspace(0, size, n + 1) for size, n in zip(shape, grid, strict=True)]
    places = [(z, y, x) for z in range(grid[0]) for y in range(grid[1]) for x in range(grid[2])]
    return np.array(
        [
            [[edges[axis][place[axis] + side] for axis in range(3)] for side in (0, 1)]
            for place in places
        ]
    )


def weights_at(**heights):
    """Return weights that are even but for some tokens."""
    weights = np.ones(np.prod(GRID))
    for token, height in heights.items():
        weights[int(token[1:])] = height
    return weights / weights.sum()


def volume(fill=-300, spacing=(2.0, 1.0, 1.0)):
    return StoredVolume(np.full(SHAPE, fill, np.int16), 1.0, 0.0, spacing)


def tile(picture, place, row):
    top, left = HEADER + row * (TILE + GAP), GAP + place * (TILE + GAP)
    return np.asarray(picture)[top : top + TILE, left : left + TILE].astype(int)


def colourful(pixels):
    return pixels.max(-1) - pixels.min(-1) > 12


def test_slices_go_through_the_most_attended_boxes_and_no_layer_twice():
    boxes = grid_boxes()
    weights = weights_at(
        t20=9, t19=8, t6=7, t13=6, t1=5
    )  # layers 3, 3, 1, 2, 0, each of three slices and six tokens
    assert most_attended(boxes, weights, SHAPE) == (Cut(0, 4), Cut(0, 7), Cut(0, 10), Cut(1, 9))


def test_a_box_of_padding_is_never_shown():
    boxes = grid_boxes()
    boxes[20, :, 2] = 24.0  # no extent
    cuts = most_attended(boxes, weights_at(t20=9, t1=5), SHAPE)
    assert Cut(0, 1) in cuts
    assert cuts[-1] == Cut(1, 3)
    boxes[:, :, 2] = 24.0
    assert most_attended(boxes, weights_at(), SHAPE) == (Cut(0, 6), Cut(1, 9))


def test_only_the_attended_box_is_coloured_and_on_the_right_side():
    picture = attention_picture(volume(), grid_boxes(), weights_at(t0=4), title="highest risk 1")
    found = colourful(tile(picture, 0, 1))
    # token 0 is low, at the back and to the left: below and on the viewer's right; the slice is 18
    # x 24 voxels, 192 x 256 pixels
    expected = np.zeros((TILE, TILE), bool)
    expected[32 + 128 : 32 + 192, 128:] = True
    assert (found == expected).all()
    assert not colourful(tile(picture, 0, 0)).any(), "above nothing is coloured"


def test_the_coronal_slice_is_upright_and_of_equal_millimetres():
    picture = attention_picture(volume(), grid_boxes(), weights_at(t0=4), title="")
    found = colourful(tile(picture, 3, 1))
    rows, columns = np.flatnonzero(found.any(1)), np.flatnonzero(found.any(0))
    assert (rows[0], rows[-1]) == (192, 255), (
        "24 mm x 24 mm fill the tile, the lowest quarter is at the bottom"
    )
    assert (columns[0], columns[-1]) == (128, 255)


def test_the_window_decides_what_is_black_and_white():
    stored = np.full(SHAPE, 40, np.int16)
    stored[:, :, :12] = -1000  # the patient's left
    seen = StoredVolume(stored, 1.0, 0.0, (2.0, 1.0, 1.0))
    plain = tile(
        attention_picture(seen, grid_boxes(), weights_at(), title="", window_hu=(-160.0, 240.0)),
        0,
        0,
    )
    assert (plain[100, 40] == 128).all()
    assert (plain[100, 200] == 0).all()
    scaled = StoredVolume((stored + 1024).astype(np.int16), 1.0, -1024.0, (2.0, 1.0, 1.0))
    other = tile(
        attention_picture(scaled, grid_boxes(), weights_at(), title="", window_hu=(-160.0, 240.0)),
        0,
        0,
    )
    assert (plain == other).all(), "slope and intercept are applied"


def test_even_attention_has_no_colour_and_slight_differences_stay_pale():
    even = attention_picture(volume(), grid_boxes(), weights_at(), title="")
    assert not colourful(tile(even, 0, 1)).any()
    slight, strong = (
        attention_picture(volume(), grid_boxes(), weights_at(t0=height), title="")
        for height in (1.05, 4)
    )
    at = (230, 200)
    grey, pale, bright = (tile(one, 0, 1)[210, 200] for one in (even, slight, strong))
    assert np.abs(pale - grey).sum() < np.abs(bright - grey).sum() / 2, at


def test_overlapping_boxes_are_averaged():
    whole = np.array(
        [[[0.0, 0, 0], [12, 18, 16]], [[0, 0, 8], [12, 18, 24]], [[12, 18, 24], [12, 18, 24]]]
    )
    picture = attention_picture(volume(), whole, np.array([0.6, 0.2, 0.2]), title="")
    row = tile(picture, 0, 1)[128]
    right, middle, left = (
        row[40],
        row[128],
        row[230],
    )  # patient's right (high width) is on the viewer's left
    grey = tile(picture, 0, 0)[128, 128]
    assert (right == grey).all()
    assert 0 < np.abs(middle - grey).sum() < np.abs(left - grey).sum()


def test_lightness_rises_evenly_along_the_colours():
    colours = ramp(np.linspace(0, 1, 33)) / 255
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    lightness = 116 * np.cbrt(luminance) - 16  # CIE 1976 L*
    steps = np.diff(lightness)
    assert (steps > 0.8).all()
    assert (steps < 4).all()
    assert lightness[-1] - lightness[0] > 70


def test_attention_beyond_the_scan_is_told_in_the_legend():
    boxes = grid_boxes()
    boxes[20, :, 2] = 24.0
    with_padding, without = (
        attention_picture(volume(), boxes, weights_at(t20=height, t0=4), title="")
        for height in (9, 0)
    )
    assert with_padding.width == without.width
    added = np.asarray(with_padding)[without.height :].astype(int)
    assert (added == added[:1, :1]).all() == (len(added) == 0)
    ink = Image.new("L", (400, 30))
    font = ImageFont.load_default(17)
    ImageDraw.Draw(ink).text((0, 0), "9% of it fell beyond the scan", fill=255, font=font)
    length = np.flatnonzero(np.asarray(ink).any(0))[-1]
    written = np.flatnonzero((added != added[0, 0]).any((0, 2)))
    assert abs((written[-1] - written[0]) - length) <= 12, "one short line, of that length"


def test_what_is_written_stands_above_below_and_on_the_slices():
    plain, titled = (
        np.asarray(attention_picture(volume(), grid_boxes(), weights_at(t0=4), title=title))
        for title in ("", "highest risk 1")
    )
    differs = (plain != titled).any(-1)
    assert differs[:HEADER].any()
    assert not differs[HEADER:].any()
    corner = tile(titled, 0, 0)[:22, :18]
    assert (corner.max(-1) > 200).any(), "the side is named on the slice"
    caption = titled[HEADER + 2 * TILE + GAP : HEADER + 2 * TILE + GAP + 25, GAP : GAP + TILE]
    assert (caption.max(-1) > 200).any(), "the place is told below it"


@pytest.mark.parametrize("shape", [(1, 5, 5), (40, 6, 300)])
def test_scans_of_any_shape_can_be_drawn(shape):
    seen = StoredVolume(np.zeros(shape, np.int16), 1.0, 0.0, (1.0, 0.5, 2.0))
    picture = attention_picture(seen, grid_boxes(shape), weights_at(t3=2), title="lowest risk 2")
    assert picture.mode == "RGB"
    assert (
        picture.width
        == (len(most_attended(grid_boxes(shape), weights_at(t3=2), shape))) * (TILE + GAP) + GAP
    )
