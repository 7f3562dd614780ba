"""Where tokens lie in a scan.

Against what a bright spot changes, and against the preprocessing itself.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from concordant.core.volume import StoredVolume, Volume
from concordant.encoders.base import ENCODERS
from concordant.encoders.ctfm import SegResEncoder
from concordant.encoders.merlin import InflatedResNet
from concordant.encoders.preprocessing import Preprocessing, preprocess
from concordant.encoders.tiny_ct import TinyCTNetwork, TinyCTSizes
from concordant.encoders.token_places import network_boxes, place_edges
from ct_weights_fixture import (
    COLIPRI,
    CTFM,
    MERLIN,
    write_colipri,
    write_ctfm,
    write_merlin,
    write_tiny_ct,
)

SPACINGS = [(2.0, 2.0, 2.0), (5.0, 0.9, 0.9), (1.0, 3.1, 1.7)]


def texture(shape, spacing, seed=0):
    return Volume(np.random.default_rng(seed).uniform(-200, 200, shape).astype(np.float32), spacing)


def with_block(volume, low, high, value=900.0):
    """Return the scan with the voxels whose centres lie between two corners (fractional voxels)
    set to a value.
    """
    voxels = volume.voxels.copy()
    inside = [
        (np.arange(n) + 0.5 >= start) & (np.arange(n) + 0.5 < end)
        for n, start, end in zip(volume.voxels.shape, low, high, strict=True)
    ]
    voxels[np.ix_(*inside)] = value
    return Volume(voxels, volume.spacing_mm)


def changes(encoder, volume, changed):
    """Return how much each token moves."""
    before, after = (one.tokens for one in encoder.encode([volume, changed]))
    return np.linalg.norm(after - before, axis=1)


def shrunken(box, share):
    middle, half = box.mean(0), (box[1] - box[0]) / 2 * share
    return middle - half, middle + half


@pytest.mark.parametrize("shape", [(7, 8, 9), (12, 10, 11)])
def test_a_single_voxel_changes_exactly_the_region_whose_box_holds_it(shape):
    encoder, volume = ENCODERS.create("volume_features", grid=3), texture(shape, (5.0, 1.0, 2.0))
    boxes = encoder.token_boxes(volume)
    extents = (boxes[:, 1] - boxes[:, 0]).prod(1)
    assert extents.sum() == np.prod(shape)  # they tile the scan
    for at in np.random.default_rng(1).integers(0, shape, (20, 3)):
        centre = at + 0.5
        holds = np.flatnonzero(((boxes[:, 0] <= centre) & (centre < boxes[:, 1])).all(1))
        moved = changes(encoder, volume, with_block(volume, at, at + 1))
        assert len(holds) == 1
        assert moved.argmax() == holds[0]


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("token_grid", [None, 2])
def test_a_bright_patch_changes_most_the_token_of_tiny_ct_whose_box_holds_it(
    tmp_path, spacing, token_grid
):
    folder = write_tiny_ct(tmp_path, input_size=32, spacing_mm=4.0)
    encoder = ENCODERS.create("tiny_ct", weights=folder, token_grid=token_grid, device="cpu")
    shape = tuple(
        round(extent / step) for extent, step in zip((140, 100, 150), spacing, strict=True)
    )  # of 128 mm: crop, pad, crop
    volume = texture(shape, spacing)
    boxes = encoder.token_boxes(volume)
    assert len(boxes) == len(encoder.encode([volume])[0].tokens)
    seen = 0
    for token, box in enumerate(boxes):
        if (
            (box[1] - box[0]) * spacing > 10
        ).all():  # of 16 or 32 mm: not the ones that are nearly all padding
            assert (
                changes(encoder, volume, with_block(volume, *shrunken(box, 0.7))).argmax() == token
            )
            seen += 1
    assert seen >= 4


WRITERS = {
    "colipri": (write_colipri, COLIPRI),
    "merlin": (write_merlin, MERLIN),
    "ctfm": (write_ctfm, CTFM),
}
EXTENTS = {"colipri": (70, 56, 60), "merlin": (110, 90, 100), "ctfm": (60, 30, 34)}


@pytest.mark.parametrize("token_grid", [None, 2])
@pytest.mark.parametrize("name", WRITERS)
def test_a_bright_block_changes_most_the_token_whose_box_holds_it(tmp_path, name, token_grid):
    encoder = ENCODERS.create(
        name, weights=WRITERS[name][0](tmp_path), token_grid=token_grid, device="cpu"
    )
    volume = texture(
        tuple(
            round(extent / step)
            for extent, step in zip(EXTENTS[name], (2.5, 1.2, 1.0), strict=True)
        ),
        (2.5, 1.2, 1.0),
    )
    boxes = encoder.token_boxes(volume)
    assert len(boxes) == len(encoder.encode([volume])[0].tokens)
    assert (boxes[:, 0] >= 0).all()
    assert (boxes[:, 1] <= volume.voxels.shape).all()
    extent = boxes[:, 1] - boxes[:, 0]
    whole = np.flatnonzero((extent >= 0.6 * extent.max(0)).all(1))
    for token in whole[:: max(len(whole) // 12, 1)]:
        assert (
            changes(encoder, volume, with_block(volume, *shrunken(boxes[token], 0.8))).argmax()
            == token
        )


@pytest.mark.parametrize("convention", ["monai", "torchio"])
@pytest.mark.parametrize("orientation", ["RAS", "SPL", "SRA"])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_the_boxes_of_single_voxels_hold_the_points_they_were_sampled_at(
    convention, orientation, spacing
):
    """A scan whose value is its own position, seen through the preprocessing, says where each
    voxel of the tensor was sampled.
    """
    size = (17, 20, 12)
    steps = Preprocessing(
        orientation,
        (0.0, 1000.0),
        (0.0, 1000.0),
        (2.0, 3.0, 2.5),
        size,
        pad=-1.0,
        convention=convention,
    )
    shape = tuple(round(extent / step) for extent, step in zip((30, 50, 46), spacing, strict=True))
    edges = [place_edges(n, first=0.5, step=1.0, n=n) for n in size]
    for axis, n in enumerate(shape):
        along = np.arange(n, dtype=np.float32)
        position = Volume(
            np.broadcast_to(
                along.reshape([-1 if axis == one else 1 for one in range(3)]), shape
            ).copy(),
            spacing,
        )
        sampled = preprocess(position, steps).ravel()
        boxes = network_boxes(position, steps, edges, None)
        inside = sampled >= 0
        middle, extent = boxes[:, :, axis].mean(1), np.diff(boxes[:, :, axis], axis=1)[:, 0]
        whole = (
            inside & (sampled > 0) & (sampled < n - 1) & (extent > 0.99 * extent.max())
        )  # at the rim samples are clamped, boxes cut
        assert whole.any()
        np.testing.assert_allclose(middle[whole], sampled[whole] + 0.5, atol=1e-4)
        clipped = inside & ~whole
        assert (np.abs(middle - sampled - 0.5)[clipped] <= extent.max()).all()
        # a padded voxel's centre lies beyond the scan's outermost centres, so its box reaches over
        # them by half its extent at most
        half = np.array(steps.volume_spacing_mm) / spacing / 2
        at_rim = (boxes[:, 1] <= 0.5 + half + 1e-9) | (
            boxes[:, 0] >= np.array(shape) - 0.5 - half - 1e-9
        )
        assert at_rim.any(1)[~inside].all()


def test_pooled_places_run_from_the_first_to_the_last_averaged_one():
    volume = StoredVolume(np.zeros((10, 10, 10), np.int16), 1.0, 0.0, (1.0, 1.0, 1.0))
    steps = Preprocessing("SAR", (0.0, 1.0), (0.0, 1.0))
    edges = [np.array([0.0, 2.0, 4.0, 6.0, 8.0, 10.0])] * 3
    boxes = network_boxes(volume, steps, edges, 2)
    assert boxes.shape == (8, 2, 3)
    np.testing.assert_allclose(
        boxes[0], [[0, 0, 0], [6, 6, 6]]
    )  # five places, two averages of three that share the middle one
    np.testing.assert_allclose(boxes[1], [[0, 0, 4], [6, 6, 10]])


def test_an_encoder_whose_tokens_have_no_fixed_place_says_so():
    assert ENCODERS.create("label_volume").token_boxes(texture((5, 5, 5), (1.0, 1.0, 1.0))) is None


def averaging(network):
    """Let every convolution of a network take means, and every normalisation do nothing.

    What a place sees most is then its middle.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
        elif isinstance(module, nn.BatchNorm3d):
            nn.init.ones_(module.weight)
    return network.eval()


@pytest.mark.parametrize("name", ["merlin", "ctfm", "tiny_ct"])
def test_along_each_axis_an_impulse_reaches_most_the_place_whose_stretch_holds_it(tmp_path, name):
    writer, network = {
        "merlin": (write_merlin, InflatedResNet(MERLIN)),
        "ctfm": (write_ctfm, SegResEncoder(CTFM.init_filters, CTFM.blocks_down)),
        "tiny_ct": (write_tiny_ct, TinyCTNetwork(TinyCTSizes())),
    }[name]
    encoder = ENCODERS.create(name, weights=writer(tmp_path), token_grid=None, device="cpu")
    steps = encoder.steps
    order = [{"S": 0, "A": 1, "P": 1, "R": 2, "L": 2}[letter] for letter in steps.orientation]
    shape = tuple(steps.size[order.index(axis)] for axis in range(3))
    boxes = encoder.token_boxes(
        Volume(np.full(shape, 100, np.float32), steps.volume_spacing_mm)
    )  # as large and fine as the input
    averaging(network)
    flipped = [letter in "PL" for letter in steps.orientation]
    with torch.inference_mode():
        rest = encoder.features(network, torch.full((1, *steps.size), 0.1)).tokens
        for axis, size in enumerate(steps.size):
            checked = 0
            for at in range(0, size, 3):
                seen = torch.full((1, *steps.size), 0.1)
                place = [n // 2 - 3 for n in steps.size]
                place[axis] = at
                seen[0, place[0], place[1], place[2]] += 100.0
                moved = (encoder.features(network, seen).tokens - rest).sum(-1)[0]
                low, high = boxes[int(moved.argmax()), :, order[axis]]
                centre = size - at - 0.5 if flipped[axis] else at + 0.5
                # halfway between two places both see an impulse alike (tiny_ct: a whole patch)
                assert low - 2 <= centre < high + 2, (axis, at)
                checked += low <= centre < high
            assert checked >= 0.6 * len(range(0, size, 3)), axis
