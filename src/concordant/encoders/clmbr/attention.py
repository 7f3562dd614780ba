"""Causal attention to a window of the last events, in memory that grows with the length."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

_BLOCK = 128


def local_attention(
    query: Float[Tensor, "batch event head dim"],
    key: Float[Tensor, "batch event head dim"],
    value: Float[Tensor, "batch event head dim"],
    *,
    span: int,
    block: int = _BLOCK,
) -> Float[Tensor, "batch event head dim"]:
    """Let every event attend to itself and the `span - 1` before it, scaled by dim^-1/2.

    Args:
        query: Queries.
        key: Keys.
        value: Values.
        span: Events in the window, the event itself counted.
        block: Queries that share a piece of keys; changes the speed, not the result.
    """
    if query.shape[1] <= span:
        by_head = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        return functional.scaled_dot_product_attention(
            by_head[0], by_head[1], by_head[2], is_causal=True
        ).transpose(1, 2)
    batch, length, n_heads, dim = query.shape
    n_blocks = -(-length // block)
    before = -(-(span - 1) // block) * block
    after = n_blocks * block - length
    queries = (
        functional.pad(query, (0, 0, 0, 0, 0, after))
        .reshape(batch * n_blocks, block, n_heads, dim)
        .transpose(1, 2)
    )
    keys, values = (_pieces(part, before, after, block) for part in (key, value))
    mask = _band(n_blocks, block, before, span, query.device).repeat(batch, 1, 1, 1)
    attended = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    return attended.transpose(1, 2).reshape(batch, n_blocks * block, n_heads, dim)[:, :length]


def _pieces(
    part: Float[Tensor, "batch event head dim"], before: int, after: int, block: int
) -> Float[Tensor, "piece head key dim"]:
    """Return, for every block, its own events and the `before` events before it."""
    padded = functional.pad(part, (0, 0, 0, 0, before, after))
    return padded.unfold(1, before + block, block).flatten(0, 1).transpose(2, 3)


def _band(
    n_blocks: int, block: int, before: int, span: int, device: torch.device
) -> Bool[Tensor, "piece 1 query key"]:
    """Return which keys of its piece a query sees: those of its window that exist."""
    key = torch.arange(before + block, device=device)
    distance = before + torch.arange(block, device=device)[:, None] - key
    exists = torch.arange(n_blocks, device=device)[:, None] * block + key >= before
    return ((distance >= 0) & (distance < span))[None, None] & exists[:, None, None]
