"""The plain layers that several fusions share."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from concordant.core.modality import Modality
from concordant.core.tokens import Pair


class Hidden(nn.Sequential):
    """One hidden layer: the same in every strategy, so that strategies differ in how they fuse
    and in nothing else.
    """

    def __init__(self, inputs: int, width: int, dropout: float) -> None:
        """Stack a linear map, GELU and dropout."""
        super().__init__(nn.Linear(inputs, width), nn.GELU(), nn.Dropout(dropout))


def pooled_of(pair: Pair, modality: Modality) -> Float[Tensor, "batch width"]:
    """Return the projected pooled vector of a modality; zero where it is missing."""
    pooled = pair.projected(modality).pooled
    if pooled is None:
        raise TypeError("a projector always gives a pooled vector")
    return pooled


def presence(pair: Pair) -> Float[Tensor, "batch two"]:
    """Return two columns that say which modality is there, so that a zero vector is not mistaken
    for an average subject.
    """
    return torch.stack([pair.ct.present, pair.ehr.present], dim=1).to(
        pooled_of(pair, Modality.CT).dtype
    )
