"""Packed embeddings: what goes in comes out, whatever is missing, taken or joined."""

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
    concatenate,
    pack_codes,
    pack_tokens,
)
from concordant.core.errors import StoreError

DIM = 3
numbers = st.integers(-1000, 1000).map(float)
vectors = st.lists(numbers, min_size=DIM, max_size=DIM)
token_samples = st.lists(st.none() | st.lists(vectors, min_size=1, max_size=4), max_size=6)
records = st.dictionaries(st.sampled_from("abcdefg"), numbers, min_size=1, max_size=5)
code_samples = st.lists(st.none() | records, max_size=6)
quick = settings(deadline=None, max_examples=60)


def tokens_of(samples: list[list[list[float]] | None]) -> TokenTable:
    embeddings = [
        None
        if one is None
        else TokenEmbedding(np.array(one, np.float32), np.array(one[0], np.float32))
        for one in samples
    ]
    return pack_tokens(embeddings, dim=DIM, pooled_dim=DIM)


def codes_of(samples: list[dict[str, float] | None]) -> CodeTable:
    return pack_codes([None if one is None else code_embedding(one) for one in samples])


def code_embedding(record: dict[str, float]) -> CodeEmbedding:
    codes = tuple(sorted(record))
    weights = np.array([record[code] for code in codes])
    return CodeEmbedding(codes, weights, np.array([code in "abc" for code in codes]))


def read_tokens(table: TokenTable) -> list[list[list[float]] | None]:
    rows = [
        table.values[start:stop].tolist()
        for start, stop in zip(table.offsets[:-1], table.offsets[1:], strict=True)
    ]
    return [one or None for one in rows]


def read_codes(table: CodeTable) -> list[dict[str, float] | None]:
    spans = [
        slice(start, stop)
        for start, stop in zip(table.offsets[:-1], table.offsets[1:], strict=True)
    ]
    rows = [
        {table.codes[i]: float(w) for i, w in zip(table.index[one], table.weight[one], strict=True)}
        for one in spans
    ]
    return [one or None for one in rows]


@quick
@given(token_samples)
def test_tokens_come_out_as_they_went_in(samples):
    table = tokens_of(samples)
    assert len(table) == len(samples)
    assert read_tokens(table) == samples
    assert table.lengths.tolist() == [0 if one is None else len(one) for one in samples]
    assert table.values.dtype == np.float32
    assert table.values.shape[1] == DIM


@quick
@given(token_samples)
def test_a_pooled_vector_is_nan_exactly_where_the_sample_is_missing(samples):
    pooled = tokens_of(samples).pooled
    assert pooled is not None
    assert np.isnan(pooled).all(1).tolist() == [one is None for one in samples]
    assert np.isnan(pooled).any(1).tolist() == [one is None for one in samples]


def test_an_encoder_without_pooled_vector_has_none():
    assert pack_tokens([None], dim=DIM, pooled_dim=None).pooled is None


@quick
@given(code_samples)
def test_codes_come_out_as_they_went_in(samples):
    table = codes_of(samples)
    assert len(table) == len(samples)
    assert read_codes(table) == samples
    assert list(table.codes) == sorted({code for one in samples if one is not None for code in one})
    assert table.numeric.tolist() == [code in "abc" for code in table.codes]


@quick
@given(token_samples, code_samples, st.data())
def test_taking_samples_is_indexing(token_rows, code_rows, data):
    for rows, pack, read in (
        (token_rows, tokens_of, read_tokens),
        (code_rows, codes_of, read_codes),
    ):
        chosen = (
            data.draw(st.lists(st.integers(0, max(len(rows) - 1, 0)), max_size=8)) if rows else []
        )
        table = pack(rows)
        taken = table.take(np.array(chosen, np.int64))
        assert read(taken) == [rows[place] for place in chosen]
        assert len(taken) == len(chosen)
        if isinstance(taken, CodeTable):
            assert taken.codes == table.codes


@quick
@given(code_samples)
def test_a_packed_table_gives_back_each_embedding(samples):
    table = codes_of(samples)
    assert [
        dict(zip(one.codes, one.weights.tolist(), strict=True)) or None for one in table
    ] == read_codes(table)
    assert all(one.numeric.tolist() == [code in "abc" for code in one.codes] for one in table)
    with pytest.raises(IndexError):
        table[len(samples)]


@quick
@given(code_samples)
def test_a_table_of_the_present_is_one_of_all(samples):
    given = [one for one in samples if one is not None]
    spread = codes_of(given).among(np.array([one is not None for one in samples], bool))
    assert read_codes(spread) == read_codes(codes_of(samples))


@quick
@given(token_samples, token_samples)
def test_joining_token_tables_joins_their_samples(first, second):
    joined = concatenate([tokens_of(first), tokens_of(second)])
    assert isinstance(joined, TokenTable)
    assert read_tokens(joined) == first + second
    assert joined.pooled is not None
    assert len(joined.pooled) == len(joined)


@quick
@given(code_samples, code_samples, code_samples)
def test_joining_code_tables_goes_by_code_never_by_index(first, second, third):
    joined = concatenate([codes_of(first), codes_of(second), codes_of(third)])
    assert isinstance(joined, CodeTable)
    assert read_codes(joined) == first + second + third
    assert list(joined.codes) == sorted(joined.codes)
    assert joined.numeric.tolist() == [code in "abc" for code in joined.codes]


def test_a_table_where_one_part_has_no_pooled_vector_has_none():
    one = pack_tokens([TokenEmbedding(np.ones((1, DIM), np.float32))], dim=DIM, pooled_dim=None)
    joined = concatenate([one, tokens_of([[[1.0, 2.0, 3.0]]])])
    assert isinstance(joined, TokenTable)
    assert joined.pooled is None


def test_tokens_and_codes_cannot_be_joined():
    with pytest.raises(TypeError, match="cannot be joined"):
        concatenate([tokens_of([None]), codes_of([None])])


def test_half_precision_tokens_are_packed_as_single_precision():
    table = pack_tokens([TokenEmbedding(np.ones((2, DIM), np.float16))], dim=DIM, pooled_dim=None)
    assert table.values.dtype == np.float32


def test_tables_that_disagree_in_what_a_missing_value_means_cannot_be_joined():
    tables = [
        pack_tokens([TokenEmbedding(np.ones((1, DIM)))], dim=DIM, pooled_dim=None, missing=policy)
        for policy in ("error", "median")
    ]
    with pytest.raises(
        StoreError, match=r"disagree in what a missing value means \(error, median\)"
    ):
        concatenate(tables)
    assert concatenate([tables[1], tables[1]]).missing == "median"


def test_a_code_that_is_measured_here_and_plain_there_is_refused():
    plain = CodeEmbedding(("a", "x"), np.ones(2), np.array([False, False]))
    measured = CodeEmbedding(("x", "z"), np.ones(2), np.array([True, True]))
    message = (
        r"1 code\(s\), such as 'x', are a measured value in one sample and a plain code in another"
    )
    with pytest.raises(StoreError, match=message):
        concatenate([pack_codes([plain]), pack_codes([measured])])
    with pytest.raises(StoreError, match=message):
        pack_codes([plain, None, measured])
