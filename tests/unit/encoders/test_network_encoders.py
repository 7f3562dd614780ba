"""What all encoders with a network share, tried with the smallest one, and errors of loading,
tried with each.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import ct_weights_fixture as fixture
from concordant.core.errors import ConfigError, WeightsError
from concordant.core.volume import StoredVolume, Volume
from concordant.encoders.base import ENCODERS
from concordant.encoders.network import Prepared, pool_grid, tokens_in
from concordant.encoders.tiny_ct import TinyCT, TinyCTNetwork

WRITERS = {
    "tiny_ct": fixture.write_tiny_ct,
    "colipri": fixture.write_colipri,
    "ctfm": fixture.write_ctfm,
    "merlin": fixture.write_merlin,
}


def scans(n=5):
    generator = np.random.default_rng(0)
    return [
        Volume(
            generator.normal(0, 300, (20, 24, 28)).astype(np.float32),
            tuple(generator.uniform(3, 9, 3).tolist()),
        )
        for _ in range(n)
    ]


def assert_same(one, other, tolerance=1e-5):
    np.testing.assert_allclose(one.tokens, other.tokens, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(one.pooled, other.pooled, rtol=tolerance, atol=tolerance)


def test_the_halves_make_the_whole_whatever_the_batches(tmp_path):
    fixture.write_tiny_ct(tmp_path)
    volumes = scans()
    whole = TinyCT(weights=tmp_path).encode(volumes)
    halves = TinyCT(weights=tmp_path, batch_size=2)
    for one, other in zip(
        whole, halves.encode_prepared([halves.prepare(volume) for volume in volumes]), strict=True
    ):
        assert_same(one, other)


def test_tokens_are_what_the_network_says(tmp_path):
    fixture.write_tiny_ct(tmp_path, width=8)
    volume = scans(1)[0]
    encoder = TinyCT(weights=tmp_path)
    network = TinyCTNetwork(encoder.sizes)
    network.load_state_dict(load_file(tmp_path / "model.safetensors"))
    with torch.no_grad():
        grid = network(torch.from_numpy(encoder.prepare(volume).voxels)[None, None])[0].numpy()
    embedding = encoder.encode([volume])[0]
    np.testing.assert_allclose(embedding.tokens, grid.reshape(8, -1).T, atol=1e-6)
    np.testing.assert_allclose(embedding.pooled, grid.mean((1, 2, 3)), atol=1e-6)


def test_a_scan_as_stored_is_prepared_like_one_in_hounsfield_units(tmp_path):
    fixture.write_tiny_ct(tmp_path)
    stored = StoredVolume(
        np.random.default_rng(0).integers(0, 3000, (12, 30, 30)).astype(np.int16),
        1.0,
        -1024.0,
        (5.0, 4.0, 4.0),
    )
    encoder = TinyCT(weights=tmp_path)
    np.testing.assert_allclose(
        encoder.prepare(stored).voxels, encoder.prepare(stored.to_volume()).voxels, atol=1e-6
    )


def test_scans_of_several_sizes_come_back_in_order(tmp_path):
    fixture.write_tiny_ct(tmp_path)
    generator = np.random.default_rng(0)
    prepared = [
        Prepared(generator.normal(size=(side,) * 3).astype(np.float32))
        for side in (16, 16, 24, 16, 24, 24)
    ]
    encoder = TinyCT(weights=tmp_path, batch_size=2)
    together = encoder.encode_prepared(prepared)
    assert [len(one.tokens) for one in together] == [8, 8, 27, 8, 27, 27]
    for one, alone in zip(together, prepared, strict=True):
        assert_same(one, encoder.encode_prepared([alone])[0])


def test_preparing_needs_no_weights(tmp_path):
    assert TinyCT(weights=tmp_path / "absent").prepare(scans(1)[0]).voxels.shape == (48, 48, 48)


@pytest.mark.parametrize("name", WRITERS)
def test_encoder_and_prepared_scan_can_be_sent_without_the_network(tmp_path, name):
    WRITERS[name](tmp_path)
    encoder = ENCODERS.create(name, weights=tmp_path)
    volume = scans(1)[0]
    encoder.encode([volume])
    # what this test made itself
    sent, prepared = pickle.loads(pickle.dumps((encoder, encoder.prepare(volume))))  # noqa: S301
    assert len(pickle.dumps(encoder)) < 5_000
    assert_same(sent.encode_prepared([prepared])[0], encoder.encode([volume])[0], tolerance=0)


def test_weights_are_loaded_once_until_they_change(tmp_path, monkeypatch):
    fixture.write_tiny_ct(tmp_path, seed=1)
    loads = []
    load = TinyCT.load
    monkeypatch.setattr(
        TinyCT, "load", staticmethod(lambda *given: loads.append(given) or load(*given))
    )
    volume = scans(1)[0]
    first = [TinyCT(weights=tmp_path).encode([volume])[0] for _ in range(3)]
    assert len(loads) == 1
    fixture.write_tiny_ct(tmp_path, seed=2)
    other = TinyCT(weights=tmp_path).encode([volume])[0]
    assert len(loads) == 2
    assert np.abs(first[0].tokens - other.tokens).max() > 0.1
    assert TinyCT(weights=tmp_path).weights_digest == TinyCT(weights=tmp_path).weights_digest


def test_pooling_a_grid_averages_over_boxes():
    grid = torch.randn(2, 3, 6, 4, 2, generator=torch.Generator().manual_seed(0))
    tokens = pool_grid(grid, 3)
    assert tokens.shape == (2, 3 * 3 * 2, 3)
    np.testing.assert_allclose(tokens[1, 0], grid[1, :, :2, :2, :1].mean((1, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(tokens[1, -1], grid[1, :, 4:, 2:, 1:].mean((1, 2, 3)), atol=1e-6)
    assert tokens_in((6, 4, 2), 3) == 18
    assert torch.equal(pool_grid(grid, None), grid.flatten(2).transpose(1, 2))
    assert tokens_in((6, 4, 2), None) == 48


@pytest.mark.parametrize("name", WRITERS)
def test_the_card_declares_the_pooled_grid(tmp_path, name):
    WRITERS[name](tmp_path)
    for token_grid in (1, 2, None):
        encoder = ENCODERS.create(name, weights=tmp_path, token_grid=token_grid)
        large = Volume(
            np.random.default_rng(0).normal(0, 300, (60, 70, 80)).astype(np.float32),
            (6.0, 5.0, 5.0),
        )
        embedding = encoder.encode([large])[0]
        assert embedding.tokens.shape == (encoder.card.max_tokens, encoder.card.token_dim)
        assert embedding.tokens.dtype == embedding.pooled.dtype == np.float32


@pytest.mark.parametrize(
    ("name", "tokens", "token_dim", "pooled_dim", "licence"),
    [
        ("colipri", 216, 768, 768, "MIT"),
        ("ctfm", 216, 512, 512, "Apache-2.0"),
        ("merlin", 490, 2048, 2048, "MIT"),
    ],
)
def test_the_released_networks_declare_their_sizes_before_their_weights_are_there(
    tmp_path, name, tokens, token_dim, pooled_dim, licence
):
    card = ENCODERS.create(name, weights=tmp_path / "absent").card
    assert (card.max_tokens, card.token_dim, card.pooled_dim, card.licence) == (
        tokens,
        token_dim,
        pooled_dim,
        licence,
    )
    assert card.training_data


@pytest.mark.parametrize("name", WRITERS)
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(WeightsError, match=str(tmp_path)):
        ENCODERS.create(name, weights=tmp_path).encode(scans(1))


@pytest.mark.parametrize("name", ["colipri", "ctfm", "merlin"])
def test_weights_of_other_sizes_are_refused(tmp_path, name):
    WRITERS[name](tmp_path)
    (tmp_path / "config.json").unlink()
    encoder = ENCODERS.create(name, weights=tmp_path)
    with pytest.raises(WeightsError, match=r"not the weights of this network: .*of another shape"):
        encoder.encode_prepared([Prepared(np.zeros((32, 32, 32), np.float32))])


@pytest.mark.parametrize(
    ("name", "other"), [("colipri", "ctfm"), ("ctfm", "tiny_ct"), ("tiny_ct", "colipri")]
)
def test_weights_of_another_network_are_refused(tmp_path, name, other):
    WRITERS[other](tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"not the weights of this network: .*missing"):
        ENCODERS.create(name, weights=tmp_path).encode_prepared(
            [Prepared(np.zeros((32, 32, 32), np.float32))]
        )


def test_a_tensor_too_many_is_refused(tmp_path):
    fixture.write_tiny_ct(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({**tensors, "further.weight": torch.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"1 unexpected \(first: further\.weight\)"):
        TinyCT(weights=tmp_path).encode(scans(1))


class Malicious:
    def __reduce__(self):
        return print, ("this must not run",)


@pytest.mark.parametrize("name", WRITERS)
def test_a_pickle_is_refused_and_does_not_run(tmp_path, name, capsys):
    WRITERS[name](tmp_path)
    encoder = ENCODERS.create(name, weights=tmp_path)
    torch.save({"conv1.weight": Malicious()}, tmp_path / encoder.files[0])
    with pytest.raises(WeightsError, match=str(tmp_path)):
        encoder.encode(scans(1))
    assert "must not run" not in capsys.readouterr().out


def test_a_truncated_file_is_refused(tmp_path):
    fixture.write_tiny_ct(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=str(path)):
        TinyCT(weights=tmp_path).encode(scans(1))


def test_a_broken_config_is_refused(tmp_path):
    fixture.write_tiny_ct(tmp_path)
    (tmp_path / "config.json").write_text("[1, 2")
    with pytest.raises(ConfigError, match=r"config\.json is no JSON object"):
        TinyCT(weights=tmp_path)


@pytest.mark.parametrize("wrong", [0, -8, "48", [48], True, None, 48.5])
def test_a_size_that_is_none_is_refused(tmp_path, wrong):
    (tmp_path / "config.json").write_text(json.dumps({"input_size": wrong}))
    with pytest.raises(
        ConfigError, match=r"config\.json: input_size is .*, expected numbers above 0 such as 48"
    ):
        TinyCT(weights=tmp_path)


def test_a_folder_may_be_text(tmp_path):
    fixture.write_tiny_ct(tmp_path, width=8)
    assert TinyCT(weights=str(tmp_path)).sizes.width == 8
    assert len(TinyCT(weights=str(tmp_path)).encode(scans(1))[0].pooled) == 8


def test_sizes_count_in_the_digest(tmp_path):
    fixture.write_tiny_ct(tmp_path)
    before = TinyCT(weights=tmp_path).weights_digest
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "spacing_mm": 6.0}))
    assert TinyCT(weights=tmp_path).weights_digest != before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_refused(tmp_path):
    fixture.write_tiny_ct(tmp_path)
    with pytest.raises(ConfigError, match="option device: 'cuda' given, but there is no GPU here"):
        TinyCT(weights=tmp_path, device="cuda").encode(scans(1))


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"token_grid": 0}])
@pytest.mark.parametrize("name", WRITERS)
def test_options_without_sense_are_refused(tmp_path, name, options):
    with pytest.raises(ConfigError, match=f"option {next(iter(options))}: 0 given"):
        ENCODERS.create(name, weights=tmp_path, **options)


def test_half_precision_weights_are_computed_with_in_full(tmp_path):
    fixture.write_tiny_ct(tmp_path)
    path = tmp_path / "model.safetensors"
    halves = {key: value.half() for key, value in load_file(path).items()}
    save_file(halves, path)
    half = TinyCT(weights=tmp_path).encode(scans(1))[0]
    save_file({key: value.float() for key, value in halves.items()}, path)
    assert_same(half, TinyCT(weights=tmp_path).encode(scans(1))[0], tolerance=0)


def test_no_upstream_package_is_imported():
    code = (
        "import sys, concordant.encoders; print([name for name in ('monai', 'timm', 'torchvision', "
        "'torchio') if name in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


def test_config_json_of_the_released_ctfm_is_understood(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"blocks_down": [1, 2, 2, 4, 4], "init_filters": 32, "in_channels": 1})
    )
    assert (
        ENCODERS.create("ctfm", weights=tmp_path).sizes
        == ENCODERS.create("ctfm", weights=tmp_path / "absent").sizes
    )
