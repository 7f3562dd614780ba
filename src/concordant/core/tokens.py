"""The tensors between the two waists: this is the one module of `core` that imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

from concordant.core.modality import Modality


@dataclass(frozen=True, slots=True)
class Tokens:
    """Vectors of one modality; a sample with the modality missing has no valid token.

    Attributes:
        values: Token vectors; what stands in an invalid place is never read.
        valid: True where a token exists.
        pooled: The encoder's own pooled vector, or None: the masked mean of the projected tokens
            stands in for it.
    """

    values: Float[Tensor, "batch token dim"]
    valid: Bool[Tensor, "batch token"]
    pooled: Float[Tensor, "batch pooled_dim"] | None = None

    @property
    def present(self) -> Bool[Tensor, " batch"]:
        """True where the sample has this modality."""
        return self.valid.any(1)


@dataclass(frozen=True, slots=True)
class CodeTokens:
    """A multi-hot record, one token per active code; there is never a dense code axis.

    Attributes:
        index: Position of the code in the fold's vocabulary.
        weight: 1, a count, or the standardised value.
        valid: True where a token exists.
    """

    index: Int[Tensor, "batch token"]
    weight: Float[Tensor, "batch token"]
    valid: Bool[Tensor, "batch token"]

    @property
    def present(self) -> Bool[Tensor, " batch"]:
        """True where the sample has this modality."""
        return self.valid.any(1)


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
