"""Fusion strategies; importing this package registers them all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from concordant.core.modality import Modality
from concordant.fusion.base import BOTH, FUSIONS, Fusion, FusionDims, Phase
from concordant.fusion.co_attention import CoAttention
from concordant.fusion.concat import Concat
from concordant.fusion.contrastive import Contrastive
from concordant.fusion.cross_attention import CrossAttention
from concordant.fusion.late import Late
from concordant.fusion.linear import Linear
from concordant.fusion.unimodal import Unimodal

__all__ = [
    "BOTH",
    "FUSIONS",
    "CoAttention",
    "Concat",
    "Contrastive",
    "CrossAttention",
    "Fusion",
    "FusionDims",
    "Late",
    "Linear",
    "Phase",
    "Unimodal",
    "modalities_used",
]


def modalities_used(name: str, options: Mapping[str, Any]) -> tuple[Modality, ...]:
    """Return the modalities a strategy's prediction depends on, before it is built.

    An option called `modality` names the only one, by convention of the registry; every other
    strategy uses both.
    """
    chosen = FUSIONS.resolve(name, options).get("modality", "both")
    return BOTH if chosen == "both" else (Modality(chosen),)
