"""Co-attention: one modality guides the reading of the other and keeps a stream of its own."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from concordant.core.modality import Modality
from concordant.core.tokens import FusionOutput, Pair, Tokens
from concordant.fusion.attention import (
    Anchored,
    EncoderLayer,
    GatedPool,
    MultiHeadAttention,
    Pooled,
    Reading,
)
from concordant.fusion.base import BOTH, FUSIONS, Fusion, FusionDims
from concordant.fusion.layers import Hidden


class Stream(nn.Module):
    """Two transformer encoder layers and gated attention pooling."""

    def __init__(self, dims: FusionDims, heads: int) -> None:
        """Build the layers."""
        super().__init__()
        self.layers = nn.ModuleList(
            [EncoderLayer(dims.width, heads, dims.dropout) for _ in range(2)]
        )
        self.pool = GatedPool(dims.width)

    def forward(
        self, values: Float[Tensor, "batch token width"], valid: Bool[Tensor, "batch token"]
    ) -> Pooled:
        """Return one vector per sample, and the share of each token in it."""
        for layer in self.layers:
            values = layer(values, valid)
        pooled: Pooled = self.pool(values, valid)
        return pooled


class Guide(nn.Module):
    """X guides Y: stream 1 is what X reads in Y, stream 2 is X itself."""

    def __init__(self, dims: FusionDims, heads: int) -> None:
        """Build attention and the two streams."""
        super().__init__()
        self.anchor = Anchored(dims.width)
        self.norm_guide = nn.LayerNorm(dims.width)
        self.norm_guided = nn.LayerNorm(dims.width)
        self.attention = MultiHeadAttention(dims.width, heads)
        self.guided_stream = Stream(dims, heads)
        self.own_stream = Stream(dims, heads)

    def forward(self, guide: Tokens, guided: Tokens) -> Reading:
        """Return both streams' vectors and the weights (place 0 = the learned token), those of
        pooling as their mean.
        """
        anchored = self.anchor(guide)
        attended = self.attention(
            self.norm_guide(anchored.values), self.norm_guided(guided.values), guided.valid
        )
        guided_side: Pooled = self.guided_stream(attended.values, anchored.valid)
        own_side: Pooled = self.own_stream(anchored.values, anchored.valid)
        vector = torch.cat([guided_side.vector, own_side.vector], 1)
        return Reading(vector, attended.weights, (guided_side.weights + own_side.weights) / 2)


@FUSIONS.register("co_attention")
class CoAttention(Fusion):
    """A = MHA(Q = X, K = V = Y); streams A and X, each two encoder layers and gated pooling.

    Concatenated.

    Source:
        Chen et al., Multimodal co-attention transformer for survival prediction in gigapixel whole
        slide images, ICCV 2021, section 3.2; written from its equations.

    Attributes:
        guide: X, the modality that guides: "ct" (image-guided), "ehr", or "both".
        heads: Attention heads; the latent width must be a multiple.
    """

    def __init__(
        self,
        dims: FusionDims,
        *,
        guide: Literal["ct", "ehr", "both"] = "ct",
        heads: Annotated[int, Field(ge=1)] = 4,
    ) -> None:
        """Build one guide per direction."""
        super().__init__(dims)
        self.guiding = BOTH if guide == "both" else (Modality(guide),)
        self.guides = nn.ModuleDict(
            {modality.value: Guide(dims, heads) for modality in self.guiding}
        )
        self.hidden = Hidden(2 * len(self.guiding) * dims.width, dims.width, dims.dropout)

    @property
    def attends_to(self) -> tuple[Modality, ...]:
        """The modalities that serve as keys."""
        return tuple(modality.other for modality in self.guiding)

    def forward(self, pair: Pair) -> FusionOutput:
        """Return the joint view, the attention of each direction, and the weights of each
        pooling.
        """
        vectors: list[Tensor] = []
        attention: dict[str, Tensor] = {}
        for modality in self.guiding:
            reading: Reading = self.guides[modality.value](
                pair.projected(modality), pair.projected(modality.other)
            )
            vectors.append(reading.vector)
            attention |= reading.maps(modality)
        return FusionOutput(self.hidden(torch.cat(vectors, 1))[:, None], attention=attention)
