"""Attention of fitted models to the tokens of scans, against the layers it comes from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from concordant.core.embedding import TokenEmbedding, pack_tokens
from concordant.core.errors import NotApplicableError
from concordant.core.modality import Modality
from concordant.core.survival import Outcomes
from concordant.model import ModelSpec
from concordant.training.attention import scan_attention
from concordant.training.batches import Samples
from concordant.training.fit import fit
from concordant.training.options import TrainOptions

N = 24


@pytest.fixture(scope="module")
def samples():
    """Scans of two to four tokens and records of one to three.

    The second sample has no scan, the third no record.
    """
    rng = np.random.default_rng(0)

    def table(most, missing):
        made = [
            None
            if row == missing
            else TokenEmbedding(rng.normal(size=(2 + row % (most - 1), 3)).astype(np.float32))
            for row in range(N)
        ]
        return pack_tokens(made, dim=3, pooled_dim=None)

    inputs = {Modality.CT: table(4, 1), Modality.EHR: table(3, 2)}
    return Samples(
        inputs, Outcomes(rng.exponential(10, N) + 1, rng.integers(0, 2, N)), np.arange(N)
    )


def fitted_with(samples, name, **options):
    quick = TrainOptions(max_epochs=2, min_epochs=0, patience=1, width=8, device="cpu")
    return fit(samples, samples, ModelSpec(name, options), quick)


CASES = [
    ("cross_attention", {"query": "ehr"}, "record"),
    ("cross_attention", {"query": "both"}, "record"),
    ("cross_attention", {"query": "ct"}, "pooling"),
    ("co_attention", {"guide": "ehr"}, "record"),
    ("co_attention", {"guide": "ct"}, "pooling"),
]


@pytest.mark.parametrize(("name", "options", "source"), CASES)
def test_every_token_gets_a_weight_and_they_sum_to_one(samples, name, options, source):
    fitted = fitted_with(samples, name, **options)
    before = fitted.predict(samples.inputs).risk
    found = scan_attention(fitted, samples.inputs)
    assert found.source == source
    assert [len(weights) for weights in found.weights] == samples.inputs[
        Modality.CT
    ].lengths.tolist()
    assert len(found.weights[1]) == 0
    for weights in (one for one in found.weights if len(one)):
        assert (weights >= 0).all()
        assert weights.sum() == pytest.approx(1)
    np.testing.assert_array_equal(fitted.predict(samples.inputs).risk, before)


def test_the_weights_are_the_mean_over_heads_and_the_records_queries(samples):
    fitted = fitted_with(samples, "cross_attention", query="ehr", heads=2)
    found = scan_attention(fitted, samples.inputs)
    pair = fitted.model._project(fitted.pair(samples.inputs))
    block = fitted.model.fusion.blocks["ehr"]
    layer = block.attention
    with torch.no_grad():
        for row in (0, 2, 5):
            query = torch.cat([block.anchor.token[None], pair.ehr.values[row][pair.ehr.valid[row]]])
            keys = block.norm_key(pair.ct.values[row][pair.ct.valid[row]])
            asked, offered = layer.query(block.norm_query(query)), layer.key(keys)
            per_head = [
                torch.softmax(asked[:, cut] @ offered[:, cut].T / 2, 1)
                for cut in (slice(0, 4), slice(4, 8))
            ]
            np.testing.assert_allclose(
                found.weights[row], torch.stack(per_head).mean((0, 1)).numpy(), atol=1e-6
            )


def test_pooling_leaves_out_the_learned_token(samples):
    fitted = fitted_with(samples, "cross_attention", query="ct")
    found = scan_attention(fitted, samples.inputs)
    with torch.no_grad():
        weights = fitted.model(fitted.pair(samples.inputs)).attention["pool->ct"]
    own = weights[0, 0, : len(found.weights[0])].numpy()
    assert own.sum() < 1
    np.testing.assert_allclose(found.weights[0], own / own.sum(), rtol=1e-6)


def test_other_samples_of_the_batch_change_nothing(samples):
    fitted = fitted_with(samples, "co_attention", guide="ehr")
    together = scan_attention(fitted, samples.inputs)
    alone = scan_attention(
        fitted, {modality: table.take(np.array([3])) for modality, table in samples.inputs.items()}
    )
    np.testing.assert_allclose(alone.weights[0], together.weights[3], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options"), [("concat", {}), ("unimodal", {"modality": "ct"}), ("linear", {})]
)
def test_a_model_without_attention_says_so(samples, name, options):
    with pytest.raises(NotApplicableError, match="attends to no token of a scan"):
        scan_attention(fitted_with(samples, name, **options), samples.inputs)
