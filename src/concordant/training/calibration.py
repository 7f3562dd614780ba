"""From the views of late fusion to one risk: standardise on train, weigh on tuning."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float

from concordant.core.survival import Outcomes
from concordant.metrics.cox import solve_cox
from concordant.model import ModelOutput, TTEModel
from concordant.training.batches import Batch


def calibrate(
    model: TTEModel, train: ModelOutput, tuning: ModelOutput, tuning_batch: Batch
) -> None:
    """Fit the buffers that combine several views, in place; one view needs none.

    Each view's log-hazard is standardised over the train samples that have it. "stack": the Cox
    coefficients (>= 0) of the standardised views on tuning, an absent view being 0; all zero: equal
    weights. "mean": the mean of the valid views times the slope (>= 0) of a one-covariate Cox model
    on tuning.
    """
    if model.fusion.combine is None:
        return
    hazard, valid = _arrays(train)
    mean = np.array(
        [
            column[there].mean() if there.any() else 0.0
            for column, there in zip(hazard.T, valid.T, strict=True)
        ]
    )
    scale = np.array(
        [
            column[there].std() if there.any() else 1.0
            for column, there in zip(hazard.T, valid.T, strict=True)
        ]
    )
    scale = np.where(scale > 0, scale, 1.0)
    tuning_hazard, tuning_valid = _arrays(tuning)
    views = np.where(tuning_valid, (tuning_hazard - mean) / scale, 0.0)
    target = Outcomes(tuning_batch.time.cpu().numpy(), tuning_batch.event.cpu().numpy())
    known = tuning_valid.any(1)
    if model.fusion.combine == "mean":
        average = views.sum(1, keepdims=True) / np.maximum(tuning_valid.sum(1, keepdims=True), 1)
        weight = np.repeat(
            solve_cox(average[known], target.take(np.flatnonzero(known)), nonnegative=True),
            views.shape[1],
        )
    else:
        weight = solve_cox(views[known], target.take(np.flatnonzero(known)), nonnegative=True)
    if not weight.any():
        weight = np.full(views.shape[1], 1.0 / views.shape[1])
    for name, values in (("view_mean", mean), ("view_scale", scale), ("view_weight", weight)):
        getattr(model, name).copy_(torch.from_numpy(values))


def _arrays(
    output: ModelOutput,
) -> tuple[Float[np.ndarray, "sample view"], Bool[np.ndarray, "sample view"]]:
    return output.log_hazard.double().cpu().numpy(), output.view_valid.cpu().numpy()
