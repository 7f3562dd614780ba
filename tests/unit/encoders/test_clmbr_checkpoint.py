"""Checkpoints: both layouts, told by their keys alone.

What is another layout, network or file is refused by name.
"""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from clmbr_fixture import BAGS, released, tiny_config, tiny_network, write_clmbr
from concordant.core.errors import WeightsError
from concordant.encoders.clmbr import load_clmbr, read_checkpoint
from concordant.encoders.clmbr.config import read_config
from concordant.encoders.clmbr.layout import NEW, OLD

LAYOUTS = pytest.mark.parametrize("layout", [OLD, NEW], ids=["old", "new"])


def states(network, n=25):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 20, (1, n), generator=generator)
    with torch.no_grad():
        return network(
            tokens, torch.arange(n, dtype=torch.float32)[None], torch.ones(1, n, dtype=torch.bool)
        )


@LAYOUTS
def test_a_checkpoint_gives_the_network_it_was_written_from(tmp_path, layout):
    write_clmbr(tmp_path, layout=layout)
    loaded = load_clmbr(tmp_path)
    assert loaded.layout is layout
    assert not loaded.training
    torch.testing.assert_close(
        states(loaded), states(tiny_network(tiny_config(), layout)), atol=0, rtol=0
    )


@LAYOUTS
def test_half_precision_weights_become_float32(tmp_path, layout):
    write_clmbr(tmp_path, layout=layout)
    path = tmp_path / "model.safetensors"
    save_file({name: value.half() for name, value in load_file(path).items()}, path)
    assert {value.dtype for value in load_clmbr(tmp_path).state_dict().values()} == {torch.float32}


def test_a_hierarchical_checkpoint_has_its_own_embedding(tmp_path):
    write_clmbr(tmp_path, entries=BAGS, is_hierarchical=True)
    assert "transformer.embed_bag.weight" in load_file(tmp_path / "model.safetensors")
    assert load_clmbr(tmp_path).sizes.is_hierarchical
    config = json.loads((tmp_path / "config.json").read_text())
    config["transformer_config"]["is_hierarchical"] = False
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        WeightsError,
        match=r"1 missing \(first: embed\.weight\); 1 unexpected \(first: embed_bag\.weight\)",
    ):
        load_clmbr(tmp_path)


@LAYOUTS
def test_a_head_is_kept_apart(tmp_path, layout):
    write_clmbr(tmp_path, layout=layout)
    path = tmp_path / "model.safetensors"
    head = {
        "task_model.final_layer.weight": torch.ones(3, 32),
        "task_model.final_layer.bias": torch.zeros(3),
    }
    save_file(load_file(path) | head, path)
    checkpoint = read_checkpoint(tmp_path)
    assert sorted(checkpoint.head) == ["final_layer.bias", "final_layer.weight"]
    assert (checkpoint.layout, checkpoint.network.layout) == (layout, layout)


def test_there_is_no_way_to_choose_a_layout(tmp_path):
    write_clmbr(tmp_path, layout=OLD)
    network = tiny_network(tiny_config(), OLD)
    renamed = {
        name.replace(".scale", ".weight"): value for name, value in released(network, OLD).items()
    }
    save_file(renamed, tmp_path / "model.safetensors")
    assert (
        load_clmbr(tmp_path).layout is NEW
    )  # by its keys: a file of the old layout never has these
    half = released(network, OLD)
    half["transformer.in_norm.weight"] = half.pop("transformer.in_norm.scale")
    save_file(half, tmp_path / "model.safetensors")
    with pytest.raises(
        WeightsError,
        match=r"its norms are called scale, weight, expected `\.norm\.scale` throughout .* or "
        r"`\.norm\.weight`",
    ):
        load_clmbr(tmp_path)


def test_the_third_layout_is_refused_by_name(tmp_path):
    write_clmbr(tmp_path)
    path = tmp_path / "model.safetensors"
    save_file(
        load_file(path) | {"transformer.layers.0.hawk_module.conv_1d.b": torch.zeros(2)}, path
    )
    with pytest.raises(WeightsError, match=r"hawk_module.*femr 0\.2\.4, another architecture"):
        load_clmbr(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda given: given.pop("transformer.layers.1.output_proj.bias"),
            r"1 missing \(first: layers\.1\.output_proj\.bias\)",
        ),
        (
            lambda given: given.update({"transformer.extra": torch.zeros(1)}),
            r"1 unexpected \(first: extra\)",
        ),
        (
            lambda given: given.update({"transformer.embed.weight": torch.zeros(5, 32)}),
            r"embed\.weight is \[5, 32\], not \[27, 32\]",
        ),
        (
            lambda given: given.update({"encoder.weight": torch.zeros(1)}),
            r"1 tensor\(s\) of another network \(first: encoder\.weight\)",
        ),
        (dict.clear, "its norms are called nothing"),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path, change, message):
    write_clmbr(tmp_path)
    path = tmp_path / "model.safetensors"
    given = load_file(path)
    change(given)
    save_file(given, path)
    with pytest.raises(WeightsError, match=message):
        load_clmbr(tmp_path)


def test_pickled_weights_are_not_loaded(tmp_path):
    write_clmbr(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps({"transformer.embed.weight": 1}))
    with pytest.raises(WeightsError, match="no readable weights"):
        load_clmbr(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path, name):
    write_clmbr(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(WeightsError, match=rf"weights need the file\(s\) {name}"):
        load_clmbr(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "no readable CLMBR or MOTOR configuration"),
        ("[]", "no readable CLMBR or MOTOR configuration"),
        ("{}", "transformer_config"),
        ('{"transformer_config": {"hidden_size": 8}}', "missing 4 required"),
        ({"hidden_size": 30}, "hidden_size 30 does not divide into 4 heads"),
        ({"n_heads": 0}, "n_heads is 0; expected a whole number"),
        ({"n_layers": "2"}, "n_layers is '2'"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'; gelu and swiglu are known"),
    ],
)
def test_a_wrong_configuration_is_named(tmp_path, content, message):
    write_clmbr(tmp_path)
    path = tmp_path / "config.json"
    if isinstance(content, dict):
        given = json.loads(path.read_text())
        given["transformer_config"] |= content
        content = json.dumps(given)
    path.write_text(content)
    with pytest.raises(WeightsError, match=message):
        load_clmbr(tmp_path)


def test_what_a_configuration_leaves_out_has_its_default(tmp_path):
    given = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "n_heads": 2,
        "n_layers": 1,
        "vocab_size": 3,
        "model_type": "",
    }
    (tmp_path / "config.json").write_text(
        json.dumps({"transformer_config": given, "task_config": None})
    )
    config = read_config(tmp_path / "config.json")
    sizes = config.transformer
    assert (sizes.attention_width, sizes.hidden_act, sizes.use_bias, sizes.use_normed_ages) == (
        496,
        "gelu",
        True,
        False,
    )
    assert (config.task, config.licence) == (None, None)


def test_a_network_with_normed_ages_takes_their_scale_from_the_dictionary(tmp_path):
    write_clmbr(tmp_path, use_normed_ages=True)
    assert load_clmbr(tmp_path).age_scale.mean_days == pytest.approx(40 * 365.25)
    assert np.isfinite(states(load_clmbr(tmp_path)).numpy()).all()
    (tmp_path / "dictionary.msgpack").unlink()
    with pytest.raises(WeightsError, match=r"dictionary\.msgpack"):
        load_clmbr(tmp_path)
