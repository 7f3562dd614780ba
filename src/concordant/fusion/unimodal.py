"""The unimodal baseline: one modality's pooled vector through one hidden layer."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from concordant.core.modality import Modality
from concordant.core.tokens import FusionOutput, Pair
from concordant.fusion.base import FUSIONS, Fusion, FusionDims
from concordant.fusion.layers import Hidden, pooled_of


class Branch(nn.Module):
    """One modality on its own: the whole of a unimodal model, and one half of late fusion."""

    def __init__(self, dims: FusionDims) -> None:
        """Build the hidden layer."""
        super().__init__()
        self.hidden = Hidden(dims.width, dims.width, dims.dropout)

    def forward(self, pooled: Float[Tensor, "batch width"]) -> Float[Tensor, "batch width"]:
        """Return the view."""
        view: Tensor = self.hidden(pooled)
        return view


@FUSIONS.register("unimodal")
class Unimodal(Fusion):
    """One modality alone: trained on those who have it, predicts train's mean risk for the others.

    Attributes:
        modality: The modality used.
    """

    reads_tokens = False

    def __init__(self, dims: FusionDims, *, modality: Modality) -> None:
        """Build the branch of the modality."""
        super().__init__(dims)
        self.modality = modality
        self.uses = (modality,)
        self.view_modalities = (modality,)
        self.branch = Branch(dims)

    def forward(self, pair: Pair) -> FusionOutput:
        """Return the modality's view."""
        return FusionOutput(
            self.branch(pooled_of(pair, self.modality))[:, None],
            torch.stack([pair.of(self.modality).present], 1),
        )
