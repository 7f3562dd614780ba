"""Options of training, and the rule that sets the ones left to "auto" from the number of events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MANY_EVENTS = 1000
"""Observed events in train from which "auto" regularisation begins to shrink."""

Positive = Annotated[float, Field(gt=0)]


class TrainOptions(BaseModel):
    """How a model is fitted; the same for every strategy of a study.

    Attributes:
        lr: Learning rate of AdamW.
        max_epochs: Upper limit of epochs.
        min_epochs: Epochs before the tuning loss is heeded: with a few tuning events it may by
            chance be best before anything is learned.
        patience: Epochs without a better tuning loss before training stops.
        width: Width of the shared latent space.
        dropout: Probability of dropping a unit, or "auto".
        weight_decay: Decoupled weight decay of AdamW, or "auto".
        min_code_samples: Train samples that must carry a code before it enters the vocabulary.
        chunk_size: Samples held in memory at once; the loss and its gradient stay those of the full
            batch. None = all.
        device: "auto" takes a GPU where there is one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    lr: Positive = 1e-3
    max_epochs: Annotated[int, Field(ge=1)] = 300
    min_epochs: Annotated[int, Field(ge=0)] = 20
    patience: Annotated[int, Field(ge=1)] = 30
    width: Annotated[int, Field(ge=2)] = 64
    dropout: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = "auto"
    weight_decay: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    min_code_samples: Annotated[int, Field(ge=1)] = 2
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
    """Set dropout and weight decay from the number of observed events in train, where they are
    "auto".

    0.5 and 1.0 up to `MANY_EVENTS` events; beyond that both shrink in proportion to 1 / events, as
    the information in a partial likelihood grows with the events alone (docs/decisions/0002).

    Args:
        options: As given; a number is taken as it is.
        events: Observed events in train.
    """
    share = min(1.0, MANY_EVENTS / max(events, 1))
    dropout = 0.5 * share if options.dropout == "auto" else options.dropout
    weight_decay = 1.0 * share if options.weight_decay == "auto" else options.weight_decay
    return Regularisation(dropout, weight_decay)
