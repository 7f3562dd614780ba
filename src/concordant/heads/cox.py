"""Cox proportional hazards.

The exact partial likelihood of the whole batch, and Breslow's baseline.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from concordant.heads.base import HEADS, Head

_ABSENT = (
    -1e30
)  # a log-hazard that adds nothing to any risk set and, unlike -inf, keeps gradients finite


def cox_negative_log_likelihood(
    log_hazard: Float[Tensor, " batch"],
    time: Float[Tensor, " batch"],
    event: Int[Tensor, " batch"],
    ties: Literal["efron", "breslow"] = "efron",
    *,
    valid: Bool[Tensor, " batch"] | None = None,
) -> Float[Tensor, ""]:
    """Return the negative log partial likelihood, summed over events.

    Computed in log space, so that it is finite at log-hazards of +-1000; no shape depends on the
    data, so that it runs under `vmap`.

    Args:
        log_hazard: Log-hazard, higher = earlier event.
        time: Days, > 0. Someone censored at an event time is still at risk there.
        event: 1 = observed, anything else = censored (cause-specific).
        ties: "efron" (the better approximation, R's default) or "breslow".
        valid: False leaves a sample out of events and risk sets; None = all take part.

    Returns:
        A scalar; 0 where no event is observed.

    Source:
        Efron, The efficiency of Cox's likelihood function for censored data, JASA 72 (1977), with
        the tied-risk correction in log space: log(R - l/d D) = log R + log1p(-(l/d) exp(log D - log
        R)).
    """
    order = torch.argsort(time, descending=True, stable=True)
    group = _group_of(time[order])
    observed = event[order] == 1
    hazard = log_hazard[order]
    if valid is not None:
        observed = observed & valid[order]
        hazard = torch.where(valid[order], hazard, torch.full_like(hazard, _ABSENT))
    risk_set = torch.logcumsumexp(hazard, 0)[_last_of(group)]
    terms = risk_set - hazard
    if ties == "efron":
        terms = terms + _efron_correction(hazard, risk_set, group, observed)
    return torch.where(observed, terms, torch.zeros_like(terms)).sum()


def _group_of(sorted_time: Float[Tensor, " batch"]) -> Int[Tensor, " batch"]:
    """Number the distinct times, in the order of sorting."""
    new = torch.ones_like(sorted_time, dtype=torch.long)
    new[1:] = (sorted_time[1:] != sorted_time[:-1]).long()
    return torch.cumsum(new, 0) - 1


def _last_of(group: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
    """Return for each place the last place of its group, where the cumulative risk set is
    complete.
    """
    places = torch.arange(len(group), device=group.device)
    return torch.zeros_like(group).scatter_reduce(0, group, places, "amax")[group]


def _efron_correction(
    hazard: Float[Tensor, " batch"],
    risk_set: Float[Tensor, " batch"],
    group: Int[Tensor, " batch"],
    observed: Bool[Tensor, " batch"],
) -> Float[Tensor, " batch"]:
    """Return log1p(-(l/d) D/R): the l-th of d tied events sees the tied hazard D reduced by l/d."""
    count = (
        torch.zeros_like(hazard)
        .scatter_add(0, group, observed.to(hazard.dtype))[group]
        .clamp(min=1)
    )
    before = torch.cumsum(observed.to(hazard.dtype), 0) - observed.to(hazard.dtype)
    first = torch.zeros_like(hazard).scatter_reduce(0, group, before, "amin", include_self=False)[
        group
    ]
    share = torch.where(observed, (before - first) / count, torch.zeros_like(hazard))
    relative = torch.where(observed, hazard - risk_set, torch.full_like(hazard, _ABSENT))
    tied = torch.zeros_like(hazard).scatter_add(0, group, torch.exp(relative))[group]
    return torch.log1p(-share * tied)


@HEADS.register("cox")
class Cox(Head):
    """Cox proportional hazards with Breslow's baseline.

    Attributes:
        ties: Treatment of tied event times.
    """

    baseline_times: Tensor
    baseline_log_cumulative_hazard: Tensor

    def __init__(
        self, dim: int, views: int, *, ties: Literal["efron", "breslow"] = "efron"
    ) -> None:
        """Start without a baseline; the biases stay at zero.

        A constant cancels in the partial likelihood: its gradient is rounding noise, which Adam
        would blow up to steps of the full learning rate. The baseline hazard is the intercept.
        """
        super().__init__(dim, views)
        for layer in self.layers:
            layer.get_parameter("bias").requires_grad_(False)
        self.ties: Literal["efron", "breslow"] = ties
        self.register_buffer("baseline_times", torch.zeros(0, dtype=torch.float64))
        self.register_buffer("baseline_log_cumulative_hazard", torch.zeros(0, dtype=torch.float64))

    def forward(self, views: Float[Tensor, "batch view dim"]) -> Float[Tensor, "batch view"]:
        """Return the log-hazard of each view; higher = earlier event."""
        return torch.cat([layer(views[:, place]) for place, layer in enumerate(self.layers)], dim=1)

    def loss(
        self,
        log_hazard: Float[Tensor, " batch"],
        time: Float[Tensor, " batch"],
        event: Int[Tensor, " batch"],
        valid: Bool[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, ""]:
        """Return the negative log partial likelihood per observed event, in double precision."""
        observed = (event == 1) if valid is None else (event == 1) & valid
        total = cox_negative_log_likelihood(
            log_hazard.double(), time, event, self.ties, valid=valid
        )
        return total / observed.sum().clamp(min=1)

    def fit_baseline(
        self,
        risk: Float[Tensor, " subject"],
        time: Float[Tensor, " subject"],
        event: Int[Tensor, " subject"],
    ) -> None:
        """Fit Breslow's cumulative baseline hazard H0(t) = sum over event times of d / sum
        exp(risk) at risk.

        Source:
            Breslow, discussion of Cox, JRSS B 34 (1972).
        """
        order = torch.argsort(time, descending=True, stable=True)
        group = _group_of(time[order])
        risk_set = torch.logcumsumexp(risk[order].double(), 0)[_last_of(group)]
        observed = event[order] == 1
        increments = torch.exp(-risk_set[observed] + risk_set.max()).flip(0)
        self.baseline_times = time[order][observed].double().flip(0).contiguous()
        self.baseline_log_cumulative_hazard = (
            torch.log(torch.cumsum(increments, 0)) - risk_set.max()
        )

    def survival(
        self, risk: Float[Tensor, " subject"], times: Float[Tensor, " time"]
    ) -> Float[Tensor, "subject time"]:
        """Return S(t) = exp(-H0(t) exp(risk)).

        1 before the first event of train, constant after the last.
        """
        place = torch.searchsorted(self.baseline_times, times.double().contiguous(), right=True)
        start = torch.full((1,), -torch.inf, dtype=torch.float64, device=risk.device)
        log_hazard = torch.cat([start, self.baseline_log_cumulative_hazard])[place]
        return torch.exp(-torch.exp(risk.double()[:, None] + log_hazard[None, :]))
