"""A fitted model as files: tensors in safetensors, the rest in JSON. No pickle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from concordant.core.errors import ConfigError, StoreError
from concordant.core.files import read_json, write_json, write_text
from concordant.fusion import BOTH
from concordant.model import ModelSpec, TTEModel
from concordant.training.fitted import FittedModel
from concordant.training.options import TrainOptions, regularisation
from concordant.training.scaling_files import PlainScaling, plain, restored

FORMAT = 2


def save_fitted(fitted: FittedModel, folder: Path) -> None:
    """Write `model.safetensors` and `model.json` into a folder."""
    tensors = {
        f"model.{name}": value.detach().cpu().contiguous()
        for name, value in fitted.model.state_dict().items()
    }
    described: dict[str, Any] = {}
    for modality, scaling in fitted.scaling.items():
        stored = plain(scaling)
        described[modality.value] = stored.facts
        tensors |= {
            f"scaling.{modality.value}.{name}": torch.from_numpy(np.array(values))
            for name, values in stored.arrays.items()
        }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    facts = {
        "format": FORMAT,
        "spec": asdict(fitted.spec),
        "scaling": described,
        "options": fitted.options,
        "seed": fitted.seed,
        "events": fitted.events,
        "tuning_loss": fitted.tuning_loss,
    }
    write_json(folder / "model.json", facts)
    write_text(folder / "history.jsonl", "".join(f"{line}\n" for line in fitted.history_lines()))


def load_fitted(folder: Path) -> FittedModel:
    """Read what `save_fitted` wrote; the history stays on disk.

    Raises:
        StoreError: A missing or damaged file, one of another format, or two that do not fit each
            other.
    """
    try:
        facts = read_json(folder / "model.json")
        tensors = load_file(folder / "model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise StoreError(
            f"{folder}: no readable model ({error}); expected model.json and model.safetensors as "
            "written by a run"
        ) from None
    given = facts.get("format") if isinstance(facts, dict) else None
    if given != FORMAT:
        raise StoreError(
            f"{folder}/model.json: format {given!r}, expected {FORMAT}; fit the model again with "
            "this version"
        )
    try:
        return _rebuild(facts, tensors)
    except (ConfigError, LookupError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise StoreError(
            f"{folder}: model.json and model.safetensors do not make a model here ({reason}); fit "
            "the model again"
        ) from None


def _rebuild(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> FittedModel:
    spec, options = ModelSpec(**facts["spec"]), TrainOptions.model_validate(facts["options"])
    scaling = {}
    for modality in BOTH:
        arrays = _part(tensors, f"scaling.{modality.value}.")
        plain_arrays = {name: values.numpy() for name, values in arrays.items()}
        scaling[modality] = restored(PlainScaling(facts["scaling"][modality.value], plain_arrays))
    dropout = regularisation(options, facts["events"]).dropout
    model = TTEModel(
        spec, {modality: scaling[modality].dims for modality in BOTH}, options.width, dropout
    )
    _load(model, _part(tensors, "model."))
    seed, events, loss = (facts[name] for name in ("seed", "events", "tuning_loss"))
    return FittedModel(model.eval(), scaling, spec, options, seed, events, loss)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _load(model: TTEModel, state: Mapping[str, Tensor]) -> None:
    """Load a state; the head's buffers, such as a baseline, take the length they were saved
    with.
    """
    for name, buffer in list(model.head.named_buffers()):
        saved = state[f"head.{name}"]
        if buffer.shape != saved.shape:
            owner, _, leaf = name.rpartition(".")
            setattr(model.head.get_submodule(owner), leaf, torch.empty_like(saved))
    model.load_state_dict(dict(state))
