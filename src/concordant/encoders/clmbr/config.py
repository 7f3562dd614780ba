"""What `config.json` says of a CLMBR or MOTOR checkpoint: the network's sizes and the task."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from concordant.core.errors import WeightsError

CONFIG = "config.json"
DICTIONARY = "dictionary.msgpack"
MODEL = "model.safetensors"

CLMBR = "clmbr"
MOTOR = "motor"


@dataclass(frozen=True, slots=True)
class TransformerConfig:
    """Sizes of the network, by their names in `transformer_config`, and the file's defaults.

    Attributes:
        hidden_size: Width of a hidden state.
        intermediate_size: Width of the feed-forward part.
        n_heads: Attention heads.
        n_layers: Layers.
        vocab_size: Tokens of the vocabulary.
        attention_width: Width of the attention window, in events.
        hidden_act: Activation of the feed-forward part.
        use_bias: Whether the projections have a bias.
        use_normed_ages: Whether the age takes the place of the last two channels.
        is_hierarchical: Whether an event is a weighted bag of tokens (a code and its ancestors)
            instead of one.
    """

    hidden_size: int
    intermediate_size: int
    n_heads: int
    n_layers: int
    vocab_size: int
    attention_width: int = 496
    hidden_act: Literal["gelu", "swiglu"] = "gelu"
    use_bias: bool = True
    use_normed_ages: bool = False
    is_hierarchical: bool = False

    @property
    def head_dim(self) -> int:
        """Width of an attention head."""
        return self.hidden_size // self.n_heads


@dataclass(frozen=True, slots=True)
class CheckpointConfig:
    """The whole of `config.json`.

    Attributes:
        transformer: Sizes of the network.
        task: "clmbr", "motor", or None where the checkpoint does not say.
        task_options: Options of the task, as they stand in the file.
        licence: Of weights that say so; None for the released ones.
        training_data: Names of what the weights were trained on; empty for the released ones, which
            do not say.
    """

    transformer: TransformerConfig
    task: str | None = None
    task_options: Mapping[str, Any] = field(default_factory=dict)
    licence: str | None = None
    training_data: tuple[str, ...] = ()


def read_config(path: Path) -> CheckpointConfig:
    """Read `config.json`.

    Raises:
        WeightsError: It is no JSON object, or its sizes are missing or impossible.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        given = dict(content["transformer_config"])
        task = content.get("task_config") or {}
        known = [one.name for one in fields(TransformerConfig) if one.name in given]
        transformer = TransformerConfig(**{name: given[name] for name in known})
        own = content.get("concordant") or {}
        config = CheckpointConfig(
            transformer,
            task.get("task_type"),
            task.get("task_kwargs") or {},
            own.get("licence"),
            tuple(own.get("training_data") or ()),
        )
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise WeightsError(
            f"{path}: no readable CLMBR or MOTOR configuration ({type(error).__name__}: "
            f"{str(error).partition(chr(10))[0]}); expected JSON with transformer_config and its "
            "sizes. Restore the file that came with the weights"
        ) from None
    _check(path, transformer)
    return config


def config_content(config: CheckpointConfig) -> dict[str, Any]:
    """Return the content of `config.json`, as `read_config` reads it."""
    task = {"task_type": config.task, "task_kwargs": dict(config.task_options)}
    return {
        "architectures": ["FEMRModel"],
        "task_config": None if config.task is None else task,
        "transformer_config": asdict(config.transformer),
        "concordant": {"licence": config.licence, "training_data": list(config.training_data)},
    }


def _check(path: Path, sizes: TransformerConfig) -> None:
    counts = ("hidden_size", "intermediate_size", "n_heads", "n_layers", "vocab_size")
    for name in (*counts, "attention_width"):
        value = getattr(sizes, name)
        if not isinstance(value, int) or value < 1:
            raise WeightsError(
                f"{path}: {name} is {value!r}; expected a whole number of at least 1. Restore the "
                "file of the weights"
            )
    if sizes.hidden_size % sizes.n_heads or sizes.head_dim % 2:
        raise WeightsError(
            f"{path}: hidden_size {sizes.hidden_size} does not divide into {sizes.n_heads} heads "
            "of an even width; restore the file that came with the weights"
        )
    if sizes.hidden_act not in ("gelu", "swiglu"):
        raise WeightsError(
            f"{path}: hidden_act is {sizes.hidden_act!r}; gelu and swiglu are known, so this is "
            "another network"
        )
