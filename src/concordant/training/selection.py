"""How good a fit is on tuning: the one criterion for early stopping and for the penalty of the linear model."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from concordant.heads import Head
from concordant.training.batches import Batch


def tuning_loss(
    head: Head,
    train_hazard: Float[Tensor, " train"],
    tuning_hazard: Float[Tensor, " tuning"],
    train: Batch,
    tuning: Batch,
    train_valid: Bool[Tensor, " train"] | None = None,
    tuning_valid: Bool[Tensor, " tuning"] | None = None,
) -> Float[Tensor, ""]:
    """Return the loss of the tuning samples per event; lower = better."""
    return head.loss(tuning_hazard, tuning.time, tuning.event, tuning_valid)
