"""The tensors between the two waists: this is the one module of `core` that imports torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from concordant.core.modality import Modality

Rows = slice | Int[Tensor, " chosen"]
"""Samples of a batch: a range, or their numbers."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Vectors of one modality; a sample with the modality missing has no valid token.

    Attributes:
        values: Token vectors; zero in an invalid place once they passed the boundary (`cleaned`).
        valid: True where a token exists.
        pooled: The encoder's own pooled vector, or else the mean of the valid tokens; None only
            before the boundary.
    """

    values: Float[Tensor, "batch token dim"]
    valid: Bool[Tensor, "batch token"]
    pooled: Float[Tensor, "batch pooled_dim"] | None = None

    @property
    def present(self) -> Bool[Tensor, " batch"]:
        """True where the sample has this modality."""
        return self.valid.any(1)

    def cleaned(self) -> Tokens:
        """Return what a model takes: zero where nothing is valid, and a pooled vector."""
        values = torch.where(self.valid[..., None], self.values, 0.0)
        if self.pooled is None:
            return Tokens(values, self.valid, mean_of_valid(values, self.valid))
        return Tokens(values, self.valid, torch.where(self.present[:, None], self.pooled, 0.0))

    def without_tokens(self) -> Tokens:
        """Return the pooled vectors and who has the modality, without touching a token."""
        return Tokens(self.values[..., :0], self.valid, self.pooled)

    def rows(self, rows: Rows) -> Tokens:
        """Return some samples; a slice copies nothing."""
        pooled = None if self.pooled is None else self.pooled[rows]
        return Tokens(self.values[rows], self.valid[rows], pooled)

    def to(self, device: torch.device) -> Tokens:
        """Return the same on a device."""
        pooled = None if self.pooled is None else self.pooled.to(device)
        return Tokens(self.values.to(device), self.valid.to(device), pooled)


def mean_of_valid(
    values: Float[Tensor, "batch token dim"], valid: Bool[Tensor, "batch token"]
) -> Float[Tensor, "batch dim"]:
    """Return the mean of the valid tokens, given zeros in invalid places; zero where none is."""
    return values.sum(1) / valid.sum(1, keepdim=True).clamp(min=1)


@dataclass(frozen=True, slots=True)
class CodeTokens:
    """A multi-hot record, one token per active code.

    Attributes:
        index: Position of the code in the fold's vocabulary.
        weight: 1, a count, or the standardised value.
        valid: True where a token exists.
    """

    index: Int[Tensor, "batch token"]
    weight: Float[Tensor, "batch token"]
    valid: Bool[Tensor, "batch token"]
    _bags: dict[int, tuple[Tensor, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def present(self) -> Bool[Tensor, " batch"]:
        """True where the sample has this modality."""
        return self.valid.any(1)

    def cleaned(self) -> CodeTokens:
        """Return index and weight 0 wherever nothing is valid."""
        index, weight = (torch.where(self.valid, one, 0) for one in (self.index, self.weight))
        return CodeTokens(index, weight, self.valid)

    def without_tokens(self) -> CodeTokens:
        """Return the same: the pooled vector of codes is made of them."""
        return self

    def rows(self, rows: Rows) -> CodeTokens:
        """Return some samples; a slice copies nothing."""
        return CodeTokens(self.index[rows], self.weight[rows], self.valid[rows])

    def to(self, device: torch.device) -> CodeTokens:
        """Return the same on a device."""
        return CodeTokens(self.index.to(device), self.weight.to(device), self.valid.to(device))

    @property
    def known_index(self) -> Int[Tensor, "batch token"]:
        """The index, 0 in invalid places."""
        return torch.where(self.valid, self.index, torch.zeros_like(self.index))

    @property
    def known_weight(self) -> Float[Tensor, "batch token"]:
        """The weight, 0 in invalid places."""
        return torch.where(self.valid, self.weight, torch.zeros_like(self.weight))

    def dense(self, size: int) -> Float[Tensor, "batch code"]:
        """Return the weights as a matrix with a column per code of the vocabulary."""
        empty = self.weight.new_zeros((len(self.weight), size))
        return empty.scatter_add(1, self.known_index, self.known_weight)

    def weighted_sum(self, table: Float[Tensor, "code width"]) -> Float[Tensor, "batch width"]:
        """Return the weighted sum of a table's rows for each record.

        A sparse product, there and back: never a tensor of (batch, token, width). The codes are
        sorted by record and by code once, at the first call.
        """
        size = len(table)
        if size not in self._bags:
            self._bags[size] = (*self._by_record(), *self._by_code(size))
        bags = (bag.to(table.dtype) if bag.is_floating_point() else bag for bag in self._bags[size])
        return _bag_sum(table, *bags)

    def _by_record(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the codes of each record, their weights, and where each record starts."""
        batch, places = self.index.shape
        starts = torch.arange(batch, device=self.index.device) * places
        return self.known_index.flatten(), self.known_weight.flatten(), starts

    def _by_code(self, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the records of each code, their weights, and where each code starts."""
        index, weight, _ = self._by_record()
        codes, order = torch.sort(index)
        starts = torch.searchsorted(codes, torch.arange(size, device=codes.device))
        return order // self.index.shape[1], weight[order], starts


class _BagSum(torch.autograd.Function):
    """The weighted sum of a table's rows in each bag.

    Its gradient is the same sum over the transposed bags, which are given with it: torch's own
    would sort the bags at every step, and has no rule for `vmap`.
    """

    @staticmethod
    def forward(table: Tensor, *bags: Tensor) -> Tensor:
        index, weight, starts = bags[:3]
        return functional.embedding_bag(index, table, starts, per_sample_weights=weight, mode="sum")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        bags = ctx.saved_tensors
        return _bag_sum(upstream, *bags[3:], *bags[:3]), *[None] * len(bags)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], table: Tensor, *bags: Tensor
    ) -> tuple[Tensor, int]:
        """Sum several tables side by side, as one of more columns."""
        if in_dims[0] is None or any(one is not None for one in in_dims[1:]):
            raise TypeError("vmap over codes: expected one batch of records for every table")
        tables = table.movedim(in_dims[0], 1)
        found = _bag_sum(tables.flatten(1), *bags)
        return found.reshape(len(found), *tables.shape[1:]), 1


_bag_sum = cast(Callable[..., Tensor], _BagSum.apply)


@dataclass(frozen=True, slots=True)
class Pair:
    """Both modalities of a batch.

    Attributes:
        ct: The scan's tokens.
        ehr: The record's tokens.
        subject: Number of the subject each sample belongs to, or None = all different; samples of
            one subject are no negatives.
    """

    ct: Tokens | CodeTokens
    ehr: Tokens | CodeTokens
    subject: Int[Tensor, " batch"] | None = None

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.ct.valid)

    def cleaned(self) -> Pair:
        """Return both as a model takes them: zero wherever nothing is valid."""
        return Pair(self.ct.cleaned(), self.ehr.cleaned(), self.subject)

    def rows(self, rows: Rows) -> Pair:
        """Return some samples; a slice copies nothing."""
        subject = None if self.subject is None else self.subject[rows]
        return Pair(self.ct.rows(rows), self.ehr.rows(rows), subject)

    def to(self, device: torch.device) -> Pair:
        """Return the same on a device."""
        subject = None if self.subject is None else self.subject.to(device)
        return Pair(self.ct.to(device), self.ehr.to(device), subject)

    def of(self, modality: Modality) -> Tokens | CodeTokens:
        """Return one modality's tokens."""
        return self.ct if modality is Modality.CT else self.ehr

    def projected(self, modality: Modality) -> Tokens:
        """Return one modality's tokens after projection; a fusion sees nothing else."""
        tokens = self.of(modality)
        if not isinstance(tokens, Tokens):
            raise TypeError("codes have to pass a projector before they can be fused")
        return tokens


@dataclass(frozen=True, slots=True)
class FusionOutput:
    """What a fusion hands to the head.

    Attributes:
        views: One view, or one per modality where the decision is made after the head (late
            fusion).
        view_valid: True where a sample has the view; None = all valid.
        alignment_loss: Scalar, or None.
        attention: Named attention maps, for pictures, or None.
    """

    views: Float[Tensor, "batch view dim"]
    view_valid: Bool[Tensor, "batch view"] | None = None
    alignment_loss: Float[Tensor, ""] | None = None
    attention: Mapping[str, Float[Tensor, "batch query key"]] | None = None
