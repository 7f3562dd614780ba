"""The state of a run on disk, from which a stopped one goes on, and the finished checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from concordant.core.errors import ConfigError
from concordant.core.files import atomic_folder, atomic_path, differing_keys, read_json, write_json
from concordant.data.pretraining import SUBJECTS
from concordant.encoders.clmbr.checkpoint import HEAD, TRUNK
from concordant.encoders.clmbr.config import (
    CONFIG,
    DICTIONARY,
    MODEL,
    CheckpointConfig,
    config_content,
)
from concordant.encoders.clmbr.network import ClmbrNetwork
from concordant.pretrain.objectives import Head

_STATE = "resume"
_PROGRESS = "progress.json"
_TENSORS = "state.safetensors"
RECORD = "pretraining.json"
"""Options, counts, versions, and the history."""


@dataclass
class Run:
    """How far a run is.

    Attributes:
        epoch: The epoch it is in.
        batch: Batches done in it.
        step: Batches done in all.
        best: Least loss on tuning, nats per term.
        since_best: Rounds since then.
        history: One entry per round.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best: float = float("inf")
    since_best: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Trained:
    """What is trained, and its optimiser.

    Attributes:
        network: The network.
        head: The head.
        optimiser: AdamW over both.
    """

    network: ClmbrNetwork
    head: Head
    optimiser: torch.optim.Optimizer

    def parameters(self) -> dict[str, Tensor]:
        """Return the parameters under the names of a checkpoint."""
        trunk = {f"{TRUNK}{name}": value for name, value in self.network.state_dict().items()}
        return trunk | {f"{HEAD}{name}": value for name, value in self.head.state_dict().items()}


def save_state(out: Path, trained: Trained, run: Run, identity: Mapping[str, Any]) -> None:
    """Keep everything that the next batch depends on, in one rename."""
    moments = trained.optimiser.state_dict()["state"]
    tensors = trained.parameters() | {
        f"adam.{number}.{name}": value
        for number, of in moments.items()
        for name, value in of.items()
    }
    with atomic_folder(out / _STATE) as folder:
        save_file(_on_cpu(tensors), folder / _TENSORS)
        write_json(folder / _PROGRESS, {"facts": dict(identity), "run": vars(run)})


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def load_state(out: Path, trained: Trained, identity: Mapping[str, Any]) -> Run:
    """Go on from a kept state, or start where there is none.

    Raises:
        ConfigError: The state is of a run with other options or records.
    """
    path = out / _STATE / _PROGRESS
    if not path.is_file():
        return Run()
    kept = read_json(path)
    differing = differing_keys(kept["facts"], identity)
    if differing:
        raise ConfigError(
            f"{out} holds a run with other {', '.join(differing)}; give the same to go on, another "
            "folder, or --restart to begin anew"
        )
    tensors = load_file(out / _STATE / _TENSORS)
    for module, prefix in ((trained.network, TRUNK), (trained.head, HEAD)):
        own = {name: value for name, value in tensors.items() if name.startswith(prefix)}
        module.load_state_dict({name.removeprefix(prefix): own[name] for name in own})
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("adam."):
            _, number, kind = name.split(".")
            moments.setdefault(int(number), {})[kind] = value
    trained.optimiser.load_state_dict({**trained.optimiser.state_dict(), "state": moments})
    return Run(**kept["run"])


def save_checkpoint(
    out: Path, trained: Trained, config: CheckpointConfig, dictionary: Mapping[str, Any]
) -> None:
    """Write the three files that every loader of CLMBR and MOTOR reads."""
    write_json(out / CONFIG, config_content(config))
    with atomic_path(out / DICTIONARY) as path:
        path.write_bytes(msgpack.dumps(dictionary))
    with atomic_path(out / MODEL) as path:
        save_file(_on_cpu(trained.parameters()), path)


def forget(out: Path) -> None:
    """Remove the state that a run would go on from, and the list of its subjects."""
    shutil.rmtree(out / _STATE, ignore_errors=True)
    (out / SUBJECTS).unlink(missing_ok=True)
