"""The alignment loss against its definition, and the two regimes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from concordant.core.modality import Modality
from concordant.core.tokens import Pair, Tokens
from concordant.fusion import FUSIONS, FusionDims, Phase
from concordant.fusion.contrastive import contrastive_loss


def slow_loss(ct, ehr, logit_scale, paired, subject=None):
    """Row by row, in plain numbers.

    Each pair against the candidates of other subjects, both ways.
    """
    scale = math.exp(min(max(logit_scale, 0.0), math.log(100.0)))
    unit = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in (ct, ehr)]
    rows = np.flatnonzero(paired)
    total = 0.0
    for asks, answers in (unit, unit[::-1]):
        for row in rows:
            others = [
                place
                for place in rows
                if place != row and (subject is None or subject[place] != subject[row])
            ]
            logits = [scale * float(asks[row] @ answers[place]) for place in (row, *others)]
            total += math.log(sum(math.exp(logit - logits[0]) for logit in logits)) / 2
    return total / max(len(rows), 1)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 9), st.integers(0, 10**6), st.floats(-3, 6), st.booleans())
def test_the_loss_equals_its_definition(batch, seed, logit_scale, with_subjects):
    rng = np.random.default_rng(seed)
    ct, ehr = rng.normal(size=(2, batch, 4))
    paired, subject = rng.random(batch) < 0.7, rng.integers(0, 4, batch) if with_subjects else None
    found = contrastive_loss(
        torch.tensor(ct),
        torch.tensor(ehr),
        torch.tensor(logit_scale, dtype=torch.float64),
        torch.tensor(paired),
        None if subject is None else torch.tensor(subject),
    )
    assert float(found) == pytest.approx(
        slow_loss(ct, ehr, logit_scale, paired, subject), rel=1e-9, abs=1e-12
    )


def aligned(n=6):
    return (
        torch.eye(n, dtype=torch.float64),
        torch.ones(n, dtype=torch.bool),
        torch.tensor(2.0, dtype=torch.float64),
    )


def test_aligned_pairs_cost_less_than_pairs_that_are_mixed_up():
    latent, paired, scale = aligned()
    assert contrastive_loss(latent, latent, scale, paired) < contrastive_loss(
        latent, latent.roll(1, 0), scale, paired
    )


def test_the_length_of_a_latent_and_the_order_of_modalities_are_of_no_account():
    rng = torch.Generator().manual_seed(0)
    ct, ehr = torch.randn(2, 6, 4, generator=rng, dtype=torch.float64)
    _, paired, scale = aligned()
    loss = contrastive_loss(ct, ehr, scale, paired)
    torch.testing.assert_close(contrastive_loss(ct * 50, ehr * 0.01, scale, paired), loss)
    torch.testing.assert_close(contrastive_loss(ehr, ct, scale, paired), loss)


def test_samples_that_lack_a_modality_neither_pay_nor_serve_as_negatives():
    rng = torch.Generator().manual_seed(0)
    ct, ehr = torch.randn(2, 6, 4, generator=rng, dtype=torch.float64)
    _, paired, scale = aligned()
    paired[[1, 4]] = False
    expected = contrastive_loss(ct[paired], ehr[paired], scale, torch.ones(4, dtype=torch.bool))
    torch.testing.assert_close(contrastive_loss(ct, ehr, scale, paired), expected)
    other = torch.where(paired[:, None], ct, torch.full_like(ct, 9.0))
    torch.testing.assert_close(contrastive_loss(other, ehr, scale, paired), expected)


def test_two_scans_of_one_subject_do_not_repel_each_other():
    latent, paired, scale = aligned(3)
    twice, subject = latent[[0, 0, 1]], torch.tensor([5, 5, 8])
    assert contrastive_loss(twice, twice, scale, paired, subject) < contrastive_loss(
        twice, twice, scale, paired
    )
    assert float(contrastive_loss(twice[:2], twice[:2], scale, paired[:2], subject[:2])) == 0


@pytest.mark.parametrize("pairs", [0, 1])
def test_without_a_negative_the_loss_and_its_gradient_are_zero(pairs):
    ct = torch.randn(4, 3, requires_grad=True)
    paired = torch.arange(4) < pairs
    loss = contrastive_loss(ct, torch.randn(4, 3), torch.tensor(2.0), paired)
    loss.backward()
    assert float(loss.detach()) == 0
    assert (ct.grad == 0).all()


def test_latents_of_length_zero_keep_the_gradient_finite():
    ct = torch.zeros(4, 3, requires_grad=True)
    contrastive_loss(
        ct, torch.randn(4, 3), torch.tensor(2.0), torch.ones(4, dtype=torch.bool)
    ).backward()
    assert torch.isfinite(ct.grad).all()


@pytest.mark.parametrize(("given_scale", "used"), [(-5.0, 0.0), (9.0, math.log(100.0))])
def test_the_temperature_stays_in_its_bounds(given_scale, used):
    rng = torch.Generator().manual_seed(0)
    ct, ehr = torch.randn(2, 6, 4, generator=rng)
    everyone = torch.ones(6, dtype=torch.bool)
    found, expected = (
        contrastive_loss(ct, ehr, torch.tensor(scale), everyone) for scale in (given_scale, used)
    )
    torch.testing.assert_close(found, expected)


DIMS = FusionDims(8, 0.0, dict.fromkeys(Modality, 5))


def test_the_joint_regime_is_one_phase_and_the_two_stage_regime_aligns_first():
    assert FUSIONS.create("contrastive", DIMS, align_weight=0.3).phases == (Phase(alignment=0.3),)
    first, second = FUSIONS.create("contrastive", DIMS, regime="two_stage", align_epochs=7).phases
    assert (first.time_to_event, first.alignment, first.epochs) == (0.0, 1.0, 7)
    assert second == Phase()


def test_the_temperature_starts_at_that_of_clip():
    assert float(FUSIONS.create("contrastive", DIMS).logit_scale.detach().exp()) == pytest.approx(
        1 / 0.07
    )


def test_the_view_does_not_depend_on_the_company_and_the_alignment_loss_does():
    fusion = FUSIONS.create("contrastive", DIMS).eval()
    rng = torch.Generator().manual_seed(0)
    ct, ehr = (
        Tokens(
            torch.randn(5, 2, 8, generator=rng),
            torch.ones(5, 2, dtype=torch.bool),
            torch.randn(5, 8, generator=rng),
        )
        for _ in "ab"
    )
    whole = fusion(Pair(ct, ehr))
    part = fusion(
        Pair(*(Tokens(one.values[:3], one.valid[:3], one.pooled[:3]) for one in (ct, ehr)))
    )
    torch.testing.assert_close(whole.views[:3], part.views)
    assert not torch.allclose(whole.alignment_loss, part.alignment_loss)
