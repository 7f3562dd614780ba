"""The two passes: gradients of the whole batch, chunk by chunk, with the same dropout in both."""

from __future__ import annotations

import pytest
import torch
from fusion_cases import CASES, IDS

from concordant.core.modality import Modality
from concordant.fusion import FUSIONS, Phase
from concordant.model import ModelSpec, TTEModel
from concordant.training.gradients import backward, survival_loss
from concordant.training.scaling import fit_scaling
from training_fixture import make_batch, make_samples

GRADIENT_CASES = [
    pytest.param(name, options, id=label)
    for (name, options), label in zip(CASES, IDS, strict=True)
    if FUSIONS.get(name).solver == "gradient"
]


def make(name, options, dropout, n=23):
    samples = make_samples(n)
    scaling = {modality: fit_scaling(samples.table(modality)) for modality in Modality}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = TTEModel(
            ModelSpec(name, options),
            {modality: scaling[modality].dims for modality in Modality},
            8,
            dropout,
        )
        for parameter in model.head.parameters():
            torch.nn.init.normal_(parameter)
    return model.train(), make_batch(samples, scaling)


def gradients(model, run, seed=3):
    model.zero_grad()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        loss = run()
    return loss, {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def assert_same(found, expected):
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    for name, gradient in expected[1].items():
        torch.testing.assert_close(
            found[1].get(name, torch.zeros_like(gradient)), gradient, rtol=1e-4, atol=1e-6, msg=name
        )


@pytest.mark.parametrize(("name", "options"), GRADIENT_CASES)
def test_chunks_without_dropout_give_the_gradient_of_the_whole_batch(name, options):
    model, batch = make(name, options, 0.0)
    whole = gradients(model, lambda: backward(model, batch, Phase(), None))
    assert any(gradient.any() for gradient in whole[1].values())
    for size in (2, 9, 22, 23, 100):
        assert_same(
            gradients(model, lambda size=size: backward(model, batch, Phase(), size)), whole
        )


@pytest.mark.parametrize("alignment", [0.0, 0.7])
@pytest.mark.parametrize(("name", "options"), GRADIENT_CASES)
def test_the_second_pass_repeats_the_dropout_of_the_first(name, options, alignment):
    model, batch = make(name, options, 0.5)
    size = 6

    def reference():
        """All chunks held in memory at once, one ordinary backward pass."""
        slices = [
            slice(start, min(start + size, len(batch))) for start in range(0, len(batch), size)
        ]
        outputs = [model(batch.pair.rows(rows)) for rows in slices]
        hazard, valid = (
            torch.cat([getattr(one, part) for one in outputs])
            for part in ("log_hazard", "view_valid")
        )
        loss = survival_loss(model, hazard, valid, batch)
        for rows, one in zip(slices, outputs, strict=True):
            if one.alignment_loss is not None:
                loss = loss + alignment * one.alignment_loss * (rows.stop - rows.start) / len(batch)
        loss.backward()
        return float(loss.detach())

    found = gradients(model, lambda: backward(model, batch, Phase(alignment=alignment), size))
    assert_same(found, gradients(model, reference))


def test_a_phase_of_alignment_alone_leaves_the_head_alone():
    model, batch = make("contrastive", {}, 0.0)
    for size in (None, 8):
        _, found = gradients(
            model,
            lambda size=size: backward(model, batch, Phase(time_to_event=0.0, alignment=1.0), size),
        )
        assert not any(
            gradient.any() for name, gradient in found.items() if name.startswith("head.")
        )
        assert found["fusion.ct.weight"].any()
        assert found["fusion.logit_scale"].any()


def test_the_loss_of_late_fusion_is_the_sum_of_its_views_over_those_who_have_them():
    model, batch = make("late", {}, 0.0)
    output = model(batch.pair)
    total = survival_loss(model, output.log_hazard, output.view_valid, batch)
    parts = []
    for view, modality in enumerate(Modality):
        rows = batch.pair.of(modality).present
        assert 0 < rows.sum() < len(batch)
        parts.append(
            model.head.loss(output.log_hazard[rows, view], batch.time[rows], batch.event[rows])
        )
    torch.testing.assert_close(total, torch.stack(parts).sum())
