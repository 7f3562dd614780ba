"""Late fusion: one independent model per modality, risks combined after the head."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from concordant.core.tokens import FusionOutput, Pair
from concordant.fusion.base import BOTH, FUSIONS, Fusion, FusionDims
from concordant.fusion.layers import pooled_of
from concordant.fusion.unimodal import Branch


@FUSIONS.register("late")
class Late(Fusion):
    """One model per modality, each trained on the subjects that have it.

    The decision is made after the head.

    Attributes:
        combine: "stack" (a Cox model with coefficients >= 0 on the two standardised log-hazards,
            fitted on tuning) or "mean" (their mean, which must lose where one modality is useless).
    """

    reads_tokens = False

    def __init__(self, dims: FusionDims, *, combine: Literal["stack", "mean"] = "stack") -> None:
        """Build one branch per modality."""
        super().__init__(dims)
        self.combine = combine
        self.view_modalities = BOTH
        self.branches = nn.ModuleDict({modality.value: Branch(dims) for modality in BOTH})

    def view_parameters(self, view: int) -> list[str]:
        """Return the parameters of the branch that the view is."""
        own = f"branches.{BOTH[view].value}"
        return [f"{own}.{name}" for name, _ in self.get_submodule(own).named_parameters()]

    def forward(self, pair: Pair) -> FusionOutput:
        """Return one view per modality, CT first."""
        views = [self.branches[modality.value](pooled_of(pair, modality)) for modality in BOTH]
        return FusionOutput(
            torch.stack(views, 1), torch.stack([pair.ct.present, pair.ehr.present], 1)
        )
