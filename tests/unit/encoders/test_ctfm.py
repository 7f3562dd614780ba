"""CT-FM's network against MONAI's, how patches make up a scan, and golden values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import ct_weights_fixture as fixture
from concordant.core.volume import Volume
from concordant.encoders.ctfm import CTFM, CTFMSizes, SegResEncoder
from concordant.encoders.network import Prepared

SIZES = fixture.CTFM


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fixture.write_ctfm(tmp_path_factory.mktemp("ctfm"))


def prepared(shape, seed=0):
    return Prepared(np.random.default_rng(seed).uniform(0, 1, shape).astype(np.float32))


def network(folder):
    own = SegResEncoder(SIZES.init_filters, SIZES.blocks_down)
    own.load_state_dict(load_file(folder / "model.safetensors"))
    return own.eval()


def test_every_stage_equals_monai(folder):
    monai = pytest.importorskip("monai.networks.nets.segresnet_ds", reason="MONAI is not installed")
    peer = monai.SegResEncoder(
        spatial_dims=3, init_filters=4, in_channels=1, blocks_down=SIZES.blocks_down
    ).eval()
    peer.load_state_dict(load_file(folder / "model.safetensors"))
    scans = torch.randn(2, 1, 12, 16, 20, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = network(folder)(scans), peer(scans)
    assert len(ours) == len(theirs) == 3
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * float(other.abs().max()))


def test_one_patch_is_its_last_map_and_the_maps_mean(folder):
    patch = prepared(SIZES.patch)
    with torch.no_grad():
        last = network(folder)(torch.from_numpy(patch.voxels)[None, None])[-1][0]
    embedding = CTFM(weights=folder, token_grid=None).encode_prepared([patch])[0]
    assert tuple(last.shape[1:]) == SIZES.patch_grid
    np.testing.assert_allclose(embedding.tokens, last.flatten(1).T, atol=1e-4)
    np.testing.assert_allclose(embedding.pooled, last.mean((1, 2, 3)), atol=1e-4)


def test_a_scan_is_its_patches_put_together(folder):
    scan = prepared((20, 30, 16))  # 3 x 2 x 1 patches, the last ones partly padding
    padded = np.zeros((24, 32, 16), np.float32)
    padded[:20, :30] = scan.voxels
    a, b, c = SIZES.patch_grid
    grid = np.zeros((SIZES.width, 3 * a, 2 * b, c), np.float32)
    own = network(folder)
    for i in range(3):
        for j in range(2):
            patch = torch.from_numpy(
                np.ascontiguousarray(padded[8 * i : 8 * i + 8, 16 * j : 16 * j + 16])
            )
            with torch.no_grad():
                grid[:, a * i : a * (i + 1), b * j : b * (j + 1)] = own(patch[None, None])[-1][0]
    embedding = CTFM(weights=folder, token_grid=None, patches_at_once=4).encode_prepared([scan])[0]
    np.testing.assert_allclose(embedding.tokens, grid.reshape(SIZES.width, -1).T, atol=1e-4)
    np.testing.assert_allclose(embedding.pooled, grid.mean((1, 2, 3)), atol=1e-4)
    pooled = CTFM(weights=folder, token_grid=2).encode_prepared([scan])[0].tokens
    boxes = torch.nn.functional.adaptive_avg_pool3d(torch.from_numpy(grid), 2).flatten(1).T
    np.testing.assert_allclose(pooled, boxes, atol=1e-4)


@pytest.mark.parametrize("token_grid", [None, 1, 2, 3])
def test_patches_of_padding_alone_are_left_out(folder, token_grid):
    voxels = prepared((24, 32, 32)).voxels
    held = voxels[:16, :16].copy()
    voxels[16:] = 0
    voxels[:, 16:] = 0
    encoder = CTFM(weights=folder, token_grid=None)
    embedding, alone = encoder.encode_prepared([Prepared(voxels), Prepared(held)])
    np.testing.assert_allclose(embedding.tokens, alone.tokens, atol=1e-4)
    np.testing.assert_allclose(embedding.pooled, alone.pooled, atol=1e-4)
    some = CTFM(weights=folder, token_grid=token_grid).encode_prepared([Prepared(voxels)])[0].tokens
    assert (
        some.min() >= alone.tokens.min() - 1e-5
    )  # an average over what is held, never over what is not
    assert some.max() <= alone.tokens.max() + 1e-5
    if token_grid == 1:
        np.testing.assert_allclose(some[0], alone.tokens.mean(0), atol=1e-4)


def test_a_scan_without_anything_above_the_window_is_still_encoded(folder):
    embedding = CTFM(weights=folder).encode_prepared([Prepared(np.zeros((8, 16, 16), np.float32))])[
        0
    ]
    assert np.isfinite(embedding.tokens).all()
    assert len(embedding.tokens)


def test_scans_are_cropped_to_the_extent_and_never_padded(folder):
    encoder = CTFM(weights=folder)
    small, large = (
        Volume(np.zeros(shape, np.float32), (3.0, 1.0, 1.0))
        for shape in ((5, 10, 11), (90, 91, 92))
    )
    assert encoder.prepare(small).voxels.shape == (5, 10, 11)
    assert encoder.prepare(large).voxels.shape == (24, 32, 32)


def test_the_axes_run_to_superior_posterior_and_left(folder):
    voxels = np.full((6, 7, 8), -1024.0, np.float32)
    voxels[5, 0, 0] = 2048.0  # most superior, posterior and left
    tensor = CTFM(weights=folder).prepare(Volume(voxels, (3.0, 1.0, 1.0))).voxels
    assert tensor[5, 6, 7] == 1
    assert tensor.sum() == 1


def test_golden_values(folder):
    embedding = CTFM(weights=folder, token_grid=2).encode_prepared([prepared((16, 30, 20))])[0]
    np.testing.assert_allclose(embedding.tokens[:2, :3], GOLDEN_TOKENS, atol=1e-4)
    np.testing.assert_allclose(embedding.pooled[:4], GOLDEN_POOLED, atol=1e-4)


GOLDEN_TOKENS = [[-4.06219, -13.79399, -1.29557], [-3.58133, -6.4209, 0.05962]]
GOLDEN_POOLED = [-3.08795, -9.22489, -0.27475, -3.90903]


def test_the_released_network_has_the_released_size():
    sizes = CTFMSizes()
    with torch.device("meta"):
        released = SegResEncoder(sizes.init_filters, sizes.blocks_down)
    assert sum(one.numel() for one in released.parameters()) == 77_760_992
    assert len(released.state_dict()) == 161
    assert sizes.patch_grid == (2, 8, 8)
    assert sizes.width == 512
