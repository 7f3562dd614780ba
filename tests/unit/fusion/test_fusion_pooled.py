"""The strategies that read pooled vectors alone: unimodal, concat, late, linear."""

from __future__ import annotations

import pytest
import torch

from concordant.core.modality import Modality
from concordant.core.tokens import CodeTokens, Pair, Tokens
from concordant.fusion import BOTH, FUSIONS, FusionDims, modalities_used
from concordant.fusion.layers import presence
from concordant.fusion.linear import pooled_features

CT, EHR = BOTH
WIDTH = 6
DIMS = FusionDims(WIDTH, 0.0, {CT: 4, EHR: 5})


def projected(valid, seed=0):
    """Tokens as a projector leaves them.

    The pooled vector is zero where the modality is missing.
    """
    rng = torch.Generator().manual_seed(seed)
    valid = torch.tensor(valid, dtype=torch.bool)
    pooled = torch.randn(len(valid), WIDTH, generator=rng) * valid.any(1, keepdim=True)
    return Tokens(torch.randn(*valid.shape, WIDTH, generator=rng), valid, pooled)


PAIR = Pair(projected([[1, 1], [1, 0], [0, 0], [0, 0]]), projected([[1], [0], [1], [0]], seed=1))


def build(name, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FUSIONS.create(name, DIMS, **options).eval()


@pytest.mark.parametrize("modality", BOTH)
def test_unimodal_sees_its_modality_and_says_who_has_it(modality):
    fusion = build("unimodal", modality=modality)
    found = fusion(PAIR)
    torch.testing.assert_close(found.views[:, 0], fusion.branch(PAIR.of(modality).pooled))
    assert found.view_valid[:, 0].tolist() == PAIR.of(modality).present.tolist()
    assert fusion.view_modalities == fusion.uses == (modality,)


def test_concat_tells_a_missing_modality_from_a_zero_vector():
    fusion = build("concat")
    zero = Tokens(PAIR.ct.values, PAIR.ct.valid, torch.zeros(4, WIDTH))
    missing = Tokens(PAIR.ct.values, torch.zeros_like(PAIR.ct.valid), torch.zeros(4, WIDTH))
    views = [fusion(Pair(ct, PAIR.ehr)).views[0] for ct in (zero, missing)]
    assert not torch.allclose(*views)
    assert presence(PAIR).tolist() == [[1, 1], [1, 0], [0, 1], [0, 0]]


@pytest.mark.parametrize("combine", ["stack", "mean"])
def test_each_view_of_late_fusion_is_a_function_of_its_modality_alone(combine):
    fusion = build("late", combine=combine)
    first = fusion(PAIR)
    other = fusion(Pair(PAIR.ct, projected([[1], [1], [1], [1]], seed=9)))
    assert torch.equal(first.views[:, 0], other.views[:, 0])
    assert not torch.allclose(first.views[:, 1], other.views[:, 1])
    assert first.view_valid.tolist() == presence(PAIR).bool().tolist()
    assert fusion.combine == combine
    assert fusion.view_modalities == BOTH


def linear_inputs():
    """A scan with a pooled vector of its own, a record of codes, each in every pattern of
    availability.
    """
    rng = torch.Generator().manual_seed(2)
    ct = Tokens(
        torch.randn(4, 2, 3, generator=rng), PAIR.ct.valid, torch.randn(4, 4, generator=rng)
    )
    valid = torch.tensor([[True, True], [False, False], [True, False], [False, False]])
    return Pair(
        ct,
        CodeTokens(
            torch.tensor([[0, 3], [0, 0], [4, 0], [0, 0]]), torch.randn(4, 2, generator=rng), valid
        ),
    )


def test_linear_is_the_sum_of_the_terms_of_what_is_there():
    fusion, pair = build("linear"), linear_inputs()
    rng = torch.Generator().manual_seed(3)
    for parameter in fusion.parameters():
        parameter.data = torch.randn(parameter.shape, generator=rng)
    found = fusion(pair)
    terms, weight = fusion.terms, pair.ehr.weight
    scan = pair.ct.pooled @ terms["ct"].coefficient + terms["ct"].present
    beta, there = terms["ehr"].coefficient, terms["ehr"].present
    record = [
        weight[0, 0] * beta[0] + weight[0, 1] * beta[3] + there,
        weight[2, 0] * beta[4] + there,
    ]
    expected = torch.stack([scan[0] + record[0], scan[1], record[1], torch.zeros(())])
    torch.testing.assert_close(found.views[:, 0, 0], expected)
    assert found.view_valid[:, 0].tolist() == [True, True, True, False]


def test_the_features_of_a_scan_are_its_pooled_vector_or_else_the_mean_of_its_valid_tokens():
    ct = linear_inputs().ct
    torch.testing.assert_close(pooled_features(ct)[0], ct.pooled[0])
    found = pooled_features(Tokens(ct.values, ct.valid))
    torch.testing.assert_close(found[0], ct.values[0].mean(0))
    torch.testing.assert_close(found[1], ct.values[1, 0])
    assert (found[2] == 0).all()
    assert (pooled_features(ct)[2] == 0).all()


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("unimodal", {"modality": "ct"}, (CT,)),
        ("linear", {"modality": Modality.EHR}, (EHR,)),
        ("linear", {}, BOTH),
        ("late", {}, BOTH),
    ],
)
def test_what_a_strategy_uses_is_known_before_it_is_built(name, options, expected):
    assert modalities_used(name, options) == build(name, **options).uses == expected
