"""What every head is: from the views of a fusion to a log-hazard per view, and from the final
risk to survival.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from concordant.core.registry import Registry


class Head(nn.Module, ABC):
    """Base of every head.

    The contract (one test per line, run over the registry):

    * The loss is finite at log-hazards of +-1000, with ties, and with no event in the batch.
    * Loss and gradient equal a slow reference.
    * Survival does not increase with time and lies in [0, 1].
    * A known hazard ratio is recovered on simulated data.
    * Higher risk = earlier event.
    * It runs under `torch.func.functional_call` and `vmap` with the same result.
    """

    def __init__(self, dim: int, views: int) -> None:
        """Give each view an output layer of its own, so that the views of late fusion stay
        independent.

        The layers start at zero, so every log-hazard does: training that stops after a few epochs,
        as it must where events are few, then holds what was learned and no random start.
        """
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(dim, 1) for _ in range(views)])
        for parameter in self.layers.parameters():
            nn.init.zeros_(parameter)

    @abstractmethod
    def forward(self, views: Float[Tensor, "batch view dim"]) -> Float[Tensor, "batch view"]:
        """Return the log-hazard of each view; higher = earlier event."""

    def view_parameters(self, view: int) -> list[str]:
        """Return the names, within the head, of the parameters that a view alone depends on."""
        return [f"layers.{view}.{name}" for name, _ in self.layers[view].named_parameters()]

    def as_identity(self) -> None:
        """Let the one number of the one view pass unchanged: the fusion has solved for it.

        Raises:
            TypeError: Several views, or a view of several numbers.
        """
        shapes = [tuple(layer.get_parameter("weight").shape) for layer in self.layers]
        if shapes != [(1, 1)]:
            raise TypeError(
                f"the output layers have weights of shapes {shapes}; expected one of shape (1, 1), "
                "from a fusion with a single view of one number"
            )
        with torch.no_grad():
            self.layers[0].get_parameter("weight").fill_(1.0)
            self.layers[0].get_parameter("bias").fill_(0.0)

    def prepare(
        self,
        time: Float[Tensor, " batch"],
        event: Int[Tensor, " batch"],
        valid: Bool[Tensor, " batch"] | None = None,
    ) -> Any:
        """Return what the loss needs of the outcomes, to be made once and used in every epoch."""
        return None

    @abstractmethod
    def loss(
        self,
        log_hazard: Float[Tensor, " batch"],
        time: Float[Tensor, " batch"],
        event: Int[Tensor, " batch"],
        valid: Bool[Tensor, " batch"] | None = None,
        *,
        order: Any = None,
    ) -> Float[Tensor, ""]:
        """Return the loss of one view per observed event, over the samples that have it.

        `order` is what `prepare` returned of the same outcomes; None = it is made afresh.
        """

    @abstractmethod
    def fit_baseline(
        self,
        risk: Float[Tensor, " subject"],
        time: Float[Tensor, " subject"],
        event: Int[Tensor, " subject"],
    ) -> None:
        """Fit what survival needs beside the risk, on train."""

    @abstractmethod
    def survival(
        self, risk: Float[Tensor, " subject"], times: Float[Tensor, " time"]
    ) -> Float[Tensor, "subject time"]:
        """Return S(t) at times in days; non-increasing along time."""


HEADS: Registry[Head] = Registry("head")
