"""The gradient of the full-batch loss, whole or chunk by chunk (two passes), so that the risk
set stays exact at any memory.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from concordant.fusion import Phase
from concordant.model import ModelOutput, TTEModel
from concordant.training.batches import Batch


def survival_loss(
    model: TTEModel,
    log_hazard: Float[Tensor, "batch view"],
    valid: Bool[Tensor, "batch view"],
    batch: Batch,
) -> Float[Tensor, ""]:
    """Return the sum of the views' losses, each over the samples that have the view."""
    return torch.stack(batch.view_losses(model.head, log_hazard, valid)).sum()


def backward(model: TTEModel, batch: Batch, phase: Phase, chunk_size: int | None) -> float:
    """Accumulate the gradient of a phase's loss and return the loss."""
    if chunk_size is None or chunk_size >= len(batch):
        output = model(batch.pair)
        loss = _weighted(
            phase, survival_loss(model, output.log_hazard, output.view_valid, batch), output
        )
        loss.backward()  # type: ignore[no-untyped-call] # torch leaves this method untyped
        return float(loss.detach())
    return _backward_in_chunks(model, batch, phase, chunk_size)


def _weighted(phase: Phase, survival: Float[Tensor, ""], output: ModelOutput) -> Float[Tensor, ""]:
    loss = phase.time_to_event * survival
    if phase.alignment and output.alignment_loss is not None:
        loss = loss + phase.alignment * output.alignment_loss
    return loss


def _backward_in_chunks(model: TTEModel, batch: Batch, phase: Phase, chunk_size: int) -> float:
    """Find the loss's gradient in the log-hazards (pass 1), then repeat each chunk with the same
    dropout and send it through (pass 2).

    The survival loss is exact. The alignment loss, which is one of batches by nature, is taken
    within chunks.

    Source:
        Gao et al., Scaling deep contrastive learning batch size under memory limited setup,
        RepL4NLP 2021 (gradient caching).
    """
    slices = [
        slice(start, min(start + chunk_size, len(batch)))
        for start in range(0, len(batch), chunk_size)
    ]
    states, outputs = [], []
    with torch.no_grad():
        for rows in slices:
            states.append(_random_state(batch.time.device))
            outputs.append(model(batch.pair.rows(rows)))
    hazard = torch.cat([output.log_hazard for output in outputs]).requires_grad_()
    valid = torch.cat([output.view_valid for output in outputs])
    loss = phase.time_to_event * survival_loss(model, hazard, valid, batch)
    (gradient,) = torch.autograd.grad(loss, hazard)
    total = float(loss.detach())
    for rows, state in zip(slices, states, strict=True):
        _restore(state, batch.time.device)
        output = model(batch.pair.rows(rows))
        surrogate = (output.log_hazard * gradient[rows]).sum()
        if phase.alignment and output.alignment_loss is not None:
            part = phase.alignment * output.alignment_loss * ((rows.stop - rows.start) / len(batch))
            surrogate = surrogate + part
            total += float(part.detach())
        surrogate.backward()
    return total


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _restore(state: Tensor, device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
