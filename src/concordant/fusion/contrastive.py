"""Contrastive alignment of the two modalities in the shared latent space, as CLIP does for
images and text.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from concordant.core.modality import Modality
from concordant.core.tokens import FusionOutput, Pair
from concordant.fusion.base import FUSIONS, Fusion, FusionDims, Phase
from concordant.fusion.layers import Hidden, pooled_of, presence


def contrastive_loss(
    ct: Float[Tensor, "batch dim"],
    ehr: Float[Tensor, "batch dim"],
    logit_scale: Float[Tensor, ""],
    paired: Bool[Tensor, " batch"],
    subject: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, ""]:
    """Return the symmetric cross-entropy over the pairs of a batch.

    Args:
        ct: Latents of the scans, any length; normalised here.
        ehr: Latents of the records.
        logit_scale: Log of the inverse temperature; clamped to [0, ln 100].
        paired: True where a sample has both modalities; the others take no part.
        subject: Samples of the same subject are masked, not negatives. None = all different.

    Source:
        Radford et al., Learning transferable visual models from natural language supervision, ICML
        2021, figure 3 and section 2.5.
    """
    scale = logit_scale.clamp(0.0, math.log(100.0)).exp()
    logits = scale * functional.normalize(ct, dim=1) @ functional.normalize(ehr, dim=1).T
    compared = paired[:, None] & paired[None, :]
    if subject is not None:
        compared = compared & (subject[:, None] != subject[None, :])
    # who is compared with whom is symmetric, so one masked matrix serves both directions
    own = torch.eye(len(ct), dtype=torch.bool, device=ct.device)
    logits = logits.masked_fill_(~(compared | own), torch.finfo(logits.dtype).min)
    loss = (logits.logsumexp(1) + logits.logsumexp(0)) / 2 - logits.diagonal()
    return (loss * paired).sum() / paired.sum().clamp(min=1)


@FUSIONS.register("contrastive")
class Contrastive(Fusion):
    """Aligned latents z = W c and w = V e.

    The hidden layer and head see both, before normalisation.

    Attributes:
        regime: "joint" (survival loss + align_weight * alignment loss) or "two_stage" (align first;
            then everything trains on the survival loss, nothing frozen, so that a signal only one
            modality has is not lost).
        align_weight: Weight of the alignment loss in the joint regime.
        align_epochs: Epochs of the first stage.
    """

    reads_tokens = False

    def __init__(
        self,
        dims: FusionDims,
        *,
        regime: Literal["joint", "two_stage"] = "joint",
        align_weight: Annotated[float, Field(ge=0)] = 0.1,
        align_epochs: Annotated[int, Field(ge=1)] = 50,
    ) -> None:
        """Build the two latent maps and the hidden layer."""
        super().__init__(dims)
        self.regime = regime
        self.align_weight = align_weight
        self.align_epochs = align_epochs
        self.ct = nn.Linear(dims.width, dims.width)
        self.ehr = nn.Linear(dims.width, dims.width)
        self.hidden = Hidden(2 * dims.width + 2, dims.width, dims.dropout)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    @property
    def phases(self) -> tuple[Phase, ...]:
        """One phase with both losses, or alignment and then survival."""
        if self.regime == "joint":
            return (Phase(alignment=self.align_weight),)
        return (Phase(time_to_event=0.0, alignment=1.0, epochs=self.align_epochs), Phase())

    def forward(self, pair: Pair) -> FusionOutput:
        """Return the joint view and the alignment loss."""
        there = presence(pair)
        ct = self.ct(pooled_of(pair, Modality.CT)) * there[:, :1]
        ehr = self.ehr(pooled_of(pair, Modality.EHR)) * there[:, 1:]
        loss = contrastive_loss(
            ct, ehr, self.logit_scale, pair.ct.present & pair.ehr.present, pair.subject
        )
        return FusionOutput(
            self.hidden(torch.cat([ct, ehr, there], 1))[:, None], alignment_loss=loss
        )
