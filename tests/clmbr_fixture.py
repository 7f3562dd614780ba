"""Folders of small random CLMBR and MOTOR weights in the released on-disk formats, so that the
real loaders read them.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import msgpack
import numpy as np
import torch
from safetensors.torch import save_file

from concordant.core.events import Events
from concordant.encoders.clmbr.config import CheckpointConfig, TransformerConfig, config_content
from concordant.encoders.clmbr.layout import NEW
from concordant.encoders.clmbr.network import AgeScale, ClmbrNetwork

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "n_heads": 4,
    "n_layers": 2,
    "attention_width": 6,
}
INF = float("inf")
FLAT = [
    {"type": "code", "code_string": "SNOMED/184099003", "weight": -1.0},
    {"type": "code", "code_string": "GENDER//F", "weight": -0.5},
    *({"type": "code", "code_string": f"LAB//{code}", "weight": -0.1} for code in range(20)),
    {"type": "numeric", "code_string": "LAB//1", "val_start": -INF, "val_end": 0.0, "weight": -0.1},
    {"type": "numeric", "code_string": "LAB//1", "val_start": 0.0, "val_end": 1.5, "weight": -0.1},
    {"type": "numeric", "code_string": "LAB//2", "val_start": -1.0, "val_end": INF, "weight": -0.1},
    {"type": "text", "code_string": "NOTE", "text_string": "smoker", "weight": -0.1},
    {"type": "unused", "weight": 0.0},
]
BAGS = [entry | ({"code_string": None} if "text_string" in entry else {}) for entry in FLAT]
AGE_SECONDS = {"mean": 40 * 365.25 * 86_400.0, "std": 20 * 365.25 * 86_400.0}


def tiny_config(*, entries=FLAT, task=None, **sizes):
    return CheckpointConfig(
        TransformerConfig(**(SIZES | {"vocab_size": len(entries)} | sizes)), task
    )


def tiny_network(config, layout=NEW, seed=0):
    scale = AgeScale(AGE_SECONDS["mean"] / 86_400, AGE_SECONDS["std"] / 86_400)
    network = ClmbrNetwork(config.transformer, layout, scale)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.named_parameters():
            drawn = torch.randn(value.shape, generator=generator)
            value.copy_(
                1 + 0.2 * drawn
                if name.endswith("norm.weight")
                else drawn * (0.2 if value.dim() == 1 else 1 / value.shape[1] ** 0.5)
            )
    return network.eval()


def released(network, layout=NEW):
    """Return a network's tensors as a released file names and orders them."""
    width = 3 * network.sizes.hidden_size
    tensors = {}
    for name, value in network.state_dict().items():
        if name == "embed.weight" and network.sizes.is_hierarchical:
            name = "embed_bag.weight"
        if layout.qkv_first and ".input_proj." in name:
            value = torch.cat([value[-width:], value[:-width]])
        if name.endswith("norm.weight"):
            name = name.removesuffix("weight") + layout.norm_key
        tensors[f"transformer.{name}"] = value.contiguous()
    return tensors


def write_clmbr(folder, *, layout=NEW, entries=FLAT, task=None, seed=0, dictionary=None, **sizes):
    """Write a folder as the released ones; other seeds give other hidden states."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = tiny_config(entries=entries, task=task, **sizes)
    content = config_content(config)
    content["transformer_config"] = {
        key: value
        for key, value in asdict(config.transformer).items()
        if key != "is_hierarchical" or value
    }
    (folder / "config.json").write_text(json.dumps(content))
    hierarchical = config.transformer.is_hierarchical
    vocabulary = (
        {"vocab": entries, "is_hierarchical": hierarchical, "age_stats": AGE_SECONDS}
        if dictionary is None
        else dictionary
    )
    (folder / "dictionary.msgpack").write_bytes(msgpack.dumps(vocabulary))
    save_file(released(tiny_network(config, layout, seed), layout), folder / "model.safetensors")
    return folder


def write_motor(folder):
    return write_clmbr(
        folder, task="motor", hidden_act="swiglu", use_bias=False, use_normed_ages=True
    )


def events(*rows):
    """Make a record of rows (days before, code, value, text), static ones first."""
    filled = [(*row, *(None,) * (4 - len(row))) for row in rows]
    return Events(
        np.array([np.nan if days is None else days for days, *_ in filled], float),
        tuple(code for _, code, _, _ in filled),
        np.array([np.nan if value is None else value for _, _, value, _ in filled], float),
        tuple(text for *_, text in filled),
    )
