"""Attention, pooling and the learned token, each against its formula."""

from __future__ import annotations

import pytest
import torch

from concordant.core.errors import ConfigError
from concordant.core.modality import Modality
from concordant.core.tokens import Pair, Tokens
from concordant.fusion import FUSIONS, FusionDims
from concordant.fusion.attention import (
    Anchored,
    ChannelDropout,
    EncoderLayer,
    GatedPool,
    MultiHeadAttention,
)

WIDTH = 8


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def masks(*rows):
    return torch.tensor(rows, dtype=torch.bool)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_equals_its_definition_sample_by_sample_and_head_by_head(heads):
    layer = MultiHeadAttention(WIDTH, heads)
    query, key = torch.randn(3, 2, WIDTH), torch.randn(3, 4, WIDTH)
    valid = masks([1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 1])
    found = layer(query, key, valid)
    part = WIDTH // heads
    for sample in range(3):
        keys = key[sample][valid[sample]]
        mixed, weights = [], []
        for head in range(heads):
            cut = slice(head * part, (head + 1) * part)
            scores = layer.query(query[sample])[:, cut] @ layer.key(keys)[:, cut].T / part**0.5
            weights.append(torch.softmax(scores, 1))
            mixed.append(weights[-1] @ layer.value(keys)[:, cut])
        torch.testing.assert_close(found.values[sample], layer.output(torch.cat(mixed, 1)))
        torch.testing.assert_close(
            found.weights[sample][:, valid[sample]], torch.stack(weights).mean(0)
        )
        assert (found.weights[sample][:, ~valid[sample]] == 0).all()


def test_nothing_to_attend_to_gives_zero_forward_and_backward():
    layer, key = MultiHeadAttention(WIDTH, 2), torch.randn(2, 3, WIDTH, requires_grad=True)
    found = layer(torch.randn(2, 1, WIDTH), key, masks([0, 0, 0], [1, 1, 0]))
    assert (found.values[0] == 0).all()
    assert (found.weights[0] == 0).all()
    found.values.sum().backward()
    assert (key.grad[0] == 0).all()
    assert key.grad[1, :2].any()
    assert (key.grad[1, 2] == 0).all()
    assert all(torch.isfinite(parameter.grad).all() for parameter in layer.parameters())


def test_scores_far_apart_stay_finite():
    layer, query = MultiHeadAttention(WIDTH, 2), torch.randn(2, 1, WIDTH) * 1e4
    found = layer(query, torch.randn(2, 3, WIDTH) * 1e4, masks([1, 1, 1], [1, 1, 0]))
    assert torch.isfinite(found.values).all()
    torch.testing.assert_close(found.weights.sum(-1), torch.ones(2, 1))


def test_heads_must_divide_the_width():
    with pytest.raises(ConfigError, match="3 does not divide the latent width 8"):
        MultiHeadAttention(WIDTH, 3)
    dims = FusionDims(10, 0.0, dict.fromkeys(Modality, 5))
    with pytest.raises(ConfigError, match="does not divide"):
        FUSIONS.create("co_attention", dims)


def test_an_attention_strategy_with_heads_that_divide_is_built():
    assert (
        FUSIONS.create(
            "cross_attention", FusionDims(10, 0.0, dict.fromkeys(Modality, 5)), heads=5
        ).view_dim
        == 10
    )


def test_gated_pooling_equals_its_equation():
    pool, values, valid = GatedPool(WIDTH), torch.randn(2, 3, WIDTH), masks([1, 1, 1], [1, 0, 1])
    found = pool(values, valid)
    for sample in range(2):
        tokens = values[sample][valid[sample]]
        score = pool.score(torch.tanh(pool.content(tokens)) * torch.sigmoid(pool.gate(tokens)))
        torch.testing.assert_close(found.vector[sample], (torch.softmax(score, 0) * tokens).sum(0))
        torch.testing.assert_close(
            found.weights[sample][valid[sample]], torch.softmax(score, 0)[:, 0]
        )
        assert (found.weights[sample][~valid[sample]] == 0).all()


def test_the_learned_token_stands_first_and_is_valid_even_where_nothing_else_is():
    anchored = Anchored(WIDTH)
    found = anchored(Tokens(torch.randn(2, 3, WIDTH), masks([1, 0, 1], [0, 0, 0])))
    assert torch.equal(found.values[:, 0], anchored.token.expand(2, -1))
    assert found.valid.tolist() == [[True, True, False, True], [True, False, False, False]]


def test_an_encoder_layer_does_not_let_invalid_tokens_speak():
    layer, valid = EncoderLayer(WIDTH, 2, 0.0), masks([1, 1, 0])
    values = torch.randn(1, 3, WIDTH)
    other = values.clone()
    other[0, 2] = torch.randn(WIDTH) * 50
    assert torch.equal(layer(values, valid)[:, :2], layer(other, valid)[:, :2])
    other[0, 1] = torch.randn(WIDTH)
    assert not torch.allclose(layer(values, valid)[:, 0], layer(other, valid)[:, 0]), (
        "valid ones do"
    )


def test_dropout_silences_a_channel_in_all_tokens_of_a_sample_and_only_in_training():
    layer, values = ChannelDropout(0.5), torch.ones(200, 4, WIDTH)
    dropped = layer.train()(values)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert (dropped == dropped[:, :1]).all()
    assert float((dropped == 0).float().mean()) == pytest.approx(0.5, abs=0.05)
    assert not (dropped[0] == dropped[1]).all()
    assert torch.equal(layer.eval()(values), values)


@pytest.mark.parametrize(
    ("name", "option"), [("cross_attention", "query"), ("co_attention", "guide")]
)
@pytest.mark.parametrize("side", ["ct", "ehr", "both"])
def test_attention_maps_are_named_by_direction_and_sum_to_one_over_what_is_there(
    name, option, side
):
    fusion = FUSIONS.create(
        name, FusionDims(WIDTH, 0.0, dict.fromkeys(Modality, 5)), **{option: side}
    ).eval()
    ct_valid, ehr_valid = (
        masks([1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]),
        masks([1, 1, 1], [0, 0, 0], [1, 1, 0]),
    )
    ct, ehr = (
        Tokens(torch.randn(3, 4, WIDTH), ct_valid),
        Tokens(torch.randn(3, 3, WIDTH), ehr_valid),
    )
    attention = fusion(Pair(ct, ehr)).attention
    directions = {"ct": ["ct->ehr"], "ehr": ["ehr->ct"], "both": ["ct->ehr", "ehr->ct"]}[side]
    pooled = [f"pool->{direction.partition('->')[0]}" for direction in directions]
    assert list(attention) == [
        name for both in zip(directions, pooled, strict=True) for name in both
    ]
    assert [key.value for key in fusion.attends_to] == [
        direction.partition("->")[2] for direction in directions
    ]
    for direction in directions:
        weights = attention[direction]
        query, key = (ct, ehr) if direction == "ct->ehr" else (ehr, ct)
        assert weights.shape == (3, query.valid.shape[1] + 1, key.valid.shape[1]), (
            "row 0 is the learned token"
        )
        expected = key.present.float()[:, None].expand(-1, query.valid.shape[1] + 1)
        torch.testing.assert_close(weights.sum(2), expected)
        assert (weights * ~key.valid[:, None, :] == 0).all()
    for name in pooled:
        own = ct if name == "pool->ct" else ehr
        assert attention[name].shape == (3, 1, own.valid.shape[1])
        share = attention[name].sum((1, 2))
        assert (share[own.present] > 0).all()
        assert (share[own.present] < 1).all(), "the rest is the learned token's"
        assert (attention[name][:, 0] * ~own.valid == 0).all()
