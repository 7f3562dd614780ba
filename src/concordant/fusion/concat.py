"""Early fusion: the pooled vectors side by side."""

from __future__ import annotations

import torch

from concordant.core.tokens import FusionOutput, Pair
from concordant.fusion.base import BOTH, FUSIONS, Fusion, FusionDims
from concordant.fusion.layers import Hidden, pooled_of, presence


@FUSIONS.register("concat")
class Concat(Fusion):
    """[c, e] through one hidden layer; two more inputs say which modality is present."""

    reads_tokens = False

    def __init__(self, dims: FusionDims) -> None:
        """Build the hidden layer over both vectors."""
        super().__init__(dims)
        self.hidden = Hidden(2 * dims.width + 2, dims.width, dims.dropout)

    def forward(self, pair: Pair) -> FusionOutput:
        """Return the joint view."""
        vectors = [pooled_of(pair, modality) for modality in BOTH]
        return FusionOutput(self.hidden(torch.cat([*vectors, presence(pair)], 1))[:, None])
