"""A fitted model: what it holds, and what it says of samples."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from concordant.core.embedding import EmbeddingTable
from concordant.core.modality import Modality
from concordant.core.tokens import Pair
from concordant.fusion import BOTH
from concordant.model import ModelOutput, ModelSpec, TTEModel
from concordant.training.options import TrainOptions
from concordant.training.prepare import FoldData
from concordant.training.scaling import Scaling

_SAMPLES_AT_ONCE = 512
"""Samples predicted at once: small enough for a processor's cache, and memory stays small."""


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
        tuning_loss: The head's loss of the final risk on tuning, per event.
        history: One entry per epoch (or per penalty of the linear model).
    """

    model: TTEModel
    scaling: Mapping[Modality, Scaling]
    spec: ModelSpec
    options: TrainOptions
    seed: int
    events: int
    tuning_loss: float
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def n_parameters(self) -> int:
        """Number of trained parameters."""
        return sum(one.numel() for one in self.model.parameters() if one.requires_grad)

    def history_lines(self) -> list[str]:
        """Return the history as JSON, one line per entry."""
        return [json.dumps(entry) for entry in self.history]

    def pair(self, inputs: Mapping[Modality, EmbeddingTable]) -> Pair:
        """Return new samples as the model takes them; a modality that is left out is missing."""
        samples = max((len(table) for table in inputs.values()), default=0)
        ct, ehr = (
            self.scaling[modality].apply(
                inputs.get(modality, self.scaling[modality].absent(samples))
            )
            for modality in BOTH
        )
        return Pair(ct, ehr)

    def predict(self, inputs: Mapping[Modality, EmbeddingTable]) -> Predicted:
        """Return the risk of new samples; a modality that is left out is missing."""
        return self._predict(self.pair(inputs))

    def predict_part(self, data: FoldData, part: str) -> Predicted:
        """Return the risk of a part of prepared data, the model's own fold."""
        return self._predict(data.pair(part))

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

    def _predict(self, pair: Pair) -> Predicted:
        output = evaluate(self.model, pair, self.options.chunk_size)
        risk = self.model.risk(output).cpu().numpy()
        return Predicted(risk, output.view_valid.any(1).cpu().numpy())


def evaluate(model: TTEModel, pair: Pair, chunk_size: int | None) -> ModelOutput:
    """Run a model without dropout or gradient, some samples at a time, on the model's device."""
    model.eval()
    device = model.mean_risk.device
    step = min(chunk_size or _SAMPLES_AT_ONCE, _SAMPLES_AT_ONCE)
    with torch.no_grad():
        outputs = [
            model(pair.rows(slice(start, start + step)).to(device))
            for start in range(0, max(len(pair), 1), step)
        ]
    hazard = torch.cat([one.log_hazard for one in outputs])
    return ModelOutput(hazard, torch.cat([one.view_valid for one in outputs]), None, None)
