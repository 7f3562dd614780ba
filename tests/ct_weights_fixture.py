"""Folders of small random weights in the released on-disk formats, so that the real loaders read
them.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file

from concordant.encoders.colipri import ColipriNetwork, ColipriSizes
from concordant.encoders.ctfm import CTFMSizes, SegResEncoder
from concordant.encoders.merlin import InflatedResNet, MerlinSizes
from concordant.encoders.tiny_ct import TinyCTNetwork, TinyCTSizes

COLIPRI = ColipriSizes(input_size=32, patch=8, width=72, depth=2, heads=12, hidden=96, projected=24)
CTFM = CTFMSizes(init_filters=4, blocks_down=(1, 1, 2), patch=(8, 16, 16), extent=(3, 2, 2))
MERLIN = MerlinSizes(blocks=(1, 1, 2, 1), width=4, input_size=(32, 64, 64))


def randomise(network, seed=0):
    """Draw every tensor of a network, those of normalisations too, so that no part of it passes
    its input on unchanged.
    """
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, value in network.state_dict().items():
        drawn = torch.randn(value.shape, generator=generator)
        if not value.is_floating_point():
            state[key] = torch.tensor(7, dtype=value.dtype)
        elif key.endswith("running_var"):
            state[key] = drawn.square() + 0.5
        elif value.dim() > 1 and len(value) > 1:
            state[key] = drawn * 1.5 / value[0].numel() ** 0.5
        else:
            state[key] = drawn * 0.2 + (1.0 if key.endswith("weight") else 0.0)
    network.load_state_dict(state)
    return network.eval()


def _folder(folder, sizes):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(asdict(sizes)))
    return folder


def write_tiny_ct(folder, seed=0, **sizes):
    """Write a folder of `tiny_ct` weights; other seeds give other tokens."""
    chosen = TinyCTSizes(**sizes)
    folder = _folder(folder, chosen)
    save_file(randomise(TinyCTNetwork(chosen), seed).state_dict(), folder / "model.safetensors")
    return folder


def write_colipri(folder, seed=0, sizes=COLIPRI):
    """Write a folder as microsoft/colipri, with a text encoder beside the image encoder."""
    folder = _folder(folder, sizes)
    image = randomise(ColipriNetwork(sizes), seed).state_dict()
    text = {
        "text_encoder.backbone.embeddings.weight": torch.zeros(5, 4),
        "softmax_temperature": torch.tensor(0.07),
    }
    save_file(
        {**{f"image_encoder.{key}": value for key, value in image.items()}, **text},
        folder / "model.safetensors",
    )
    return folder


def write_ctfm(folder, seed=0, sizes=CTFM):
    """Write a folder as project-lighter/ct_fm_feature_extractor.

    Its own `config.json` has more keys than are read.
    """
    folder = _folder(folder, sizes)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"spatial_dims": 3, "in_channels": 1, **config}))
    save_file(
        randomise(SegResEncoder(sizes.init_filters, sizes.blocks_down), seed).state_dict(),
        folder / "model.safetensors",
    )
    return folder


MERLIN_FILE = "i3_resnet_clinical_longformer_best_clip_04-02-2024_23-21-36_epoch_99.pt"
MERLIN_FIVE_YEAR_FILE = "resnet_clinical_longformer_five_year_disease_prediction.pt"


def write_merlin(folder, seed=0, sizes=MERLIN, five_year=False):
    """Write a folder as stanfordmimi/Merlin.

    Image and text encoder and the image encoder's heads in one file of tensors.

    The five-year checkpoint holds the image encoder and its heads alone, and its names have no
    prefix.
    """
    folder = _folder(folder, sizes)
    image = randomise(InflatedResNet(sizes), seed).state_dict()
    heads = {
        f"{head}.weight": torch.zeros(3, sizes.features, 1, 1, 1)
        for head in ("classifier", "contrastive_head")
    }
    if five_year:
        torch.save({**image, **heads}, folder / MERLIN_FIVE_YEAR_FILE)
    else:
        text = {"encode_text.linear_layer.bias": torch.zeros(4), "logit_scale": torch.tensor(1.0)}
        torch.save(
            {
                **{
                    f"encode_image.i3_resnet.{key}": value
                    for key, value in {**image, **heads}.items()
                },
                **text,
            },
            folder / MERLIN_FILE,
        )
    return folder
