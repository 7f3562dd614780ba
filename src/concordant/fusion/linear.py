"""The linear map of the ridge Cox model: the plain baseline every result is read against."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from concordant.core.modality import Modality
from concordant.core.tokens import CodeTokens, FusionOutput, Pair, Tokens
from concordant.fusion.base import BOTH, FUSIONS, Fusion, FusionDims


class LinearTerm(nn.Module):
    """One modality's coefficients, and one for having the modality at all."""

    def __init__(self, features: int) -> None:
        """Start at zero."""
        super().__init__()
        self.coefficient = nn.Parameter(torch.zeros(features))
        self.present = nn.Parameter(torch.zeros(()))

    def forward(self, tokens: Tokens | CodeTokens) -> Float[Tensor, " batch"]:
        """Return the term of each sample; 0 where the modality is missing."""
        if isinstance(tokens, CodeTokens):
            weight = torch.where(tokens.valid, tokens.weight, torch.zeros_like(tokens.weight))
            index = torch.where(tokens.valid, tokens.index, torch.zeros_like(tokens.index))
            value = (self.coefficient[index] * weight).sum(1)
        else:
            value = pooled_features(tokens) @ self.coefficient
        return torch.where(tokens.present, value + self.present, torch.zeros_like(value))


def pooled_features(tokens: Tokens) -> Float[Tensor, "batch feature"]:
    """Return the encoder's own pooled vector, or else the mean of the valid tokens.

    Zero where the modality is missing.
    """
    if tokens.pooled is not None:
        return torch.where(tokens.present[:, None], tokens.pooled, torch.zeros_like(tokens.pooled))
    values = torch.where(tokens.valid[..., None], tokens.values, torch.zeros_like(tokens.values))
    return values.sum(1) / tokens.valid.sum(1, keepdim=True).clamp(min=1)


@FUSIONS.register("linear")
class Linear(Fusion):
    """A linear log-hazard in the scaled, unprojected pooled features of both modalities, or of one.

    Attributes:
        modality: "both", "ct" or "ehr".
    """

    solver = "ridge"
    reads_tokens = False

    def __init__(
        self, dims: FusionDims, *, modality: Literal["both", "ct", "ehr"] = "both"
    ) -> None:
        """Build one term per modality used."""
        super().__init__(dims)
        self.uses = BOTH if modality == "both" else (Modality(modality),)
        self.view_dim = 1
        self.terms = nn.ModuleDict(
            {used.value: LinearTerm(dims.features[used]) for used in self.uses}
        )

    def forward(self, pair: Pair) -> FusionOutput:
        """Return the log-hazard itself as a view of one number."""
        total = torch.stack([self.terms[used.value](pair.of(used)) for used in self.uses]).sum(0)
        valid = torch.stack([pair.of(used).present for used in self.uses]).any(0)
        return FusionOutput(total[:, None, None], valid[:, None])
