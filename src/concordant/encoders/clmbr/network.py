"""CLMBR's and MOTOR's network: a causal transformer over events placed by age in days.

CLMBR: Steinberg et al. 2021, J Biomed Inform 113:103637; CLMBR-T: Wornow et al. 2023
(arXiv:2307.02028); MOTOR: Steinberg et al. 2023 (arXiv:2301.03150). Each layer runs attention and
feed-forward beside each other, x + W [attention(norm x), gelu(norm x)].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from concordant.encoders.clmbr.attention import local_attention
from concordant.encoders.clmbr.config import TransformerConfig
from concordant.encoders.clmbr.layout import NEW, Layout

_AFTER_ROOT = 1e-8
_IN_ROOT = 1e-6


@dataclass(frozen=True, slots=True)
class AgeScale:
    """Mean and standard deviation, in days, of the age at events the network was trained on."""

    mean_days: float
    std_days: float


@dataclass(frozen=True, slots=True)
class Rotation:
    """Sine and cosine of the angle of each event's age, per pair of channels."""

    sin: Float[Tensor, "batch event 1 half"]
    cos: Float[Tensor, "batch event 1 half"]


class ClmbrNetwork(nn.Module):
    """The transformer; parameters have the released names of the new layout, unprefixed.

    Args:
        sizes: Of the network.
        layout: The rules of its norm and its window.
        age_scale: Needed where the age is a channel of its own (`use_normed_ages`).
    """

    def __init__(
        self, sizes: TransformerConfig, layout: Layout = NEW, age_scale: AgeScale | None = None
    ) -> None:
        super().__init__()
        self.sizes = sizes
        self.layout = layout
        self.age_scale = age_scale
        self.span = sizes.attention_width + layout.keys_beyond_width
        self.embed = nn.Embedding(sizes.vocab_size, sizes.hidden_size)
        self.in_norm = RMSNorm(sizes.hidden_size, layout)
        self.layers = nn.ModuleList(_Layer(sizes, layout, self.span) for _ in range(sizes.n_layers))
        self.out_norm = RMSNorm(sizes.hidden_size, layout)

    @property
    def reach(self) -> int:
        """Events before an event on which its hidden state can depend, over all layers."""
        return self.sizes.n_layers * (self.span - 1)

    def forward(
        self,
        tokens: Int[Tensor, "batch event"] | Int[Tensor, "batch event bag"],
        age_days: Float[Tensor, "batch event"],
        valid: Bool[Tensor, "batch event"],
        *,
        weights: Float[Tensor, "batch event bag"] | None = None,
    ) -> Float[Tensor, "batch event dim"]:
        """Return the hidden state of every event, in the order of events from the oldest.

        Args:
            tokens: Token of each event, or, with weights, a bag of tokens.
            age_days: Age at each event, in days, float32.
            valid: Where there is an event. What stands elsewhere is never read, wherever it stands.
            weights: Weight of each token of a bag, 0 where a bag is shorter; None = one token per
                event.

        Returns:
            Hidden states; 0 where there is no event.
        """
        # events first, so that a gap takes no place in a window
        order = (~valid).to(torch.uint8).argsort(dim=1, stable=True)
        tokens, age_days = _ordered(tokens, order, valid), _ordered(age_days, order, valid)
        weights = None if weights is None else _ordered(weights, order, valid)
        packed = self._packed(tokens, age_days, weights)
        back = packed.take_along_dim(order.argsort(dim=1)[..., None], dim=1)
        return back.masked_fill(~valid[..., None], 0)

    def _packed(
        self, tokens: Tensor, age_days: Tensor, weights: Tensor | None
    ) -> Float[Tensor, "batch event dim"]:
        """Run over rows whose events come first; padding is after them and not seen."""
        hidden = self.in_norm(self._embedded(tokens, weights))
        rotation = rotation_of(age_days, self.sizes.head_dim)
        normed_ages = self._normed(age_days) if self.sizes.use_normed_ages else None
        for layer in self.layers:
            hidden = hidden + layer(hidden, rotation, normed_ages)
        return torch.as_tensor(self.out_norm(hidden))

    def _embedded(self, tokens: Tensor, weights: Tensor | None) -> Float[Tensor, "batch event dim"]:
        if weights is None:
            return torch.as_tensor(self.embed(tokens))
        bags = functional.embedding_bag(
            tokens.flatten(0, 1),
            self.embed.weight,
            per_sample_weights=weights.flatten(0, 1),
            mode="sum",
        )
        return bags.reshape(*tokens.shape[:2], -1)

    def _normed(self, age_days: Tensor) -> Float[Tensor, "batch event 2"]:
        if self.age_scale is None:
            raise TypeError("a network with normed ages needs the age scale of its training data")
        normed = (age_days - self.age_scale.mean_days) / self.age_scale.std_days
        return torch.stack((normed, normed.square()), -1)


def _ordered(values: Tensor, order: Tensor, valid: Tensor) -> Tensor:
    """Bring events to the front and put 0 where there is none."""
    trailing = (...,) + (None,) * (values.dim() - 2)
    return values.masked_fill(~valid[trailing], 0).take_along_dim(order[trailing], dim=1)


def rotation_of(age_days: Float[Tensor, "batch event"], head_dim: int) -> Rotation:
    """Return the rotation of each age: days x 10000^-e, exponents e evenly from 0 to 2."""
    exponents = torch.linspace(0, 2, head_dim // 2, dtype=torch.float32, device=age_days.device)
    angles = (age_days.float()[..., None] * (1.0 / 10000**exponents))[:, :, None]
    return Rotation(angles.sin(), angles.cos())


def rotate(
    values: Float[Tensor, "batch event head dim"], by: Rotation
) -> Float[Tensor, "batch event head dim"]:
    """Rotate each pair of neighbouring channels by its angle."""
    first, second = values[..., 0::2], values[..., 1::2]
    turned = torch.stack((first * by.cos - second * by.sin, second * by.cos + first * by.sin), -1)
    return turned.flatten(-2).to(values.dtype)


class RMSNorm(nn.Module):
    """Divide by the root mean square of channels, the small constant where the layout has it."""

    def __init__(self, width: int, layout: Layout) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.after_root = layout.norm_after_root

    def forward(self, values: Float[Tensor, "*place width"]) -> Float[Tensor, "*place width"]:
        """Return the normed values, in the given type; the mean is taken in float32."""
        exact = values.float()
        square = exact.square().mean(-1, keepdim=True)
        if self.after_root:
            normed = exact / (square.sqrt() + _AFTER_ROOT)
        else:
            normed = exact * torch.rsqrt(square + _IN_ROOT)
        return (self.weight * normed).to(values.dtype)


class _Layer(nn.Module):
    def __init__(self, sizes: TransformerConfig, layout: Layout, span: int) -> None:
        super().__init__()
        self.sizes = sizes
        self.span = span
        gates = 2 if sizes.hidden_act == "swiglu" else 1
        self.norm = RMSNorm(sizes.hidden_size, layout)
        width, inner = sizes.hidden_size, sizes.intermediate_size
        self.input_proj = nn.Linear(width, gates * inner + 3 * width, bias=sizes.use_bias)
        self.output_proj = nn.Linear(width + inner, width, bias=sizes.use_bias)

    def forward(
        self,
        hidden: Float[Tensor, "batch event dim"],
        rotation: Rotation,
        normed_ages: Float[Tensor, "batch event 2"] | None,
    ) -> Float[Tensor, "batch event dim"]:
        values = self.norm(hidden)
        if normed_ages is not None:
            values = torch.cat((values[..., :-2], normed_ages.to(values.dtype)), -1)
        projected = self.input_proj(values)
        width = 3 * self.sizes.hidden_size
        heads = projected[..., -width:].unflatten(-1, (3, self.sizes.n_heads, self.sizes.head_dim))
        query, key, value = heads.unbind(2)
        query, key = rotate(query, rotation), rotate(key, rotation)
        attended = local_attention(query, key, value, span=self.span)
        activated = self._activated(projected[..., :-width])
        return torch.as_tensor(self.output_proj(torch.cat((attended.flatten(2), activated), -1)))

    def _activated(self, values: Tensor) -> Tensor:
        if self.sizes.hidden_act == "swiglu":
            gate, value = values.chunk(2, -1)
            return functional.silu(gate) * value
        return functional.gelu(values)
