"""The ridge Cox path of the `linear` strategy.

Solved to convergence, its penalty chosen on tuning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from concordant.core.survival import SurvivalTarget
from concordant.core.tokens import CodeTokens, Tokens
from concordant.fusion.linear import LinearTerm, pooled_features
from concordant.model import TTEModel
from concordant.training.batches import Batch
from concordant.training.cox_solver import solve_cox

PENALTIES = tuple(float(value) for value in np.logspace(2, -3, 21))
"""Candidates, from heavy to light.

The loss is per event and features are standardised, so one grid serves all cohorts.
"""


@dataclass(frozen=True, slots=True)
class RidgeChoice:
    """What was tried.

    Attributes:
        penalty: The candidate.
        loss: Its tuning loss.
    """

    penalty: float
    loss: float


def solve_ridge(model: TTEModel, train: Batch, tuning: Batch) -> list[RidgeChoice]:
    """Fit the coefficients of a linear model in place, and return the path.

    The tuning loss picks the penalty; the coefficients are those of train alone.
    """
    terms = {
        modality: model.fusion.get_submodule(f"terms.{modality.value}")
        for modality in model.fusion.uses
    }
    designs = [
        np.concatenate(
            [_design(batch.pair.of(modality), term) for modality, term in terms.items()], 1
        )
        for batch in (train, tuning)
    ]
    basis = _row_basis(designs[0])
    reduced = [design @ basis for design in designs]
    targets = [
        SurvivalTarget(batch.time.cpu().numpy(), batch.event.cpu().numpy())
        for batch in (train, tuning)
    ]
    path: list[RidgeChoice] = []
    best = start = np.zeros(basis.shape[1])
    for penalty in PENALTIES:
        start = solve_cox(reduced[0], targets[0], penalty=penalty, start=start)
        loss = float(
            model.head.loss(
                torch.from_numpy(reduced[1] @ start), tuning.time.cpu(), tuning.event.cpu()
            )
        )
        if not path or loss < min(choice.loss for choice in path):
            best = start
        path.append(RidgeChoice(penalty, loss))
    _store(basis @ best, [_term(module) for module in terms.values()], model.head)
    return path


def _design(tokens: Tokens | CodeTokens, term: nn.Module) -> Float[np.ndarray, "sample column"]:
    """Return the features a term multiplies, and the column that says that they are there."""
    size = _term(term).coefficient.numel()
    if isinstance(tokens, CodeTokens):
        features = torch.zeros(len(tokens.valid), size, dtype=torch.float64)
        weight = (tokens.weight * tokens.valid).double().cpu()
        features.scatter_add_(1, (tokens.index * tokens.valid).cpu(), weight)
    else:
        features = pooled_features(tokens).double().cpu()
    return torch.cat([features, tokens.present.double().cpu()[:, None]], 1).numpy()


def _row_basis(design: Float[np.ndarray, "sample column"]) -> Float[np.ndarray, "column basis"]:
    """Return an orthonormal basis of the row space.

    The ridge solution lies in it (representer theorem), so wide data stay cheap.
    """
    if design.shape[1] <= design.shape[0]:
        return np.eye(design.shape[1])
    _, singular, rows = np.linalg.svd(design, full_matrices=False)
    return np.asarray(rows[singular > 1e-10 * singular[0]].T)


def _store(
    solution: Float[np.ndarray, " column"], terms: Sequence[LinearTerm], head: nn.Module
) -> None:
    place = 0
    with torch.no_grad():
        for term in terms:
            size = term.coefficient.numel()
            term.coefficient.copy_(torch.from_numpy(solution[place : place + size]))
            term.present.copy_(torch.tensor(solution[place + size]))
            place += size + 1
        output = head.get_submodule("layers.0")
        for parameter, value in zip(output.parameters(), (1.0, 0.0), strict=True):
            parameter.fill_(value)


def _term(module: nn.Module) -> LinearTerm:
    if not isinstance(module, LinearTerm):
        raise TypeError("a ridge solution needs linear terms")
    return module
