"""The one way to fit: model, early stopping on tuning, view weights, baseline hazard."""

from __future__ import annotations

import math
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from concordant.core.errors import ConcordantError, ConfigError, NotApplicableError
from concordant.core.modality import Modality
from concordant.fusion import BOTH, Fusion, Phase
from concordant.model import ModelSpec, TTEModel
from concordant.training.batches import Batch, Samples
from concordant.training.calibration import calibrate
from concordant.training.early_stopping import EarlyStopping
from concordant.training.fitted import FittedModel, Predicted, evaluate
from concordant.training.gradients import backward
from concordant.training.memory import keep_freed_memory
from concordant.training.options import TrainOptions, regularisation
from concordant.training.prepare import FoldData, prepare_modality
from concordant.training.ridge import solve_ridge

__all__ = [
    "FitFailed",
    "FitRequest",
    "FittedModel",
    "Predicted",
    "fit",
    "fit_many",
    "refuse_single_key",
    "torch_device",
]


@dataclass(frozen=True, slots=True)
class FitRequest:
    """One fit.

    Attributes:
        spec: Fusion and head by name, with options.
        options: How to train.
        seed: Makes the fit deterministic on one machine.
    """

    spec: ModelSpec
    options: TrainOptions
    seed: int


@dataclass(frozen=True, slots=True)
class FitFailed:
    """Why there is no model.

    Attributes:
        reason: What to tell the user.
        expected: True where an input or option is the cause; False: a defect of the software.
        details: The traceback.
    """

    reason: str
    expected: bool
    details: str


def fit_many(data: FoldData, requests: Sequence[FitRequest]) -> tuple[FittedModel | FitFailed, ...]:
    """Fit models on the same fold: everything on train, stopping and view weights on tuning.

    Those without any modality a strategy uses are left out. One that fails does not stop the
    others.

    Args:
        data: Inputs of the fold, shared by all fits, and outcomes of train and tuning.
        requests: What to fit.
    """
    return tuple(_attempt(data, request) for request in requests)


def fit(
    train: Samples,
    tuning: Samples,
    spec: ModelSpec,
    options: TrainOptions | None = None,
    *,
    seed: int = 0,
) -> FittedModel:
    """Fit one model on samples as they leave the store: prepare them, then as `fit_many`.

    Args:
        train: Samples to learn from; those without any modality the strategy uses are left out.
        tuning: Other subjects; early stopping (or the penalty), and the weights of late fusion's
            views.
        spec: Fusion and head by name, with options.
        options: How to train.
        seed: Makes the fit deterministic on one machine.

    Raises:
        ConcordantError: No observed event in train or tuning among the samples that have a
            modality, a device that is not there, or a fit that diverged.
        NotApplicableError: Attention over a single key.
    """
    options = options or TrainOptions()
    parts = {"train": train, "tuning": tuning}
    modalities = {
        modality: prepare_modality(
            {part: samples.table(modality) for part, samples in parts.items()},
            minimum_samples=options.min_code_samples,
        )
        for modality in BOTH
    }
    targets = {part: samples.target for part, samples in parts.items()}
    subjects = {part: one.subject for part, one in parts.items() if one.subject is not None}
    return _fit(FoldData(modalities, targets, subjects), FitRequest(spec, options, seed))


def refuse_single_key(fusion: Fusion, most_tokens: Mapping[Modality, int]) -> None:
    """Raise NotApplicableError where a modality that serves as attention key has one token at
    most.
    """
    for modality in fusion.attends_to:
        if most_tokens[modality] <= 1:
            raise NotApplicableError(
                f"attention over {modality.value} needs more than one token, and its encoder gives "
                "one: a softmax over one key ignores the query. Use an encoder with token output, "
                "or concat, late or contrastive fusion"
            )


def torch_device(name: str) -> torch.device:
    """Return the device of a name; "auto" is a GPU where there is one.

    Raises:
        ConfigError: A name that torch does not know, or a GPU that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(
            f"train.device: given {name!r}, expected auto, cpu, cuda or cuda:<number>"
        ) from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"train.device: {name!r} is not there, torch sees {torch.cuda.device_count()} GPU(s); "
            "use auto or cpu"
        )
    return device


def _attempt(data: FoldData, request: FitRequest) -> FittedModel | FitFailed:
    try:
        return _fit(data, request)
    except Exception as error:  # whatever it is, the other fits go on and the study names it
        reason = str(error) or type(error).__name__
        return FitFailed(reason, isinstance(error, ConcordantError), traceback.format_exc())


def _fit(data: FoldData, request: FitRequest) -> FittedModel:
    keep_freed_memory()
    options, scaling = request.options, data.scaling
    device = torch_device(options.device)
    events = int(data.targets["train"].observed.sum())
    strength = regularisation(options, events)
    dims = {modality: one.dims for modality, one in scaling.items()}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(request.seed)
        model = TTEModel(request.spec, dims, options.width, strength.dropout).to(device)
        pair = data.pair("train")
        most = {modality: int(pair.of(modality).valid.sum(1).max()) for modality in BOTH}
        refuse_single_key(model.fusion, most)
        train, tuning = (data.batch(part, model.fusion, device) for part in ("train", "tuning"))
        history = _solve(model, train, tuning, options, strength.weight_decay)
    loss = _finish(model, train, tuning, options)
    return FittedModel(model, scaling, request.spec, options, request.seed, events, loss, history)


def _solve(
    model: TTEModel, train: Batch, tuning: Batch, options: TrainOptions, weight_decay: float
) -> list[dict[str, Any]]:
    if model.fusion.solver == "ridge":
        return [
            {"penalty": choice.penalty, "tuning_loss": choice.loss}
            for choice in solve_ridge(model, train, tuning)
        ]
    history: list[dict[str, Any]] = []
    for number, phase in enumerate(model.fusion.phases):
        history += [
            {"phase": number, **entry}
            for entry in _descend(model, train, tuning, phase, options, weight_decay)
        ]
    return history


def _descend(
    model: TTEModel,
    train: Batch,
    tuning: Batch,
    phase: Phase,
    options: TrainOptions,
    weight_decay: float,
) -> list[dict[str, Any]]:
    """Run one phase; a phase without a fixed length keeps, per view, the parameters of the epoch
    that tuning liked best.
    """
    optimiser = torch.optim.AdamW(_decay_groups(model, weight_decay), lr=options.lr)
    stopping = EarlyStopping(model, options.patience)
    history: list[dict[str, Any]] = []
    for epoch in range(phase.epochs or options.max_epochs):
        losses = None
        if phase.epochs is None and epoch >= options.min_epochs:
            losses = _tuning_losses(model, tuning, epoch, options)
            stopping.see(losses)
            if stopping.exhausted:
                break
        model.train()
        optimiser.zero_grad()
        loss = backward(model, train, phase, options.chunk_size)
        _refuse_divergence([loss], f"the training loss of epoch {epoch}", options)
        optimiser.step()
        history.append({"epoch": epoch, "train_loss": loss, "tuning_loss": losses})
    if phase.epochs is None:
        stopping.see(_tuning_losses(model, tuning, len(history), options))
        stopping.restore()
    return history


def _decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay matrices; leave biases, norms, the temperature and learned tokens (one dimension at
    most) alone.
    """
    parameters = list(model.parameters())
    decayed = [parameter for parameter in parameters if parameter.ndim > 1]
    free = [parameter for parameter in parameters if parameter.ndim <= 1]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]


def _tuning_losses(
    model: TTEModel, tuning: Batch, epoch: int, options: TrainOptions
) -> list[float]:
    """Return the negative log partial likelihood of tuning per event, for each view over the
    samples that have it.
    """
    output = evaluate(model, tuning.pair, options.chunk_size)
    found = tuning.view_losses(model.head, output.log_hazard, output.view_valid)
    losses = [float(loss) for loss in found]
    _refuse_divergence(losses, f"the tuning loss before epoch {epoch}", options)
    return losses


def _refuse_divergence(numbers: Sequence[float], what: str, options: TrainOptions) -> None:
    if not all(math.isfinite(number) for number in numbers):
        raise ConcordantError(
            f"the fit diverged: {what} is not finite. Try a lower train.lr (given {options.lr:g}) "
            "or more train.weight_decay, and look for absurd values among the features"
        )


def _finish(model: TTEModel, train: Batch, tuning: Batch, options: TrainOptions) -> float:
    """Fit view weights, the mean risk and the baseline, on the final risk; return its loss on
    tuning.
    """
    output = evaluate(model, train.pair, options.chunk_size)
    on_tuning = evaluate(model, tuning.pair, options.chunk_size)
    calibrate(model, output, on_tuning, tuning)
    risk = model.risk(output)
    loss = float(model.head.loss(model.risk(on_tuning), tuning.time, tuning.event))
    _refuse_divergence([float(risk.sum()), loss], "the final risk", options)
    model.mean_risk.copy_(risk.mean())
    model.head.fit_baseline(risk, train.time, train.event)
    return loss
