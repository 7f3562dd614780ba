"""Options of training, and the rule that sets the ones left to "auto" from the number of events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]


class TrainOptions(BaseModel):
    """How a model is fitted; the same for every strategy of a study.

    Attributes:
        lr: Learning rate of AdamW.
        max_epochs: Upper limit of epochs.
        patience: Epochs without a better tuning loss before training stops.
        width: Width of the shared latent space.
        dropout: Probability of dropping a unit, or "auto".
        weight_decay: Decoupled weight decay of AdamW, or "auto".
        chunk_size: Samples held in memory at once; the loss and its gradient stay those of the full batch. None = all.
        device: "auto" takes a GPU where there is one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    lr: Positive = 1e-3
    max_epochs: Annotated[int, Field(ge=1)] = 300
    patience: Annotated[int, Field(ge=1)] = 30
    width: Annotated[int, Field(ge=2)] = 64
    dropout: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = "auto"
    weight_decay: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    chunk_size: Annotated[int, Field(ge=2)] | None = None
    device: str = "auto"


@dataclass(frozen=True, slots=True)
class Regularisation:
    """What "auto" came to.

    Attributes:
        dropout: Probability of dropping a unit.
        weight_decay: Decoupled weight decay.
    """

    dropout: float
    weight_decay: float


def regularisation(options: TrainOptions, events: int) -> Regularisation:
    """Set dropout and weight decay from the number of observed events in train, where they are "auto".

    Args:
        options: As given; a number is taken as it is.
        events: Observed events in train.
    """
    dropout = 0.5 if options.dropout == "auto" else options.dropout
    weight_decay = 1.0 if options.weight_decay == "auto" else options.weight_decay
    return Regularisation(dropout, weight_decay)
