"""What the contract tests of fusion share.

Every strategy with every variant of its options, and random batches.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import torch

from concordant.core.modality import Modality
from concordant.core.tokens import CodeTokens, Pair, Tokens
from concordant.fusion import FUSIONS
from concordant.model import InputDims, ModelSpec, TTEModel

VARIANTS: dict[str, list[dict[str, str]]] = {
    "unimodal": [{"modality": "ct"}, {"modality": "ehr"}],
    "linear": [{}, {"modality": "ct"}, {"modality": "ehr"}],
    "late": [{}, {"combine": "mean"}],
    "contrastive": [{}, {"regime": "two_stage"}],
    "cross_attention": [{"query": query} for query in ("ct", "ehr", "both")],
    "co_attention": [{"guide": guide} for guide in ("ct", "ehr", "both")],
}

CASES = [(name, options) for name in FUSIONS for options in VARIANTS.get(name, [{}])]
IDS = [FUSIONS.label(name, options) for name, options in CASES]

CT_DIM, EHR_DIM, VOCABULARY, WIDTH = 5, 6, 9, 8

DIMS = {
    "tokens": {
        Modality.CT: InputDims("tokens", CT_DIM, 4),
        Modality.EHR: InputDims("tokens", EHR_DIM),
    },
    "codes": {
        Modality.CT: InputDims("tokens", CT_DIM, 4),
        Modality.EHR: InputDims("codes", VOCABULARY, None, 3.0),
    },
}

PRESENCE = list(product((True, False), repeat=2))


def make_model(name: str, options: dict[str, str], kind: str = "tokens", seed: int = 0) -> TTEModel:
    """Build a model whose heads do not start at zero, so that a risk depends on what it is
    given.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = TTEModel(ModelSpec(name, options), DIMS[kind], WIDTH, 0.0)
        with torch.no_grad():
            for parameter in model.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.5)
    return model.eval()


def make_pair(
    kind: str = "tokens", batch: int = 6, seed: int = 0, ct: bool = True, ehr: bool = True
) -> Pair:
    """Draw a batch; a modality that is left out is missing in every sample."""
    rng = torch.Generator().manual_seed(seed)
    ct_tokens = Tokens(
        _normal(rng, batch, 4, CT_DIM), _valid(rng, batch, 4) & ct, _normal(rng, batch, 4)
    )
    if kind == "tokens":
        ehr_tokens = Tokens(_normal(rng, batch, 3, EHR_DIM), _valid(rng, batch, 3) & ehr)
        return Pair(ct_tokens, ehr_tokens).cleaned()
    index = torch.randint(VOCABULARY, (batch, 5), generator=rng)
    codes = CodeTokens(index, _normal(rng, batch, 5), _valid(rng, batch, 5) & ehr)
    return Pair(ct_tokens, codes).cleaned()


def _normal(rng: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=rng)


def _valid(rng: torch.Generator, batch: int, tokens: int) -> torch.Tensor:
    """Leave some tokens out, never the first two."""
    valid = torch.rand(batch, tokens, generator=rng) > 0.4
    valid[:, :2] = True
    return valid


def risk_of(model: TTEModel, pair: Pair) -> np.ndarray:
    with torch.no_grad():
        return model.risk(model(pair)).numpy()
