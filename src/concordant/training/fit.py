"""The one way to fit: scaling, model, early stopping on tuning, view weights, baseline hazard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from concordant.core.embedding import EmbeddingTable
from concordant.core.errors import ConcordantError, ConfigError, NotApplicableError
from concordant.core.modality import Modality
from concordant.core.tokens import Pair
from concordant.fusion import BOTH, Fusion, Phase
from concordant.model import ModelOutput, ModelSpec, TTEModel
from concordant.training.batches import Batch, Samples, chunk_of, make_batch, make_pair
from concordant.training.calibration import calibrate
from concordant.training.gradients import backward
from concordant.training.options import TrainOptions, regularisation
from concordant.training.ridge import solve_ridge
from concordant.training.scaling import Scaling, fit_scaling


@dataclass(frozen=True, slots=True)
class Predicted:
    """A fitted model's word on some samples.

    Attributes:
        risk: Log-hazard scale, higher = earlier event.
        known: False where the model had none of its modalities and gave train's mean risk.
    """

    risk: Float[np.ndarray, " sample"]
    known: Bool[np.ndarray, " sample"]


@dataclass(frozen=True, slots=True)
class FittedModel:
    """A model with everything that was fitted on train and tuning.

    Attributes:
        model: The network with its buffers, in evaluation mode.
        scaling: Scaling per modality.
        spec: Names and options of its parts.
        options: Training options as given.
        seed: Seed of initialisation and dropout.
        events: Observed events in train, from which "auto" options were set.
        history: One entry per epoch (or per penalty of the linear model).
    """

    model: TTEModel
    scaling: Mapping[Modality, Scaling]
    spec: ModelSpec
    options: TrainOptions
    seed: int
    events: int
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def n_parameters(self) -> int:
        """Number of trained parameters."""
        return sum(
            parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad
        )

    def history_lines(self) -> list[str]:
        """Return the history as JSON, one line per entry."""
        return [json.dumps(entry) for entry in self.history]

    def predict(self, inputs: Mapping[Modality, EmbeddingTable]) -> Predicted:
        """Return the risk of new samples; a modality that is left out is missing."""
        samples = max((len(table) for table in inputs.values()), default=0)
        tables = {
            modality: inputs.get(modality, self.scaling[modality].absent(samples))
            for modality in BOTH
        }
        device = self.model.mean_risk.device
        output = _evaluate(
            self.model, make_pair(tables, self.scaling, device), self.options.chunk_size
        )
        return Predicted(
            self.model.risk(output).cpu().numpy(), output.view_valid.any(1).cpu().numpy()
        )

    def survival(
        self, risk: Float[np.ndarray, " sample"], times: Float[np.ndarray, " time"]
    ) -> Float[np.ndarray, "sample time"]:
        """Return S(t) at times in days for risks this model gave."""
        device = self.model.mean_risk.device
        curves = self.model.head.survival(
            torch.tensor(risk, device=device),
            torch.tensor(times, dtype=torch.float64, device=device),
        )
        return np.asarray(curves.detach().cpu().numpy())


def fit(
    train: Samples,
    tuning: Samples,
    spec: ModelSpec,
    options: TrainOptions | None = None,
    *,
    seed: int = 0,
) -> FittedModel:
    """Fit a model: everything on `train`, stopping and view weights on `tuning`.

    Args:
        train: Samples to learn from; those without any modality the strategy uses are left out.
        tuning: Other subjects; early stopping (or the penalty), and the weights of late fusion's
            views.
        spec: Fusion and head by name, with options.
        options: How to train.
        seed: Makes the fit deterministic on one machine.

    Raises:
        ConcordantError: No observed event in train or tuning among the samples that have a
            modality, or a device that is not there.
        NotApplicableError: Attention over a single key.
    """
    options = options or TrainOptions()
    device = torch_device(options.device)
    scaling = {
        modality: fit_scaling(train.table(modality), minimum_samples=options.min_code_samples)
        for modality in BOTH
    }
    events = int(train.target.observed.sum())
    strength = regularisation(options, events)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        model = TTEModel(
            spec,
            {modality: scaling[modality].dims for modality in BOTH},
            options.width,
            strength.dropout,
        ).to(device)
        tokens = {modality: scaling[modality].lengths(train.table(modality)) for modality in BOTH}
        refuse_single_key(
            model.fusion,
            {modality: int(lengths.max(initial=0)) for modality, lengths in tokens.items()},
        )
        train_batch = make_batch(_usable(train, scaling, model.fusion, "train"), scaling, device)
        tuning_batch = make_batch(_usable(tuning, scaling, model.fusion, "tuning"), scaling, device)
        history = _solve(model, train_batch, tuning_batch, options, strength.weight_decay)
        _finish(model, train_batch, tuning_batch, options.chunk_size)
    return FittedModel(model, scaling, spec, options, seed, events, history)


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


def _usable(
    samples: Samples, scaling: Mapping[Modality, Scaling], fusion: Fusion, part: str
) -> Samples:
    """Keep the samples that have a token of a modality the fusion uses.

    A record of unknown codes alone has none.
    """
    known = np.any(
        [scaling[modality].lengths(samples.table(modality)) > 0 for modality in fusion.uses], axis=0
    )
    kept = samples.take(np.flatnonzero(known))
    if not kept.target.observed.any():
        raise ConcordantError(
            f"{part} has no observed event (event = 1) among its {len(kept)} samples with "
            f"{' or '.join(fusion.uses)}; a model cannot be fitted. Check the event column and the "
            "split"
        )
    return kept


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
    keeper = _BestViews(model, options.patience)
    history: list[dict[str, Any]] = []
    for epoch in range(phase.epochs or options.max_epochs):
        losses = None
        if phase.epochs is None and epoch >= options.min_epochs:
            losses = _tuning_losses(model, tuning, options.chunk_size)
            keeper.see(losses)
            if keeper.exhausted:
                break
        model.train()
        optimiser.zero_grad()
        loss = backward(model, train, phase, options.chunk_size)
        optimiser.step()
        history.append({"epoch": epoch, "train_loss": loss, "tuning_loss": losses})
    if phase.epochs is None:
        keeper.see(_tuning_losses(model, tuning, options.chunk_size))
        keeper.restore()
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


class _BestViews:
    """Remembers, per view, the parameters of its best epoch.

    Views are independent models and stop at their own time.
    """

    def __init__(self, model: TTEModel, patience: int) -> None:
        views = len(model.fusion.view_modalities)
        self._model = model
        self._patience = patience
        self._best = [float("inf")] * views
        self._since = [0] * views
        self._state: list[dict[str, Tensor]] = [{} for _ in range(views)]

    def see(self, losses: list[float]) -> None:
        parameters = dict(self._model.named_parameters())
        for view, loss in enumerate(losses):
            if self._since[view] >= self._patience:
                continue  # it has stopped; that another view goes on must not give it more epochs
            self._since[view] += 1
            if loss < self._best[view]:
                self._best[view], self._since[view] = loss, 0
                self._state[view] = {
                    name: parameters[name].detach().clone()
                    for name in self._model.view_parameters(view)
                }

    @property
    def exhausted(self) -> bool:
        return all(since >= self._patience for since in self._since)

    def restore(self) -> None:
        for state in self._state:
            self._model.load_state_dict(state, strict=False)


def _tuning_losses(model: TTEModel, tuning: Batch, chunk_size: int | None) -> list[float]:
    """Return the negative log partial likelihood of tuning per event, for each view over the
    samples that have it.
    """
    output = _evaluate(model, tuning.pair, chunk_size)
    hazard, valid = output.log_hazard, output.view_valid
    return [
        float(model.head.loss(hazard[:, view], tuning.time, tuning.event, valid[:, view]))
        for view in range(hazard.shape[1])
    ]


def _evaluate(model: TTEModel, pair: Pair, chunk_size: int | None) -> ModelOutput:
    """Run a model without dropout or gradient, in chunks if asked."""
    model.eval()
    size = len(pair.ct.valid)
    with torch.no_grad():
        if chunk_size is None or size <= chunk_size:
            output: ModelOutput = model(pair)
            return output
        outputs = [
            model(chunk_of(pair, slice(start, start + chunk_size)))
            for start in range(0, size, chunk_size)
        ]
    return ModelOutput(
        torch.cat([one.log_hazard for one in outputs]),
        torch.cat([one.view_valid for one in outputs]),
        None,
        None,
    )


def _finish(model: TTEModel, train: Batch, tuning: Batch, chunk_size: int | None) -> None:
    """Fit view weights, the mean risk and the baseline, on the final risk."""
    output = _evaluate(model, train.pair, chunk_size)
    calibrate(model, output, _evaluate(model, tuning.pair, chunk_size), tuning)
    risk = model.risk(output)
    model.mean_risk.copy_(risk.mean())
    model.head.fit_baseline(risk, train.time, train.event)
