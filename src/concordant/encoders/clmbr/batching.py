"""Batches of sequences of like length, so that little of a batch is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from concordant.encoders.clmbr.tokenizer import TokenSequence

MAX_PADDING = 0.15
"""Greatest share of a batch that may be padding."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences side by side, padded at their ends.

    Attributes:
        tokens: One token per event, or a bag of them.
        age_days: Age at each event, in days.
        valid: Where there is an event.
        weights: Weights of the tokens in a bag; None = one token per event.
    """

    tokens: Int[Tensor, "batch event"] | Int[Tensor, "batch event bag"]
    age_days: Float[Tensor, "batch event"]
    valid: Bool[Tensor, "batch event"]
    weights: Float[Tensor, "batch event bag"] | None = None

    def to(self, device: str) -> Batch:
        """Return the batch on a device."""
        weights = None if self.weights is None else self.weights.to(device)
        return Batch(
            self.tokens.to(device), self.age_days.to(device), self.valid.to(device), weights
        )


def batches_by_length(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Group sequences, longest first: at most `batch_tokens` places, at most 15 % of padding.

    Args:
        lengths: Events of each sequence, > 0.
        batch_tokens: Places of a batch; a longer sequence has a batch of its own.

    Yields:
        Numbers of the sequences of each batch.
    """
    batch: list[int] = []
    filled = longest = 0
    for number in sorted(range(len(lengths)), key=lambda one: -lengths[one]):
        places = (len(batch) + 1) * longest
        if batch and (
            places > batch_tokens or filled + lengths[number] < (1 - MAX_PADDING) * places
        ):
            yield batch
            batch, filled = [], 0
        if not batch:
            longest = lengths[number]
        batch.append(number)
        filled += lengths[number]
    if batch:
        yield batch


def padded(sequences: Sequence[TokenSequence], *, bags: bool) -> Batch:
    """Put sequences side by side.

    Args:
        sequences: At least one.
        bags: Whether events are bags of tokens.
    """
    shape = (len(sequences), max(map(len, sequences)))
    size = max(one.bag_size for one in sequences) if bags else 1
    tokens = torch.zeros((*shape, size), dtype=torch.int64)
    weights = torch.zeros((*shape, size))
    age_days = torch.zeros(shape)
    valid = torch.zeros(shape, dtype=torch.bool)
    for row, one in enumerate(sequences):
        tokens[row, : len(one)] = _table([bag.tokens for bag in one.bags], size, torch.int64)
        if bags:
            weights[row, : len(one)] = _table(
                [bag.weights for bag in one.bags], size, torch.float32
            )
        age_days[row, : len(one)] = torch.from_numpy(one.age_days)
        valid[row, : len(one)] = True
    return (
        Batch(tokens, age_days, valid, weights) if bags else Batch(tokens[..., 0], age_days, valid)
    )


def _table(rows: Sequence[Sequence[float]], size: int, dtype: torch.dtype) -> Tensor:
    return torch.tensor([[*row, *[0] * (size - len(row))] for row in rows], dtype=dtype).reshape(
        -1, size
    )
