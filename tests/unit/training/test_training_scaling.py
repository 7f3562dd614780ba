"""Scaling, imputation and vocabulary.

Fitted on train, and what they do to rows that train never saw.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concordant.core.embedding import (
    CodeEmbedding,
    CodeTable,
    TokenEmbedding,
    TokenTable,
    pack_codes,
    pack_tokens,
)
from concordant.core.errors import FeatureError
from concordant.training.scaling import (
    CLIP,
    MINIMUM_SAMPLES,
    PRESENCE_FLOOR,
    fit_columns,
    fit_scaling,
)


def record(*codes, weights=None, numeric=None):
    weights = np.ones(len(codes)) if weights is None else np.array(weights)
    return CodeEmbedding(
        codes,
        weights.astype(np.float32),
        np.zeros(len(codes), bool) if numeric is None else np.array(numeric),
    )


def lab(value):
    return record("LAB", weights=[value], numeric=[True])


@settings(deadline=None, max_examples=30)
@given(
    st.integers(2, 40), st.integers(1, 5), st.integers(0, 10**6), st.sampled_from([1e-3, 1.0, 1e4])
)
def test_train_itself_comes_out_with_mean_zero_and_deviation_one(rows, columns, seed, size):
    values = np.random.default_rng(seed).uniform(-size, 3 * size, (rows, columns))
    scaled = fit_columns(values).apply(values)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(scaled.std(0), 1, atol=1e-4)


def test_a_gap_takes_the_median_of_train_and_only_columns_with_gaps_in_train_get_an_indicator():
    train = np.array([[1.0, 2.0], [3.0, np.nan], [100.0, 4.0], [5.0, 10.0]])
    scaling = fit_columns(train)
    assert scaling.gaps.tolist() == [False, True]
    assert scaling.width == 3
    new = scaling.apply(np.array([[np.nan, np.nan], [4.0, 4.0]]))
    np.testing.assert_array_equal(new[0, :2], new[1, :2])  # the medians are 4 and 4
    np.testing.assert_array_equal(new[:, 2], [0.5, -0.5])


def test_a_column_that_is_all_gaps_or_constant_or_noise_of_rounding_says_nothing():
    train = np.array([[np.nan, 7.0, 1e8, 0.0]] * 5)
    train[0, 2] += 1e-1
    scaled = fit_columns(train).apply(train)
    np.testing.assert_allclose(scaled[:, :4], 0, atol=0.2)
    np.testing.assert_array_equal(scaled[:, 4], 0.5)


def test_small_columns_with_spread_are_not_taken_for_constant():
    values = np.array([[1e-7], [3e-7], [5e-7]])
    np.testing.assert_allclose(
        fit_columns(values).apply(values)[:, 0], [-1.2247449, 0, 1.2247449], rtol=1e-5
    )


def test_one_absurd_value_is_clipped_on_both_sides():
    scaling = fit_columns(np.random.default_rng(0).normal(size=(50, 1)))
    np.testing.assert_array_equal(scaling.apply(np.array([[1e30], [-1e30]])), [[CLIP], [-CLIP]])


def test_a_modality_that_train_lacks_altogether_scales_to_nothing():
    scaling = fit_scaling(
        TokenTable(
            np.zeros((0, 3), np.float32), np.zeros(5, np.int64), np.full((4, 2), np.nan, np.float32)
        )
    )
    assert (scaling.dims.token_dim, scaling.dims.pooled_dim) == (3, 2)
    tokens = scaling.apply(scaling.absent(4))
    assert not tokens.present.any()
    assert tokens.values.isfinite().all()
    assert (tokens.pooled == 0).all()


def test_pooled_vectors_of_missing_samples_neither_enter_the_fit_nor_come_out_as_gaps():
    present = [
        TokenEmbedding(np.full((2, 1), value, np.float32), np.full(2, value, np.float32))
        for value in (1.0, 3.0)
    ]
    scaling = fit_scaling(pack_tokens([present[0], None, present[1], None], dim=1, pooled_dim=2))
    assert not scaling.pooled.gaps.any()
    pooled = scaling.apply(pack_tokens([None, present[1]], dim=1, pooled_dim=2)).pooled
    np.testing.assert_allclose(pooled.numpy(), [[0, 0], [1, 1]])


def test_tokens_are_padded_per_sample_in_their_order():
    tokens = [np.arange(count * 2, dtype=np.float32).reshape(count, 2) for count in (1, 3)]
    table = pack_tokens(
        [TokenEmbedding(tokens[0]), None, TokenEmbedding(tokens[1])], dim=2, pooled_dim=None
    )
    scaling = fit_scaling(table)
    found = scaling.apply(table)
    assert found.valid.sum(1).tolist() == [1, 0, 3]
    assert found.valid.shape == (3, 3)
    np.testing.assert_array_equal(found.values[2].numpy(), scaling.token.apply(tokens[1]))
    assert (found.values[~found.valid] == 0).all()


@pytest.mark.parametrize(
    "pooled", [None, np.zeros((1, 5), np.float32)], ids=["none", "another width"]
)
def test_a_pooled_vector_that_is_not_as_in_training_is_refused(pooled):
    train = pack_tokens(
        [TokenEmbedding(np.ones((1, 2), np.float32), np.ones(3, np.float32))] * 2,
        dim=2,
        pooled_dim=3,
    )
    with pytest.raises(FeatureError, match="pooled"):
        fit_scaling(train).apply(TokenTable(np.ones((1, 2), np.float32), np.array([0, 1]), pooled))


def test_a_code_needs_the_minimum_of_carriers():
    assert MINIMUM_SAMPLES == 2
    scaling = fit_scaling(
        pack_codes([record("A", "B"), record("A", "C"), record("C"), record("D")])
    )
    assert scaling.codes == ("A", "C")


def test_a_presence_code_of_every_train_sample_is_left_out_but_a_count_or_value_stays():
    rows = [
        record("ALL", "COUNT", "LAB", weights=[1, count, 10 * count], numeric=[False, False, True])
        for count in (1, 2, 3)
    ]
    assert fit_scaling(pack_codes(rows)).codes == ("COUNT", "LAB")


def test_presence_codes_are_divided_by_their_deviation_over_all_who_have_a_record():
    rows = [record("A", "Z"), record("A", "Z"), record("Y", "Z"), record("Y"), None, None]
    scaling = fit_scaling(pack_codes(rows))
    weight = scaling.apply(pack_codes([record("A")])).weight
    assert float(weight) == pytest.approx(
        1 / 0.5
    )  # two of four with a record, never counting those without one


def test_a_rare_presence_code_does_not_become_a_giant():
    rows = [record("RARE", "X")] * 2 + [record("X")] * 500 + [record("Y")] * 500
    scaling = fit_scaling(pack_codes(rows))
    assert float(scaling.apply(pack_codes([record("RARE")])).weight) == pytest.approx(
        min(1 / PRESENCE_FLOOR, CLIP)
    )


def test_numeric_codes_are_clipped_and_constant_ones_centred():
    scaling = fit_scaling(pack_codes([lab(1.0), lab(2.0), lab(3.0)]))
    assert float(scaling.apply(pack_codes([lab(1e20)])).weight) == CLIP
    constant = fit_scaling(pack_codes([lab(7.0), lab(7.0)]))
    assert float(constant.apply(pack_codes([lab(9.0)])).weight) == pytest.approx(2.0)


def test_codes_are_joined_by_string_never_by_index():
    scaling = fit_scaling(
        pack_codes([record("A", "C"), record("A"), record("C"), record("C", "E"), record("E")])
    )
    other_order = CodeTable(
        ("C", "A", "B", "E"),
        np.zeros(4, bool),
        np.array([0, 1, 2]),
        np.ones(3, np.float32),
        np.array([0, 3]),
    )
    found = scaling.apply(other_order)
    assert [scaling.codes[place] for place in found.index[found.valid]] == ["C", "A"]
    assert scaling.dropped(other_order) == 1


def test_the_norm_is_the_mean_sum_of_squared_scaled_weights_of_train():
    table = pack_codes([record("A", "B"), record("A"), record("B", "C"), record("C"), None])
    scaling = fit_scaling(table)
    weight = scaling.apply(table).weight.numpy()
    assert scaling.norm == pytest.approx((weight**2).sum() / 4, rel=1e-6)
    assert scaling.dims.norm == scaling.norm


def test_a_record_of_unknown_codes_alone_is_a_missing_record():
    scaling = fit_scaling(pack_codes([record("A"), record("A"), record("B"), record("B")]))
    assert scaling.apply(pack_codes([record("NEW"), record("A"), None])).present.tolist() == [
        False,
        True,
        False,
    ]


def test_codes_refuse_tokens():
    scaling = fit_scaling(pack_codes([record("A"), record("B")]))
    with pytest.raises(FeatureError, match="fitted on codes"):
        scaling.apply(TokenTable(np.zeros((1, 1), np.float32), np.array([0, 1])))


def test_no_record_at_all_leaves_an_empty_vocabulary_that_still_applies():
    scaling = fit_scaling(pack_codes([None, None]))
    assert scaling.codes == ()
    assert not scaling.apply(pack_codes([record("A"), None])).present.any()
    assert scaling.dropped(pack_codes([record("A", "B")])) == 2
