"""Samples as they leave the store, and as they enter the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from concordant.core.embedding import EmbeddingTable, TokenTable
from concordant.core.modality import Modality
from concordant.core.survival import Outcomes
from concordant.core.tokens import Pair
from concordant.heads import Head


@dataclass(frozen=True, slots=True)
class Samples:
    """Unfitted embeddings of some samples with their outcome.

    Attributes:
        inputs: One table per modality; a modality the study does not have may be left out.
        target: Time in days and event.
        subject: Number of the subject of each sample, or None = all different.
    """

    inputs: Mapping[Modality, EmbeddingTable]
    target: Outcomes
    subject: Int[np.ndarray, " sample"] | None = None

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.target)

    def table(self, modality: Modality) -> EmbeddingTable:
        """Return one modality's table; all missing where the study does not have it."""
        return self.inputs.get(modality, absent_table(len(self)))

    def present(self, modality: Modality) -> Bool[np.ndarray, " sample"]:
        """True where a sample has the modality."""
        return np.asarray(self.table(modality).lengths > 0)

    def take(self, rows: Int[np.ndarray, " chosen"]) -> Samples:
        """Return the chosen samples, in that order."""
        inputs = {modality: table.take(rows) for modality, table in self.inputs.items()}
        return Samples(
            inputs, self.target.take(rows), None if self.subject is None else self.subject[rows]
        )


def absent_table(samples: int) -> TokenTable:
    """Return a table in which every sample has the modality missing."""
    return TokenTable(np.zeros((0, 1), np.float32), np.zeros(samples + 1, np.int64))


@dataclass(frozen=True, slots=True)
class Batch:
    """Scaled samples as tensors.

    Attributes:
        pair: Scaled, padded, unprojected tokens of both modalities.
        time: Days, float64.
        event: 1 = observed.
    """

    pair: Pair
    time: Float[Tensor, " batch"]
    event: Int[Tensor, " batch"]
    _orders: dict[int, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def view_losses(
        self, head: Head, log_hazard: Float[Tensor, "batch view"], valid: Bool[Tensor, "batch view"]
    ) -> list[Float[Tensor, ""]]:
        """Return the loss of each view over the samples that have it, per observed event.

        What a head needs of the outcomes is made at the first call: who has a view is the same in
        every epoch.
        """
        losses = []
        for view in range(log_hazard.shape[1]):
            there = valid[:, view]
            if view not in self._orders:
                self._orders[view] = head.prepare(self.time, self.event, there)
            order = self._orders[view]
            losses.append(head.loss(log_hazard[:, view], self.time, self.event, there, order=order))
        return losses

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.time)
