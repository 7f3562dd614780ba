"""Checkpoints of CLMBR and MOTOR on disk: config, tensors and the tokeniser's dictionary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from concordant.core.errors import WeightsError
from concordant.encoders.clmbr.config import (
    CONFIG,
    DICTIONARY,
    MODEL,
    CheckpointConfig,
    read_config,
)
from concordant.encoders.clmbr.layout import Layout, layout_of, to_new
from concordant.encoders.clmbr.network import AgeScale, ClmbrNetwork
from concordant.encoders.clmbr.vocabulary import read_dictionary
from concordant.encoders.weights import WeightsFolder, check_shapes, open_weights, read_tensors

TRUNK = "transformer."
HEAD = "task_model."
_BAG = "embed_bag.weight"
_TOKEN = "embed.weight"  # noqa: S105  # the name of a tensor, no secret


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint, read.

    Attributes:
        config: Its `config.json`.
        layout: Its layout, told by the names of its tensors.
        network: The network with its weights, float32, in evaluation mode.
        head: Tensors of the task that it was trained for, by their names without the prefix
            `task_model`.
    """

    config: CheckpointConfig
    layout: Layout
    network: ClmbrNetwork
    head: Mapping[str, Tensor]


def load_clmbr(folder: Path | str) -> ClmbrNetwork:
    """Load the network of a CLMBR or MOTOR checkpoint, in whichever of the two layouts it has.

    Args:
        folder: The folder with `config.json` and `model.safetensors` (and `dictionary.msgpack`,
            where the age is a channel of its own), or `hf:OWNER/NAME@REVISION`.

    Returns:
        A module: `forward(tokens, age_days, valid)`, int64 (batch, event), float32 days (batch,
        event), bool (batch, event), to hidden states (batch, event, dim).

    Raises:
        WeightsError: A file is missing or damaged, holds another network, or has a layout that is
            not read.
    """
    return read_checkpoint(folder).network


def read_checkpoint(folder: Path | str) -> Checkpoint:
    """Read a checkpoint with what it holds besides the network.

    Raises:
        WeightsError: As for `load_clmbr`.
    """
    config = read_config(open_weights(folder, files=(CONFIG,)).path(CONFIG))
    files = open_weights(
        folder,
        files=(CONFIG, MODEL, *((DICTIONARY,) if config.transformer.use_normed_ages else ())),
    )
    path = files.path(MODEL)
    tensors = read_tensors(path)
    layout = layout_of(path, tensors)
    strange = [name for name in tensors if not name.startswith((TRUNK, HEAD))]
    if strange:
        raise WeightsError(
            f"{path}: {len(strange)} tensor(s) of another network (first: {strange[0]}). Check "
            "which model the folder holds"
        )
    network = _filled(path, config, layout, _part(tensors, TRUNK), _age_scale(files, config))
    return Checkpoint(config, layout, network, _part(tensors, HEAD))


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _age_scale(files: WeightsFolder, config: CheckpointConfig) -> AgeScale | None:
    return (
        read_dictionary(files.path(DICTIONARY)).age_scale
        if config.transformer.use_normed_ages
        else None
    )


def _filled(
    path: Path,
    config: CheckpointConfig,
    layout: Layout,
    given: Mapping[str, Tensor],
    age_scale: AgeScale | None,
) -> ClmbrNetwork:
    sizes = config.transformer
    with torch.device("meta"):
        network = ClmbrNetwork(sizes, layout, age_scale)
    embedding = _BAG if sizes.is_hierarchical else _TOKEN
    as_in_file = {
        name: value.shape for name, value in network.state_dict().items() if name != _TOKEN
    }
    expected = {_old_name(name, layout): shape for name, shape in as_in_file.items()}
    check_shapes(path, expected | {embedding: (sizes.vocab_size, sizes.hidden_size)}, given)
    state = to_new(given, layout, sizes.hidden_size)
    state[_TOKEN] = state.pop(embedding)
    network.load_state_dict({name: value.float() for name, value in state.items()}, assign=True)
    return network.eval()


def _old_name(name: str, layout: Layout) -> str:
    return (
        f"{name.removesuffix('.weight')}.{layout.norm_key}"
        if name.endswith("norm.weight")
        else name
    )
