"""A small convex solver: penalised Cox regression on a dense design, to convergence."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize

from concordant.core.errors import ConcordantError
from concordant.core.survival import SurvivalTarget
from concordant.heads.cox import cox_negative_log_likelihood

LARGEST_COEFFICIENT = 10.0
"""Bound of a non-negative coefficient: a few tuning events in perfect order would otherwise send it to infinity."""


def solve_cox(
    design: Float[np.ndarray, "sample column"],
    target: SurvivalTarget,
    *,
    penalty: float = 0.0,
    start: Float[np.ndarray, " column"] | None = None,
    nonnegative: bool = False,
) -> Float[np.ndarray, " column"]:
    """Minimise the negative log partial likelihood (Efron) per event plus penalty / 2 times the squared coefficients.

    Args:
        design: One row per sample, float64.
        target: Time in days and event (1 = observed).
        penalty: Ridge penalty, >= 0.
        start: Where to start; zero by default.
        nonnegative: Keep every coefficient in [0, 10].

    Returns:
        The coefficients; larger = earlier event.

    Raises:
        ConcordantError: The solver did not converge.
    """
    columns = torch.from_numpy(np.ascontiguousarray(design, dtype=np.float64))
    time, event = torch.from_numpy(np.array(target.time, dtype=np.float64)), torch.from_numpy(np.array(target.event, dtype=np.int64))
    events = max(int((event == 1).sum()), 1)

    def objective(coefficient: Float[np.ndarray, " column"]) -> tuple[float, Float[np.ndarray, " column"]]:
        beta = torch.tensor(coefficient, dtype=torch.float64, requires_grad=True)
        loss = cox_negative_log_likelihood(columns @ beta, time, event) / events + penalty / 2 * (beta @ beta)
        loss.backward()  # type: ignore[no-untyped-call] # torch leaves this method untyped
        assert beta.grad is not None  # noqa: S101 # backward has just filled it; for the type checker
        return float(loss.detach()), beta.grad.numpy()

    first = np.zeros(design.shape[1]) if start is None else start
    bounds = [(0.0, LARGEST_COEFFICIENT)] * design.shape[1] if nonnegative else None
    found = minimize(objective, first, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 2000, "ftol": 1e-13, "gtol": 1e-8})
    if not np.isfinite(found.fun):
        raise ConcordantError("the Cox solver met a value that is not finite; check the inputs for extreme values")
    return np.asarray(found.x)
