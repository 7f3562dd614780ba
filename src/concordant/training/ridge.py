"""The ridge Cox path of the `linear` strategy.

Solved to convergence, its penalty chosen on tuning.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from concordant.core.survival import Outcomes
from concordant.fusion.linear import Linear
from concordant.metrics.cox import cox_path
from concordant.model import TTEModel
from concordant.training.batches import Batch

PENALTIES = tuple(float(value) for value in np.logspace(2, -3, 21))
"""Candidates, from heavy to light.

The loss is per event and features are standardised, so one grid serves all cohorts.
"""


@dataclass(frozen=True, slots=True)
class RidgeChoice:
    """What was tried.

    Attributes:
        penalty: The candidate.
        loss: Its tuning loss.
    """

    penalty: float
    loss: float


def solve_ridge(model: TTEModel, train: Batch, tuning: Batch) -> list[RidgeChoice]:
    """Fit the coefficients of a linear model in place, and return the path.

    The tuning loss picks the penalty; the coefficients are those of train alone.
    """
    fusion = model.fusion
    if not isinstance(fusion, Linear):
        raise TypeError("a ridge solution needs linear terms")
    target = Outcomes(train.time.cpu().numpy(), train.event.cpu().numpy())
    path = torch.from_numpy(cox_path(fusion.design(train.pair).cpu().numpy(), target, PENALTIES))
    time, event = tuning.time.cpu(), tuning.event.cpu()
    hazards = path @ fusion.design(tuning.pair).cpu().T
    order = model.head.prepare(time, event)
    losses = [float(model.head.loss(hazard, time, event, order=order)) for hazard in hazards]
    fusion.set_coefficients(path[int(np.argmin(losses))])
    model.head.as_identity()
    return [RidgeChoice(*choice) for choice in zip(PENALTIES, losses, strict=True)]
