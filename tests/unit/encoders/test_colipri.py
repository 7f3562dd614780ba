"""COLIPRI's network against a slow reference, and golden values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import ct_weights_fixture as fixture
from concordant.core.errors import ConfigError
from concordant.core.volume import Volume
from concordant.encoders.colipri import Colipri, ColipriNetwork, ColipriSizes, rotary_angles, rotate
from concordant.encoders.network import Prepared


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fixture.write_colipri(tmp_path_factory.mktemp("colipri"))


def prepared(seed=0, side=32):
    return Prepared(np.random.default_rng(seed).uniform(-1, 1, (side,) * 3).astype(np.float32))


def norm(values, tensors, name):
    mean, variance = values.mean(-1, keepdims=True), values.var(-1, keepdims=True)
    return (values - mean) / np.sqrt(variance + 1e-5) * tensors[f"{name}.weight"] + tensors[
        f"{name}.bias"
    ]


def linear(values, tensors, name):
    return values @ tensors[f"{name}.weight"].T + tensors.get(f"{name}.bias", 0)


def softmax(values):
    powers = np.exp(values - values.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def turned(vector, place):
    """Rotate one head's vector at one place.

    A third of its pairs for each axis, at 10000^(-i / bands).
    """
    pairs = vector.reshape(3, -1, 2)
    result = np.empty_like(pairs)
    for axis in range(3):
        for band in range(pairs.shape[1]):
            angle = place[axis] * 10_000 ** (-band / pairs.shape[1])
            first, second = pairs[axis, band]
            result[axis, band] = (
                first * math.cos(angle) - second * math.sin(angle),
                second * math.cos(angle) + first * math.sin(angle),
            )
    return result.ravel()


def reference_tokens(voxels, tensors, sizes):
    """Run the network token by token and head by head, in float64."""
    side, patch = sizes.input_size // sizes.patch, sizes.patch
    places = list(np.ndindex(side, side, side))
    kernel = tensors["backbone.down_projection.proj.weight"].reshape(sizes.width, -1)
    cut = [
        voxels[tuple(slice(at * patch, (at + 1) * patch) for at in place)].ravel()
        for place in places
    ]
    tokens = np.stack(cut) @ kernel.T + tensors["backbone.down_projection.proj.bias"]
    for depth in range(sizes.depth):
        name = f"backbone.eva.blocks.{depth}"
        inner = norm(tokens, tensors, f"{name}.norm1")
        query, key, value = (linear(inner, tensors, f"{name}.attn.{part}_proj") for part in "qkv")
        width, mixed = sizes.width // sizes.heads, np.empty_like(inner)
        for head in range(sizes.heads):
            part = slice(head * width, (head + 1) * width)
            queries, keys = (
                np.stack(
                    [turned(row[part], place) for row, place in zip(many, places, strict=True)]
                )
                for many in (query, key)
            )
            mixed[:, part] = softmax(queries @ keys.T / math.sqrt(width)) @ value[:, part]
        tokens = tokens + tensors[f"{name}.gamma_1"] * linear(
            norm(mixed, tensors, f"{name}.attn.norm"), tensors, f"{name}.attn.proj"
        )
        inner = norm(tokens, tensors, f"{name}.norm2")
        gate = linear(inner, tensors, f"{name}.mlp.fc1_g")
        gated = gate / (1 + np.exp(-gate)) * linear(inner, tensors, f"{name}.mlp.fc1_x")
        tokens = tokens + tensors[f"{name}.gamma_2"] * linear(
            norm(gated, tensors, f"{name}.mlp.norm"), tensors, f"{name}.mlp.fc2"
        )
    return norm(tokens, tensors, "backbone.eva.norm")


def reference_pooled(tokens, tensors, heads):
    """Attend from the mean token to all, head by head."""
    projected = (
        tokens @ tensors["projector.weight"].reshape(len(tensors["projector.bias"]), -1).T
        + tensors["projector.bias"]
    )
    width = projected.shape[1]
    weights, biases = tensors["pooler.attn.in_proj_weight"], tensors["pooler.attn.in_proj_bias"]
    query, key, value = (
        rows @ weights[at * width : (at + 1) * width].T + biases[at * width : (at + 1) * width]
        for at, rows in enumerate((projected.mean(0, keepdims=True), projected, projected))
    )
    mixed = np.empty((1, width))
    for part in np.split(np.arange(width), heads):
        mixed[:, part] = (
            softmax(query[:, part] @ key[:, part].T / math.sqrt(len(part))) @ value[:, part]
        )
    return linear(mixed, tensors, "pooler.attn.out_proj")[0]


def test_tokens_and_pooled_vector_equal_a_slow_reference(folder):
    loaded = load_file(folder / "model.safetensors")
    tensors = {
        key.removeprefix("image_encoder."): value.double().numpy()
        for key, value in loaded.items()
        if "text" not in key
    }
    scan = prepared()
    embedding = Colipri(weights=folder, tokens="raw", token_grid=None).encode_prepared([scan])[0]
    tokens = reference_tokens(scan.voxels.astype(np.float64), tensors, fixture.COLIPRI)
    np.testing.assert_allclose(embedding.tokens, tokens, atol=2e-5 * np.abs(tokens).max())
    pooled = reference_pooled(tokens, tensors, fixture.COLIPRI.heads)
    np.testing.assert_allclose(embedding.pooled, pooled, atol=2e-5 * np.abs(pooled).max())


def test_golden_values(folder):
    embedding = Colipri(weights=folder, token_grid=2).encode_prepared([prepared()])[0]
    np.testing.assert_allclose(embedding.tokens[:2, :3], GOLDEN_TOKENS, atol=1e-4)
    np.testing.assert_allclose(embedding.pooled[:4], GOLDEN_POOLED, atol=1e-4)


GOLDEN_TOKENS = [[0.90813, 3.52114, 1.11327], [-1.75791, 1.22003, 2.19352]]
GOLDEN_POOLED = [-3.99468, 2.44436, 1.7165, 1.0291]


def test_a_projected_token_is_what_the_pooler_makes_of_it_alone():
    sizes = fixture.COLIPRI
    network = fixture.randomise(ColipriNetwork(sizes))
    tokens = torch.randn(5, sizes.width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        alone = [network.pool(token.reshape(1, sizes.width, 1, 1, 1))[0] for token in tokens]
        np.testing.assert_allclose(network.project(tokens[None])[0], torch.stack(alone), atol=1e-5)


@pytest.mark.parametrize("token_grid", [1, 2, 3])
def test_averaging_before_projecting_equals_averaging_after(folder, token_grid):
    scan = prepared()
    pooled = Colipri(weights=folder, token_grid=token_grid).encode_prepared([scan])[0].tokens
    full = Colipri(weights=folder, token_grid=None).encode_prepared([scan])[0].tokens
    grid = torch.from_numpy(full).T.reshape(1, -1, 4, 4, 4)
    after = torch.nn.functional.adaptive_avg_pool3d(grid, token_grid).flatten(2)[0].T
    np.testing.assert_allclose(pooled, after, atol=1e-5)


def test_rotation_depends_on_distance_alone():
    angles = rotary_angles(torch.Size((3, 4, 5)), 12, torch.device("cpu"))
    assert angles.shape == (60, 6)
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, 12, generator=generator)
    turned_query, turned_key = (
        rotate(one.expand(1, 1, 60, 12), angles.cos(), angles.sin())[0, 0] for one in (query, key)
    )
    products = (turned_query @ turned_key.T).reshape(3, 4, 5, 3, 4, 5)
    np.testing.assert_allclose(products[0, 1, 1, 1, 2, 3], products[1, 2, 2, 2, 3, 4], atol=1e-5)
    assert abs(products[0, 0, 0, 1, 0, 0] - products[0, 0, 0, 0, 1, 0]) > 1e-3


def test_the_first_axis_of_the_input_runs_to_the_right(folder):
    voxels = np.full((20, 24, 28), -1000.0, np.float32)
    voxels[:, :, -2:] = 1000.0
    tensor = Colipri(weights=folder).prepare(Volume(voxels, (2.0, 2.0, 2.0))).voxels
    assert tensor.shape == (32, 32, 32)
    assert (tensor[28:30, 4:28, 6:26] == 1).all()
    assert (tensor[:28] == -1).all()


def test_the_released_network_has_the_released_size():
    with torch.device("meta"):
        network = ColipriNetwork(ColipriSizes())
    assert round(sum(one.numel() for one in network.parameters()) / 1e6, 1) == 147.1
    names = network.state_dict().keys()
    assert {
        "backbone.mask_token",
        "backbone.eva.blocks.15.attn.q_proj.bias",
        "pooler.attn.out_proj.weight",
    } <= names
    assert "backbone.eva.blocks.0.attn.k_proj.bias" not in names


@pytest.mark.parametrize("wrong", [{"width": 70}, {"projected": 25}, {"input_size": 30}])
def test_sizes_that_do_not_fit_together_are_refused(wrong):
    with pytest.raises(ConfigError, match=r"restore the config\.json"):
        ColipriNetwork(ColipriSizes(**wrong))
