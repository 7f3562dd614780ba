"""Cox proportional hazards.

The exact partial likelihood of the whole batch, and Breslow's baseline.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from concordant.heads.base import HEADS, Head

_ABSENT = -1e30  # a log-hazard that adds nothing to any risk set and, unlike -inf, stays a number

Ties = Literal["efron", "breslow"]


class CoxOrder(NamedTuple):
    """What the partial likelihood needs of the outcomes; places count from the latest time.

    Attributes:
        order: Sample in each place; samples that are left out come last.
        valid: True where the sample of a place takes part; None = all do.
        observed: True where it has the event.
        last: Last place of the same time, where its risk set is complete.
        first: First place of the same time, counted from the earliest.
        share: Part of the hazard tied that an event no longer sees (Efron; 0 for Breslow).
    """

    order: Int[Tensor, " batch"]
    valid: Bool[Tensor, " batch"] | None
    observed: Bool[Tensor, " batch"]
    last: Int[Tensor, " batch"]
    first: Int[Tensor, " batch"]
    share: Float[Tensor, " batch"]


def cox_order(
    time: Float[Tensor, " batch"],
    event: Int[Tensor, " batch"],
    valid: Bool[Tensor, " batch"] | None = None,
    ties: Ties = "efron",
) -> CoxOrder:
    """Sort outcomes for `cox_negative_log_likelihood`; arguments as there."""
    kept = time if valid is None else torch.where(valid, time, -torch.inf)
    sorted_time, order = torch.sort(kept, descending=True, stable=True)
    there = None if valid is None else valid[order]
    observed = event[order] == 1
    observed = observed if there is None else observed & there
    group = _group_of(sorted_time)
    places = torch.arange(len(time), device=time.device)
    nobody = torch.zeros_like(group)
    last = nobody.scatter_reduce(0, group, places, "amax")[group]
    first = nobody.scatter_reduce(0, group, places, "amin", include_self=False)[group]
    share = torch.zeros_like(sorted_time, dtype=torch.float64)
    if ties == "efron":
        one = observed.double()
        counted = torch.cumsum(one, 0)
        before = counted - one
        share = one * (before - before[first]) / (counted[last] - before[first]).clamp(min=1)
    return CoxOrder(order, there, observed, last, len(time) - 1 - first, share)


def cox_negative_log_likelihood(
    log_hazard: Float[Tensor, " batch"],
    time: Float[Tensor, " batch"],
    event: Int[Tensor, " batch"],
    ties: Ties = "efron",
    *,
    valid: Bool[Tensor, " batch"] | None = None,
    order: CoxOrder | None = None,
) -> Float[Tensor, ""]:
    """Return the negative log partial likelihood, summed over events.

    Computed in log space, so that it is finite at log-hazards of +-1000; no shape depends on the
    data, so that it runs under `vmap`. It can be differentiated once.

    Args:
        log_hazard: Log-hazard, higher = earlier event.
        time: Days, > 0. Someone censored at an event time is still at risk there.
        event: 1 = observed, anything else = censored (cause-specific).
        ties: "efron" (the better approximation, R's default) or "breslow".
        valid: False leaves a sample out of events and risk sets; None = all take part.
        order: `cox_order` of the same outcomes, where it is at hand: sorting them is most of the
            work.

    Returns:
        A scalar; 0 where no event is observed.

    Source:
        Efron, The efficiency of Cox's likelihood function for censored data, JASA 72 (1977), with
        the tied-risk correction in log space: log(R - l/d D) = log R + log1p(-(l/d) exp(log D - log
        R)).
    """
    outcomes = cox_order(time, event, valid, ties) if order is None else order
    apply = cast(Callable[..., tuple[Tensor, Tensor]], _PartialLikelihood.apply)
    return apply(log_hazard, *outcomes)[0]


class _PartialLikelihood(torch.autograd.Function):
    """The likelihood with its gradient in closed form: two cumulative sums in place of autograd's
    chain through a logarithm, an exponential and two sortings.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(log_hazard: Tensor, *outcomes: Any) -> tuple[Tensor, Tensor]:
        return _value_and_gradient(log_hazard, CoxOrder(*outcomes))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        return upstream[0] * ctx.saved_tensors[0], *[None] * len(CoxOrder._fields)


def _value_and_gradient(
    log_hazard: Float[Tensor, " batch"], outcomes: CoxOrder
) -> tuple[Float[Tensor, ""], Float[Tensor, " batch"]]:
    order, valid, observed, last, first, share = outcomes
    hazard = log_hazard[order]
    hazard = hazard if valid is None else torch.where(valid, hazard, _ABSENT)
    risk_set = torch.logcumsumexp(hazard, 0)[last]
    relative = torch.where(observed, torch.exp(hazard - risk_set), 0.0)
    seen = 1.0 - share * _tied(relative, last)  # what an event sees of its risk set
    log_seen = risk_set + torch.log(seen)
    value = torch.where(observed, log_seen - hazard, 0.0).sum()
    # a sample's expected events: its hazard over what each event saw while the sample was at risk
    rate = torch.where(observed, -log_seen, -torch.inf).flip(0)
    expected = torch.exp(hazard + torch.logcumsumexp(rate, 0)[first])
    spared = relative * _tied(share / seen, last)
    gradient = expected - spared - observed.to(hazard.dtype)
    gradient = gradient if valid is None else torch.where(valid, gradient, 0.0)
    return value, torch.zeros_like(gradient).scatter(0, order, gradient)


def _tied(values: Float[Tensor, " batch"], last: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Return the sum over the places of the same time."""
    return torch.zeros_like(values).scatter_add(0, last, values)[last]


def _group_of(sorted_time: Float[Tensor, " batch"]) -> Int[Tensor, " batch"]:
    """Number the distinct times, in the order of sorting."""
    new = sorted_time[1:] != sorted_time[:-1]
    return torch.cat([new.new_zeros(1), new]).cumsum(0)


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
        self.ties: Ties = ties
        self.register_buffer("baseline_times", torch.zeros(0, dtype=torch.float64))
        self.register_buffer("baseline_log_cumulative_hazard", torch.zeros(0, dtype=torch.float64))

    def forward(self, views: Float[Tensor, "batch view dim"]) -> Float[Tensor, "batch view"]:
        """Return the log-hazard of each view; higher = earlier event."""
        return torch.cat([layer(views[:, place]) for place, layer in enumerate(self.layers)], dim=1)

    def prepare(
        self,
        time: Float[Tensor, " batch"],
        event: Int[Tensor, " batch"],
        valid: Bool[Tensor, " batch"] | None = None,
    ) -> CoxOrder:
        """Sort the outcomes, once for all epochs."""
        return cox_order(time, event, valid, self.ties)

    def loss(
        self,
        log_hazard: Float[Tensor, " batch"],
        time: Float[Tensor, " batch"],
        event: Int[Tensor, " batch"],
        valid: Bool[Tensor, " batch"] | None = None,
        *,
        order: CoxOrder | None = None,
    ) -> Float[Tensor, ""]:
        """Return the negative log partial likelihood per observed event, in double precision."""
        outcomes = self.prepare(time, event, valid) if order is None else order
        total = cox_negative_log_likelihood(log_hazard.double(), time, event, order=outcomes)
        return total / outcomes.observed.sum().clamp(min=1)

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
        order, _, observed, last, _, _ = cox_order(time, event)
        risk_set = torch.logcumsumexp(risk[order].double(), 0)[last]
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
