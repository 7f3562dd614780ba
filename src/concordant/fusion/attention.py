"""Attention over tokens with masks: the one implementation every attention strategy uses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from concordant.core.errors import ConfigError
from concordant.core.modality import Modality
from concordant.core.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Attended:
    """Result of an attention layer.

    Attributes:
        values: One vector per query; zero where there was nothing to attend to.
        weights: Attention weights, mean over heads.
    """

    values: Float[Tensor, "batch query dim"]
    weights: Float[Tensor, "batch query key"]


@dataclass(frozen=True, slots=True)
class Pooled:
    """Result of pooling.

    Attributes:
        vector: One vector per sample.
        weights: Share of each token in it; 0 for invalid ones.
    """

    vector: Float[Tensor, "batch dim"]
    weights: Float[Tensor, "batch token"]


@dataclass(frozen=True, slots=True)
class Reading:
    """What one modality read in the other, pooled.

    Attributes:
        vector: One vector per sample.
        weights: Attention weights; row 0 belongs to the learned token.
        pooling: Share of each query in `vector`; column 0 belongs to the learned token.
    """

    vector: Float[Tensor, "batch dim"]
    weights: Float[Tensor, "batch query key"]
    pooling: Float[Tensor, "batch query"]

    def maps(self, query: Modality) -> dict[str, Float[Tensor, "batch query key"]]:
        """Return both kinds of weights by name.

        Of the other modality's tokens, and of the asking one's own in pooling.
        """
        return {
            f"{query.value}->{query.other.value}": self.weights,
            f"pool->{query.value}": self.pooling[:, None, 1:],
        }


class MultiHeadAttention(nn.Module):
    """Multi-head attention in which a sample without any valid key yields zero, never NaN.

    Source:
        Vaswani et al., Attention is all you need, NeurIPS 2017, section 3.2.
    """

    def __init__(self, width: int, heads: int) -> None:
        """Split `width` into `heads` equal parts.

        Raises:
            ConfigError: A width that is no multiple of the heads.
        """
        super().__init__()
        if width % heads:
            raise ConfigError(
                f"heads = {heads} does not divide the latent width {width}; change `heads` or "
                "train.width"
            )
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(
        self,
        query: Float[Tensor, "batch query dim"],
        key: Float[Tensor, "batch key dim"],
        key_valid: Bool[Tensor, "batch key"],
    ) -> Attended:
        """Attend from each query over the valid keys."""
        any_key = key_valid.any(1)
        # where nothing is valid everything is let in, and the result is set to zero below: no NaN
        # arises, forward or backward
        allowed = (key_valid | ~any_key[:, None])[:, None, None, :]
        scores = self._split(self.query(query)) @ self._split(self.key(key)).transpose(-1, -2)
        scores = scores / (query.shape[-1] // self.heads) ** 0.5
        weights = torch.softmax(scores.masked_fill(~allowed, torch.finfo(scores.dtype).min), dim=-1)
        mixed = (weights @ self._split(self.value(key))).transpose(1, 2).flatten(2)
        there = any_key[:, None, None].to(mixed.dtype)
        return Attended(self.output(mixed) * there, weights.mean(1) * there)

    def _split(
        self, values: Float[Tensor, "batch token dim"]
    ) -> Float[Tensor, "batch head token part"]:
        batch, tokens, width = values.shape
        return values.reshape(batch, tokens, self.heads, width // self.heads).transpose(1, 2)


class ChannelDropout(nn.Module):
    """Dropout that silences a channel in all tokens of a sample at once.

    Tokens of one sample repeat each other, so dropping single entries hides little; and there is
    one random number per channel, not per token, which is a quarter of the time of a step on a
    processor.

    Source:
        Tompson et al., Efficient object localization using convolutional networks, CVPR 2015,
        section 3.2 (spatial dropout).
    """

    def __init__(self, dropout: float) -> None:
        """Keep the probability."""
        super().__init__()
        self.dropout = nn.Dropout(dropout)

    def forward(self, values: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """Return the values, some channels zero and the others scaled up, in training."""
        kept: Tensor = self.dropout(torch.ones_like(values[:, :1]))
        return values * kept


class EncoderLayer(nn.Module):
    """A pre-norm transformer encoder layer."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        """Build self-attention and a feed-forward layer of twice the width."""
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = MultiHeadAttention(width, heads)
        self.norm_feed_forward = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, dropout)
        self.dropout = ChannelDropout(dropout)

    def forward(
        self, values: Float[Tensor, "batch token dim"], valid: Bool[Tensor, "batch token"]
    ) -> Float[Tensor, "batch token dim"]:
        """Let the valid tokens of a sample exchange information."""
        normed = self.norm_attention(values)
        values = values + self.dropout(self.attention(normed, normed, valid).values)
        added: Tensor = self.dropout(self.feed_forward(self.norm_feed_forward(values)))
        return values + added


class FeedForward(nn.Sequential):
    """A two-layer perceptron of twice the width."""

    def __init__(self, width: int, dropout: float) -> None:
        """Stack linear, GELU, dropout, linear."""
        super().__init__(
            nn.Linear(width, 2 * width),
            nn.GELU(),
            ChannelDropout(dropout),
            nn.Linear(2 * width, width),
        )


class GatedPool(nn.Module):
    """Gated attention pooling: softmax over tokens of w' (tanh(U a) * sigmoid(V a)).

    Source:
        Ilse, Tomczak and Welling, Attention-based deep multiple instance learning, ICML 2018,
        equation 9.
    """

    def __init__(self, width: int) -> None:
        """Build the two gates and the score."""
        super().__init__()
        self.content = nn.Linear(width, width)
        self.gate = nn.Linear(width, width)
        self.score = nn.Linear(width, 1)

    def forward(
        self, values: Float[Tensor, "batch token dim"], valid: Bool[Tensor, "batch token"]
    ) -> Pooled:
        """Return the weighted mean of the valid tokens.

        At least one token per sample must be valid.
        """
        score = self.score(torch.tanh(self.content(values)) * torch.sigmoid(self.gate(values)))[
            ..., 0
        ]
        weights = torch.softmax(score.masked_fill(~valid, torch.finfo(score.dtype).min), dim=-1)
        return Pooled((weights[..., None] * values).sum(1), weights)


class Anchored(nn.Module):
    """Puts a learned token before a modality's tokens.

    It is valid in every sample: where the modality is missing it still asks the other one, which is
    how a missing query side never silences the present key side; and it gives pooling something to
    pool.
    """

    def __init__(self, width: int) -> None:
        """Start from small random values."""
        super().__init__()
        self.token = nn.Parameter(torch.randn(width) * 0.02)

    def forward(self, tokens: Tokens) -> Tokens:
        """Return the tokens with the learned one in front."""
        batch = tokens.values.shape[0]
        first = self.token.expand(batch, 1, -1)
        valid = torch.ones_like(tokens.present)[:, None]
        return Tokens(
            torch.cat([first, tokens.values], 1), torch.cat([valid, tokens.valid], 1), tokens.pooled
        )
