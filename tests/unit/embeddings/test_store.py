from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concordant.core.embedding import CodeEmbedding, CodeTable, TokenEmbedding, TokenTable
from concordant.core.errors import StoreError
from concordant.embeddings.shards import (
    Encoded,
    EncodedShard,
    Layout,
    read_index_part,
    shard_path,
    write_shard,
)
from concordant.embeddings.store import EmbeddingStore, read_parts, reopen, seal, write_quarantine

TOKENS = Layout("tokens", token_dim=3, pooled_dim=2, max_tokens=4)
CODES = Layout("codes")
FACTS = {"records": None}


def tokens(n_tokens, *, start=0.0, pooled=True):
    values = np.arange(3 * n_tokens, dtype=np.float32).reshape(n_tokens, 3) + np.float32(start)
    return TokenEmbedding(values, np.array([start, -start], np.float32) if pooled else None)


def codes(**weights):
    names = tuple(sorted(weights))
    return CodeEmbedding(
        names,
        np.array([weights[name] for name in names], np.float32),
        np.array([name == "age" for name in names], bool),
    )


def build(folder, encoded, layout, *, shard_size=2):
    """Write a store of the samples s0, s1, ..."""
    ids = [f"s{place}" for place in range(len(encoded))]
    starts = range(0, len(ids), shard_size)
    for shard, start in enumerate(starts):
        write_shard(
            folder,
            shard,
            ids[start : start + shard_size],
            EncodedShard.of(encoded[start : start + shard_size]),
            layout,
        )
    parts = read_parts(folder, len(starts))
    write_quarantine(folder, parts)
    seal(folder, parts, layout, FACTS)
    return EmbeddingStore.open(folder)


@pytest.fixture
def token_store(tmp_path):
    encoded = [
        Encoded(tokens(2)),
        Encoded(None),
        Encoded(tokens(1, start=5)),
        Encoded(None, "truncated file"),
        Encoded(tokens(3, start=9)),
    ]
    return build(tmp_path / "store", encoded, TOKENS)


@pytest.fixture
def code_store(tmp_path):
    encoded = [
        Encoded(codes(a=1, b=2)),
        Encoded(codes(b=1, z=3)),
        Encoded(codes(age=60, c=1)),
        Encoded(None),
        Encoded(codes(a=4)),
    ]
    return build(tmp_path / "store", encoded, CODES)


def test_a_folder_tells_what_it_holds(token_store):
    assert sorted(path.name for path in token_store.folder.iterdir()) == sorted(
        [f"{shard:05d}.npy" for shard in range(3)]
        + [f"pooled-{shard:05d}.npy" for shard in range(3)]
        + [f"index-{shard:05d}.parquet" for shard in range(3)]
        + ["index.parquet", "manifest.json", "quarantine.parquet"]
    )
    manifest = json.loads((token_store.folder / "manifest.json").read_text())
    assert manifest["complete"] is True
    assert (manifest["n_samples"], manifest["n_missing"], manifest["max_tokens"]) == (5, 2, 4)
    assert token_store.layout == TOKENS
    assert token_store.index.rows() == [
        ("s0", 0, 0, 2),
        ("s1", 0, 2, 0),
        ("s2", 1, 0, 1),
        ("s3", 1, 1, 0),
        ("s4", 2, 0, 3),
    ]
    assert token_store.quarantine.rows() == [("s3", "truncated file")]
    assert token_store.record_counts is None


def test_tokens_come_back_in_the_order_asked_for(token_store):
    table = token_store.read(["s4", "unknown", "s0", "s3", "s2", "s0"])
    assert isinstance(table, TokenTable)
    np.testing.assert_array_equal(table.lengths, [3, 0, 2, 0, 1, 2])
    expected = [
        tokens(3, start=9).tokens,
        tokens(2).tokens,
        tokens(1, start=5).tokens,
        tokens(2).tokens,
    ]
    np.testing.assert_array_equal(table.values, np.concatenate(expected))
    np.testing.assert_array_equal(
        table.pooled, [[9, -9], [np.nan] * 2, [0, 0], [np.nan] * 2, [5, -5], [0, 0]]
    )
    assert table.values.dtype == np.float32
    assert type(table.values) is np.ndarray


def test_codes_of_shards_are_joined_by_code(code_store):
    assert code_store.max_tokens == 2
    table = code_store.read(["s4", "s2", "unknown", "s1", "s0"])
    assert isinstance(table, CodeTable)
    assert table.codes == ("a", "age", "b", "c", "z")
    np.testing.assert_array_equal(table.numeric, [False, True, False, False, False])
    rows = [
        dict(
            zip([table.codes[i] for i in table.index[a:b]], table.weight[a:b].tolist(), strict=True)
        )
        for a, b in bounds(table)
    ]
    assert rows == [{"a": 4}, {"age": 60, "c": 1}, {}, {"b": 1, "z": 3}, {"a": 1, "b": 2}]
    vocabulary = pl.read_parquet(shard_path(code_store.folder, "vocabulary", 0))
    assert vocabulary["code"].to_list() == ["a", "b", "z"]
    assert pl.read_parquet(shard_path(code_store.folder, "codes", 0)).schema == {
        "code": pl.Int32,
        "weight": pl.Float32,
    }


def bounds(table):
    return zip(table.offsets[:-1], table.offsets[1:], strict=True)


@pytest.mark.parametrize("name", ["token_store", "code_store"])
def test_nobody_known_or_nobody_asked_is_an_empty_table(name, request):
    store = request.getfixturevalue(name)
    assert store.read(["x", "y"]).lengths.tolist() == [0, 0]
    assert len(store.read([])) == 0
    if name == "token_store":
        assert store.read(["x"]).values.shape == (0, 3)
        assert store.read(["x"]).pooled.shape == (1, 2)


@settings(deadline=None, max_examples=25)
@given(
    lengths=st.lists(st.integers(0, 4), min_size=1, max_size=12),
    asked=st.lists(st.integers(0, 14), max_size=12),
    shard_size=st.integers(1, 13),
)
def test_reading_equals_a_dictionary(tmp_path_factory, lengths, asked, shard_size):
    layout = Layout("tokens", token_dim=3, max_tokens=4)
    embeddings = {
        f"s{place}": tokens(n, start=100 * place, pooled=False)
        for place, n in enumerate(lengths)
        if n
    }
    encoded = [Encoded(embeddings.get(f"s{place}")) for place in range(len(lengths))]
    store = build(tmp_path_factory.mktemp("store"), encoded, layout, shard_size=shard_size)
    table = store.read([f"s{place}" for place in asked])
    for place, (start, end) in zip(asked, bounds(table), strict=True):
        expected = embeddings[f"s{place}"].tokens if f"s{place}" in embeddings else np.zeros((0, 3))
        np.testing.assert_array_equal(table.values[start:end], expected)
    assert table.pooled is None


def test_a_shard_of_missing_samples_is_readable(tmp_path):
    for layout in (TOKENS, CODES):
        store = build(tmp_path / layout.kind, [Encoded(None)] * 3, layout)
        assert store.read(["s0", "s2"]).lengths.tolist() == [0, 0]


def test_float16_is_kept_and_its_overflow_is_an_error(tmp_path):
    layout = Layout("tokens", token_dim=3, dtype="float16", max_tokens=4)
    store = build(tmp_path / "half", [Encoded(tokens(2, pooled=False))], layout)
    assert np.load(store.folder / "00000.npy").dtype == np.float16
    assert store.read(["s0"]).values.dtype == np.float32
    with pytest.raises(StoreError, match=r"2 value\(s\) overflow float16 .* declare dtype float32"):
        write_shard(
            tmp_path / "over",
            0,
            ["s"],
            EncodedShard.of([Encoded(TokenEmbedding(np.array([[1, 7e4, -7e4]], np.float32)))]),
            layout,
        )
    assert read_index_part(tmp_path / "over", 0) is None


def test_missing_values_and_their_policy_are_kept(tmp_path):
    layout = Layout("tokens", token_dim=2, max_tokens=1, missing="median")
    store = build(
        tmp_path / "store", [Encoded(TokenEmbedding(np.array([[1, np.nan]], np.float32)))], layout
    )
    assert store.read(["s0"]).missing == "median"
    np.testing.assert_array_equal(store.read(["s0"]).values, [[1, np.nan]])


@pytest.mark.parametrize(
    ("embedding", "layout"),
    [
        (TokenEmbedding(np.zeros((1, 4), np.float32), np.zeros(2, np.float32)), TOKENS),
        (TokenEmbedding(np.zeros((5, 3), np.float32), np.zeros(2, np.float32)), TOKENS),
        (TokenEmbedding(np.zeros((1, 3), np.float32)), TOKENS),
        (TokenEmbedding(np.zeros((1, 3), np.float32), np.zeros(3, np.float32)), TOKENS),
        (codes(a=1), TOKENS),
        (TokenEmbedding(np.zeros((1, 3), np.float32)), CODES),
    ],
)
def test_an_encoder_that_breaks_its_declaration_is_refused(tmp_path, embedding, layout):
    with pytest.raises(StoreError, match="declares"):
        write_shard(tmp_path, 0, ["s"], EncodedShard.of([Encoded(embedding)]), layout)
    assert read_index_part(tmp_path, 0) is None


def test_only_a_complete_store_opens(tmp_path):
    with pytest.raises(StoreError, match="no complete embedding store"):
        EmbeddingStore.open(tmp_path / "absent")
    write_shard(tmp_path, 0, ["s0"], EncodedShard.of([Encoded(tokens(1))]), TOKENS)
    with pytest.raises(StoreError, match="no complete embedding store"):
        EmbeddingStore.open(tmp_path)
    with pytest.raises(StoreError, match="1 of 2 shards are not whole"):
        read_parts(tmp_path, 2)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-4])


def replace_by_other_rows(path):
    np.save(path, np.zeros((7, 3), np.float32))


def replace_by_objects(path):
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        truncate,
        replace_by_other_rows,
        replace_by_objects,
        lambda path: path.write_bytes(b""),
    ],
)
def test_a_damaged_shard_is_named(token_store, damage):
    damage(token_store.folder / "00001.npy")
    with pytest.raises(
        StoreError, match=r"shard 00001 is missing or damaged.*delete the folder and run again"
    ):
        token_store.read(["s2"])
    assert token_store.read(["s0", "s4"]).lengths.tolist() == [2, 3]


@pytest.mark.parametrize("part", ["codes", "vocabulary"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        truncate,
        lambda path: pl.read_parquet(path).head(1).write_parquet(path),
    ],
)
def test_a_damaged_shard_of_codes_is_named(code_store, part, damage):
    damage(shard_path(code_store.folder, part, 0))
    with pytest.raises(StoreError, match="shard 00000 is missing or damaged"):
        code_store.read(["s0"])


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"complete": true}', '{"complete": false}'])
def test_a_damaged_manifest_is_named(token_store, text):
    (token_store.folder / "manifest.json").write_text(text)
    with pytest.raises(StoreError, match=r"manifest\.json is damaged"):
        EmbeddingStore.open(token_store.folder)


def test_a_damaged_index_is_named(token_store):
    truncate(token_store.folder / "index.parquet")
    with pytest.raises(StoreError, match=r"index\.parquet is missing or damaged"):
        EmbeddingStore.open(token_store.folder)


def test_reopening_forgets_only_the_shards_with_a_quarantined_sample(token_store):
    reopen(token_store.folder, 3)
    with pytest.raises(StoreError, match="no complete embedding store"):
        EmbeddingStore.open(token_store.folder)
    assert [read_index_part(token_store.folder, shard) is None for shard in range(3)] == [
        False,
        True,
        False,
    ]


def test_a_damaged_quarantine_is_named(token_store):
    truncate(token_store.folder / "quarantine.parquet")
    with pytest.raises(StoreError, match=r"quarantine\.parquet is missing or damaged"):
        _ = token_store.quarantine
