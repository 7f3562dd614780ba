"""Cross-attention: the tokens of one modality ask those of the other."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from concordant.core.modality import Modality
from concordant.core.tokens import FusionOutput, Pair, Tokens
from concordant.fusion.attention import (
    Anchored,
    ChannelDropout,
    FeedForward,
    GatedPool,
    MultiHeadAttention,
    Pooled,
    Reading,
)
from concordant.fusion.base import BOTH, FUSIONS, Fusion, FusionDims
from concordant.fusion.layers import Hidden


class CrossBlock(nn.Module):
    """One direction: attention with a residual path for the query, feed-forward, gated pooling."""

    def __init__(self, dims: FusionDims, heads: int) -> None:
        """Build the block for queries of one modality."""
        super().__init__()
        width = dims.width
        self.anchor = Anchored(width)
        self.norm_query = nn.LayerNorm(width)
        self.norm_key = nn.LayerNorm(width)
        self.attention = MultiHeadAttention(width, heads)
        self.norm_feed_forward = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, dims.dropout)
        self.dropout = ChannelDropout(dims.dropout)
        self.pool = GatedPool(width)

    def forward(self, query: Tokens, key: Tokens) -> Reading:
        """Return the pooled query side and the weights (place 0 = the learned token)."""
        anchored = self.anchor(query)
        attended = self.attention(
            self.norm_query(anchored.values), self.norm_key(key.values), key.valid
        )
        values = anchored.values + self.dropout(attended.values)
        values = values + self.dropout(self.feed_forward(self.norm_feed_forward(values)))
        pooled: Pooled = self.pool(values, anchored.valid)
        return Reading(pooled.vector, attended.weights, pooled.weights)


@FUSIONS.register("cross_attention")
class CrossAttention(Fusion):
    """H = MHA(Q = query modality, K = V = the other), residual, feed-forward, gated attention
    pooling.

    The query keeps a residual path, and a learned query asks where the query modality is missing,
    so that neither missing side silences the present one.

    Attributes:
        query: The modality that asks: "ct", "ehr", or "both" (two directions, concatenated).
        heads: Attention heads; the latent width must be a multiple.
    """

    def __init__(
        self,
        dims: FusionDims,
        *,
        query: Literal["ct", "ehr", "both"] = "ct",
        heads: Annotated[int, Field(ge=1)] = 4,
    ) -> None:
        """Build one block per direction."""
        super().__init__(dims)
        self.queries = BOTH if query == "both" else (Modality(query),)
        self.blocks = nn.ModuleDict(
            {modality.value: CrossBlock(dims, heads) for modality in self.queries}
        )
        self.hidden = Hidden(len(self.queries) * dims.width, dims.width, dims.dropout)

    @property
    def attends_to(self) -> tuple[Modality, ...]:
        """The modalities that serve as keys."""
        return tuple(modality.other for modality in self.queries)

    def forward(self, pair: Pair) -> FusionOutput:
        """Return the joint view, the attention of each direction, and the weights of each
        pooling.
        """
        pooled: list[Tensor] = []
        attention: dict[str, Tensor] = {}
        for modality in self.queries:
            reading: Reading = self.blocks[modality.value](
                pair.projected(modality), pair.projected(modality.other)
            )
            pooled.append(reading.vector)
            attention |= reading.maps(modality)
        return FusionOutput(self.hidden(torch.cat(pooled, 1))[:, None], attention=attention)
