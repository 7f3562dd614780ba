"""The linear map of the ridge Cox model: the plain baseline every result is read against."""

from __future__ import annotations

from typing import Literal, cast

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
            value = tokens.weighted_sum(self.coefficient[:, None])[:, 0]
        else:
            value = pooled_features(tokens) @ self.coefficient
        return torch.where(tokens.present, value + self.present, torch.zeros_like(value))

    def design(self, tokens: Tokens | CodeTokens) -> Float[Tensor, "batch column"]:
        """Return, in double precision, the features it multiplies and who has the modality."""
        if isinstance(tokens, CodeTokens):
            features = tokens.dense(len(self.coefficient))
        else:
            features = pooled_features(tokens)
        return torch.cat([features.double(), tokens.present.double()[:, None]], 1)


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

    def design(self, pair: Pair) -> Float[Tensor, "batch column"]:
        """Return the columns, in double precision, whose linear combination the log-hazard is."""
        return torch.cat([self._term(used).design(pair.of(used)) for used in self.uses], 1)

    def set_coefficients(self, solution: Float[Tensor, " column"]) -> None:
        """Set every coefficient, in the order of `design`."""
        with torch.no_grad():
            for term in map(self._term, self.uses):
                size = term.coefficient.numel()
                term.coefficient.copy_(solution[:size])
                term.present.copy_(solution[size])
                solution = solution[size + 1 :]

    def _term(self, modality: Modality) -> LinearTerm:
        return cast(LinearTerm, self.terms[modality.value])
