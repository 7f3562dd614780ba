"""A time-to-event model: projectors, fusion, head, and the combination of several views.

Nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from concordant.core.modality import Modality
from concordant.core.tokens import CodeTokens, Pair, Tokens
from concordant.fusion import BOTH, FUSIONS, Fusion, FusionDims
from concordant.heads import HEADS, Head


@dataclass(frozen=True, slots=True)
class InputDims:
    """Size of one modality's scaled input.

    Attributes:
        kind: "tokens" or "codes".
        token_dim: Width of a token, or size of the vocabulary.
        pooled_dim: Width of the encoder's own pooled vector; None where there is none.
        norm: Codes: typical sum of squared weights of a record, which sets the scale at which its
            embedding starts.
    """

    kind: str
    token_dim: int
    pooled_dim: int | None = None
    norm: float = 1.0

    @property
    def features(self) -> int:
        """Width of the pooled features before projection."""
        return self.token_dim if self.pooled_dim is None else self.pooled_dim


class TokenProjector(nn.Module):
    """A linear map to the shared width; the encoder's own pooled vector has a map of its own.

    Where there is no such vector, the mean of the tokens takes the map of the tokens: that is the
    mean of the projected tokens, as the map is linear.
    """

    def __init__(self, dims: InputDims, width: int) -> None:
        """Build the maps."""
        super().__init__()
        self.token = nn.Linear(dims.token_dim, width)
        self.pooled = None if dims.pooled_dim is None else nn.Linear(dims.pooled_dim, width)

    def forward(self, tokens: Tokens, pooled_only: bool) -> Tokens:
        """Project clean tokens; invalid ones and missing samples come out as zero.

        With `pooled_only` the tokens themselves are left out: nobody reads them.
        """
        if tokens.pooled is None:
            raise TypeError("tokens with no pooled vector have to pass `cleaned` first")
        layer = self.token if self.pooled is None else self.pooled
        pooled = layer(tokens.pooled).masked_fill(~tokens.present[:, None], 0.0)
        if pooled_only:
            return Tokens(tokens.values[..., :0], tokens.valid, pooled)
        values = self.token(tokens.values).masked_fill(~tokens.valid[..., None], 0.0)
        return Tokens(values, tokens.valid, pooled)


class CodeProjector(nn.Module):
    """An embedding per code.

    Its weight scales it, an identity of its own says which code it is where the weight is near
    zero.
    """

    def __init__(self, dims: InputDims, width: int) -> None:
        """Start so that the pooled vector of a typical record has the variance that a linear map
        of standardised features has.
        """
        super().__init__()
        size = max(dims.token_dim, 1)
        # of more codes than the width only the columns can be orthonormal: the rows are then
        # shorter, and are brought back to length 1
        unit_rows = nn.init.orthogonal_(torch.empty(size, width)) * max(size / width, 1.0) ** 0.5
        self.embedding = nn.Parameter(unit_rows * (width / (3 * max(dims.norm, 1.0))) ** 0.5)
        self.identity = nn.Parameter(torch.randn(size, width) / width**0.5)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, tokens: CodeTokens, pooled_only: bool) -> Tokens:
        """Return one token per active code (none with `pooled_only`).

        Pooled is the weighted sum of the embeddings.
        """
        pooled = tokens.weighted_sum(self.embedding) + self.bias
        pooled = torch.where(tokens.present[:, None], pooled, torch.zeros_like(pooled))
        if pooled_only:
            empty = self.embedding.new_zeros((*tokens.valid.shape, 0))
            return Tokens(empty, tokens.valid, pooled)
        weighted = functional.embedding(tokens.known_index, self.embedding)
        weighted = weighted * tokens.known_weight[..., None]
        values = weighted + functional.embedding(tokens.known_index, self.identity)
        values = torch.where(tokens.valid[..., None], values, torch.zeros_like(values))
        return Tokens(values, tokens.valid, pooled)


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """What a model says of a batch before views are combined.

    Attributes:
        log_hazard: One log-hazard per view.
        view_valid: True where a sample has the view.
        alignment_loss: Scalar, or None.
        attention: Named attention maps, or None.
    """

    log_hazard: Float[Tensor, "batch view"]
    view_valid: Bool[Tensor, "batch view"]
    alignment_loss: Float[Tensor, ""] | None
    attention: Mapping[str, Float[Tensor, "batch query key"]] | None


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Names and options of a model's parts.

    Attributes:
        fusion: Registered name of the fusion.
        fusion_options: Its options.
        head: Registered name of the head.
        head_options: Its options.
    """

    fusion: str
    fusion_options: Mapping[str, Any]
    head: str = "cox"
    head_options: Mapping[str, Any] | None = None


class TTEModel(nn.Module):
    """Projectors, fusion and head.

    Attributes:
        view_mean: Mean of each view's log-hazard on train.
        view_scale: Its standard deviation.
        view_weight: Weight of each standardised view in the risk; one view: the log-hazard passes
            unchanged.
        mean_risk: Train's mean risk, which stands in for a sample the model knows nothing of.
    """

    view_mean: Tensor
    view_scale: Tensor
    view_weight: Tensor
    mean_risk: Tensor

    def __init__(
        self, spec: ModelSpec, inputs: Mapping[Modality, InputDims], width: int, dropout: float
    ) -> None:
        """Build the parts; `inputs` holds both modalities."""
        super().__init__()
        dims = FusionDims(
            width, dropout, {modality: inputs[modality].features for modality in BOTH}
        )
        self.fusion: Fusion = FUSIONS.create(spec.fusion, dims, **spec.fusion_options)
        views = len(self.fusion.view_modalities)
        self.head: Head = HEADS.create(
            spec.head, self.fusion.view_dim, views, **(spec.head_options or {})
        )
        projected = self.fusion.uses if self.fusion.solver == "gradient" else ()
        self.projectors = nn.ModuleDict(
            {modality.value: _projector(inputs[modality], width) for modality in projected}
        )
        _start_orthogonal(self.fusion, self.projectors)
        self.fusion.start()
        for name, start in (("view_mean", 0.0), ("view_scale", 1.0), ("view_weight", 1.0)):
            self.register_buffer(name, torch.full((views,), start, dtype=torch.float64))
        self.register_buffer("mean_risk", torch.zeros((), dtype=torch.float64))

    def forward(self, pair: Pair) -> ModelOutput:
        """Return log-hazards per view, from scaled but unprojected inputs."""
        fused = self.fusion(self._project(pair))
        valid = fused.view_valid
        if valid is None:
            known = torch.stack([pair.of(modality).present for modality in self.fusion.uses]).any(0)
            valid = known[:, None].expand(-1, fused.views.shape[1])
        return ModelOutput(self.head(fused.views), valid, fused.alignment_loss, fused.attention)

    def risk(self, output: ModelOutput) -> Float[Tensor, " batch"]:
        """Combine the views into one risk on the log-hazard scale; higher = earlier event.

        One view: its log-hazard, unchanged. Several: the weighted sum ("stack", an absent view adds
        0) or the weighted mean ("mean", over the views that are there) of the standardised
        log-hazards. A sample without any view gets train's mean risk.
        """
        hazard = output.log_hazard.double()
        valid = output.view_valid
        if self.fusion.combine is not None:
            standardised = (hazard - self.view_mean) / self.view_scale
            hazard = torch.where(valid, standardised, torch.zeros_like(hazard)) * self.view_weight
        total = hazard.sum(1)
        if self.fusion.combine == "mean":
            total = total / valid.sum(1).clamp(min=1)
        return torch.where(valid.any(1), total, self.mean_risk.expand_as(total))

    def view_parameters(self, view: int) -> list[str]:
        """Return the names of the parameters a view depends on.

        All with one view, its own modality's with several.
        """
        modality = self.fusion.view_modalities[view]
        parts = [("fusion", self.fusion.view_parameters(view))]
        parts.append(("head", self.head.view_parameters(view)))
        for name, projector in self.projectors.items():
            if modality in (None, Modality(name)):
                own = [one for one, _ in projector.named_parameters()]
                parts.append((f"projectors.{name}", own))
        return [f"{part}.{name}" for part, names in parts for name in names]

    def _project(self, pair: Pair) -> Pair:
        if not self.projectors:
            return pair
        ct, ehr = (self._project_one(pair.of(modality), modality) for modality in BOTH)
        return Pair(ct, ehr, pair.subject)

    def _project_one(self, tokens: Tokens | CodeTokens, modality: Modality) -> Tokens | CodeTokens:
        if modality.value not in self.projectors:
            return tokens
        projected: Tokens = self.projectors[modality.value](tokens, not self.fusion.reads_tokens)
        return projected


def _start_orthogonal(*parts: nn.Module) -> None:
    """Start every linear map orthogonal.

    A chain of narrow random maps would blur the features before a single step is taken.

    On simulated cohorts with 27 events it raised the C-index of a latent width of 64 by about .01,
    to what a width of 128 gives without it.

    Source:
        Saxe, McClelland and Ganguli, Exact solutions to the nonlinear dynamics of learning in deep
        linear neural networks, ICLR 2014.
    """
    for part in parts:
        for module in part.modules():
            if isinstance(module, nn.Linear):
                nn.init.orthogonal_(module.weight)


def _projector(dims: InputDims, width: int) -> nn.Module:
    return TokenProjector(dims, width) if dims.kind == "tokens" else CodeProjector(dims, width)
