"""Merlin's network against a two-dimensional reference written out, both checkpoints, and golden
values.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

import ct_weights_fixture as fixture
from concordant.core.volume import Volume
from concordant.encoders.merlin import InflatedResNet, Merlin, MerlinSizes
from concordant.encoders.network import Prepared

SIZES = fixture.MERLIN


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fixture.write_merlin(tmp_path_factory.mktemp("merlin"))


def prepared(seed=0):
    return Prepared(np.random.default_rng(seed).uniform(0, 1, SIZES.input_size).astype(np.float32))


def batch_norm(values, state, name):
    return functional.batch_norm(
        values,
        *(state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")),
    )


def flat(state, name):
    """Return the filter of the middle slice, as it was before it was inflated."""
    weight = state[f"{name}.weight"]
    return weight[:, :, weight.shape[2] // 2]


def two_dimensional(picture, state, blocks):
    """Run the ResNet on one grey picture, repeated as three colours."""
    values = functional.conv2d(
        picture.expand(1, 3, -1, -1), flat(state, "conv1"), stride=2, padding=3
    )
    values = functional.max_pool2d(functional.relu(batch_norm(values, state, "bn1")), 3, 2, 1)
    for stage, n_blocks in enumerate(blocks, 1):
        for block in range(n_blocks):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            inner = functional.relu(
                batch_norm(
                    functional.conv2d(values, flat(state, f"{name}.conv1")), state, f"{name}.bn1"
                )
            )
            inner = functional.conv2d(inner, flat(state, f"{name}.conv2"), stride=stride, padding=1)
            inner = functional.relu(batch_norm(inner, state, f"{name}.bn2"))
            inner = batch_norm(
                functional.conv2d(inner, flat(state, f"{name}.conv3")), state, f"{name}.bn3"
            )
            if block == 0:
                values = functional.conv2d(
                    values, flat(state, f"{name}.downsample.0"), stride=stride
                )
                values = batch_norm(values, state, f"{name}.downsample.1")
            values = functional.relu(values + inner)
    return values[0]


def test_filters_inflated_around_their_centre_see_each_slice_as_a_picture():
    network = fixture.randomise(InflatedResNet(SIZES))
    for module in network.modules():
        if isinstance(module, torch.nn.Conv3d) and module.kernel_size[0] == 3:
            with torch.no_grad():
                module.weight[:, :, [0, 2]] = 0
    picture = torch.rand(1, 1, *SIZES.input_size[1:], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        grid = network(picture[:, :, None].expand(-1, -1, SIZES.input_size[0], -1, -1))[0]
        expected = two_dimensional(picture, network.state_dict(), SIZES.blocks)
    assert tuple(grid.shape) == (SIZES.features, *SIZES.grid)
    for depth in range(grid.shape[1]):
        np.testing.assert_allclose(grid[:, depth], expected, atol=1e-4 * float(expected.max()))


def test_depth_is_halved_where_height_and_width_are_but_for_the_first_convolution():
    assert SIZES.grid == (2, 2, 2)
    assert MerlinSizes().grid == (10, 7, 7)


def test_slices_are_mixed():
    network = fixture.randomise(InflatedResNet(SIZES))
    scan = torch.rand(1, 1, *SIZES.input_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (network(scan)[:, :, 0] - network(scan.flip(2))[:, :, -1]).abs().max() > 1e-3


def test_the_pooled_vector_is_the_mean_of_the_tokens(folder):
    embedding = Merlin(weights=folder).encode_prepared([prepared()])[0]
    np.testing.assert_allclose(
        embedding.pooled, embedding.tokens.mean(0), atol=1e-5 * embedding.pooled.max()
    )


def test_the_five_year_checkpoint_has_no_prefix(folder, tmp_path):
    fixture.write_merlin(tmp_path, five_year=True)
    one = Merlin(weights=tmp_path, checkpoint="five_year").encode_prepared([prepared()])[0]
    other = Merlin(weights=folder).encode_prepared([prepared()])[0]
    np.testing.assert_array_equal(one.tokens, other.tokens)


def test_the_axes_run_to_superior_right_and_anterior_and_padding_is_air(folder):
    voxels = np.full((32, 20, 64), -200.0, np.float32)
    voxels[31, 0, 63] = 1000.0
    tensor = Merlin(weights=folder).prepare(Volume(voxels, (3.0, 1.5, 1.5))).voxels
    assert tensor.shape == SIZES.input_size
    assert tensor[31, 63, 22] == 1
    assert (tensor[:, :, :22] == 0).all()
    assert (tensor[:, :, 42:] == 0).all()


def test_golden_values(folder):
    embedding = Merlin(weights=folder, token_grid=1).encode_prepared([prepared()])[0]
    np.testing.assert_allclose(embedding.tokens[0, :4], GOLDEN, atol=1e-4)
    np.testing.assert_allclose(embedding.pooled[:4], GOLDEN, atol=1e-4)


GOLDEN = [17.4106, 1.75676, 24.43921, 1.36923]


def test_the_released_network_has_the_released_size():
    with torch.device("meta"):
        network = InflatedResNet(MerlinSizes())
    names = network.state_dict()
    assert tuple(names["conv1.weight"].shape) == (64, 3, 3, 7, 7)
    assert tuple(names["layer3.35.conv2.weight"].shape) == (256, 256, 3, 3, 3)
    assert tuple(names["layer4.0.downsample.0.weight"].shape) == (2048, 1024, 1, 1, 1)
    assert "conv1.bias" not in names
