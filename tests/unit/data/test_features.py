from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from concordant.core.errors import FeatureError
from concordant.data.features import FeatureOptions, read_features

DATA = Path(os.environ.get("CONCORDANT_DATA", Path(__file__).parents[4] / "shared" / "data"))


@pytest.fixture
def read(tmp_path):
    def read(columns, **options):
        pl.DataFrame(columns).write_parquet(tmp_path / "features.parquet")
        return read_features(FeatureOptions(path=tmp_path / "features.parquet", **options))

    return read


def test_numeric_columns_make_one_token(read):
    features = read(
        {
            "sample_id": ["a", "b", "c"],
            "x": [1.0, None, 3.0],
            "flag": [True, None, False],
            "n": [1, None, -2],
        }
    )
    assert (features.columns, features.token_dim, features.pooled_dim, features.max_tokens) == (
        ("x", "flag", "n"),
        3,
        None,
        1,
    )
    np.testing.assert_array_equal(features.embedding("a").tokens, [[1, 1, 1]])
    np.testing.assert_array_equal(features.embedding("c").tokens, [[3, 0, -2]])
    assert features.embedding("c").pooled is None
    assert features.embedding("c").tokens.dtype == np.float32
    assert features.embedding("b") is None
    assert features.embedding("absent") is None


def test_tokens_alone(read):
    features = read(
        {
            "sample_id": ["a", "b", "c", "d"],
            "tokens": [[[1.0, 2.0], [3.0, 4.0]], None, [], [[5.0, 6.0]]],
        }
    )
    assert (features.token_dim, features.pooled_dim, features.max_tokens) == (2, None, 2)
    np.testing.assert_array_equal(features.embedding("a").tokens, [[1, 2], [3, 4]])
    np.testing.assert_array_equal(features.embedding("d").tokens, [[5, 6]])
    assert features.embedding("b") is None
    assert features.embedding("c") is None


def test_tokens_with_numeric_columns_are_tokens_with_a_pooled_vector(read):
    features = read(
        {
            "sample_id": ["a", "b"],
            "p": [7.0, None],
            "tokens": [[[1.0, 2.0], [3.0, 4.0]], None],
            "q": [8.0, None],
        }
    )
    assert (features.columns, features.token_dim, features.pooled_dim) == (("p", "q"), 2, 2)
    np.testing.assert_array_equal(features.embedding("a").pooled, [7, 8])
    assert features.embedding("b") is None


def test_fixed_size_arrays_are_tokens_too(read):
    tokens = pl.Series("tokens", [[[1, 2], [3, 4]]], dtype=pl.Array(pl.Array(pl.Float32, 2), 2))
    np.testing.assert_array_equal(
        read({"sample_id": ["a"], "tokens": tokens}).embedding("a").tokens, [[1, 2], [3, 4]]
    )


def test_single_nulls_name_the_option_and_stay_nan_under_it(read):
    columns = {"sample_id": ["a", "b", "c"], "x": [1.0, None, None], "y": [1.0, 2.0, None]}
    with pytest.raises(FeatureError, match=r"1 single value\(s\) are null.*`missing: median`"):
        read(columns)
    features = read(columns, missing="median")
    np.testing.assert_array_equal(features.embedding("b").tokens, [[np.nan, 2]])
    assert features.embedding("c") is None
    assert features.embeddings.missing == "median"


def test_nulls_in_tokens_and_pooled_vectors(read):
    columns = {
        "sample_id": ["a", "b", "c"],
        "p": [None, 1.0, None],
        "tokens": [[[1.0, None]], [[2.0, 3.0]], [[None, None]]],
    }
    with pytest.raises(FeatureError, match=r"2 single value\(s\)"):
        read(columns)
    features = read(columns, missing="median")
    np.testing.assert_array_equal(features.embedding("a").tokens, [[1, np.nan]])
    np.testing.assert_array_equal(features.embedding("a").pooled, [np.nan])
    assert features.embedding("c") is None


def test_nan_is_null(read):
    with pytest.raises(FeatureError, match="1 single value"):
        read({"sample_id": ["a"], "x": [np.nan], "y": [1.0]})


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=8))
def test_signed_log1p_equals_its_formula_and_keeps_order(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("features") / "f.parquet"
    pl.DataFrame(
        {"sample_id": [str(row) for row in range(len(values))], "x": values}
    ).write_parquet(path)
    found = read_features(FeatureOptions(path=path, transform="signed_log1p")).embeddings.values[
        :, 0
    ]
    np.testing.assert_allclose(
        found, [np.copysign(np.log1p(abs(value)), value) for value in values], rtol=1e-6, atol=1e-30
    )
    assert (np.diff(found[np.argsort(values, kind="stable")]) >= 0).all()


def test_the_transform_reaches_tokens_and_pooled_vectors(read):
    features = read(
        {"sample_id": ["a"], "p": [-(np.e - 1)], "tokens": [[[np.e - 1, 0.0]]]},
        transform="signed_log1p",
    )
    np.testing.assert_allclose(features.embedding("a").tokens, [[1, 0]], rtol=1e-6)
    np.testing.assert_allclose(features.embedding("a").pooled, [-1], rtol=1e-6)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"x": [1.0]}, "expected a text column sample_id"),
        ({"sample_id": [1], "x": [1.0]}, "expected a text column sample_id"),
        ({"sample_id": ["a", "a"], "x": [1.0, 2.0]}, "null or occurs twice"),
        ({"sample_id": ["a", None], "x": [1.0, 2.0]}, "null or occurs twice"),
        (
            {"sample_id": ["a"], "histology": ["adeno"], "x": [1.0]},
            r"column\(s\) histology are not numeric; one-hot encode",
        ),
        (
            {"sample_id": ["a"], "x": [1.0], "time_days": [3.0], "event": [1]},
            r"time_days, event belong to the cohort table",
        ),
        ({"sample_id": ["a"]}, "no feature"),
        ({"sample_id": ["a", "b"], "x": [1.0, np.inf]}, r"1 value\(s\) are infinite"),
        ({"sample_id": ["a"], "x": [1e300]}, "beyond float32"),
        ({"sample_id": ["a"], "tokens": [[[1.0, -np.inf]]]}, "infinite"),
        ({"sample_id": ["a", "b"], "tokens": [[[1.0, 2.0]], [[3.0]]]}, "different widths"),
        ({"sample_id": ["a"], "tokens": [[[1.0, 2.0], None]]}, "a null token"),
        (
            {"sample_id": ["a"], "tokens": [[1.0, 2.0]]},
            r"tokens is List\(Float64\); expected list<list<number>>",
        ),
        ({"sample_id": ["a"], "tokens": ["1 2"]}, "tokens is String"),
        (
            {"sample_id": ["a", "b"], "x": [1.0, 2.0], "tokens": [[[1.0]], None]},
            r"1 row\(s\) have numbers but no tokens",
        ),
        ({"sample_id": ["a"], "x": [None]}, "every row is null"),
    ],
)
def test_refuses_a_broken_format(read, columns, message):
    with pytest.raises(FeatureError, match=message):
        read(columns)


def test_refuses_what_is_no_parquet_file(tmp_path):
    with pytest.raises(FeatureError, match="no such feature file"):
        read_features(FeatureOptions(path=tmp_path / "absent.parquet"))
    (tmp_path / "f.parquet").write_text("a,b")
    with pytest.raises(FeatureError, match="not readable as parquet"):
        read_features(FeatureOptions(path=tmp_path / "f.parquet"))


def test_options_are_closed(tmp_path):
    with pytest.raises(ValidationError, match="mising"):
        FeatureOptions(path=tmp_path, mising="median")
    with pytest.raises(ValidationError, match="log"):
        FeatureOptions(path=tmp_path, transform="log")


def test_real_radiomics(tmp_path):
    source = DATA / "nsclc_3centre" / "nsclc_3centre.csv"
    if not source.is_file():
        pytest.skip(f"no {source}; set CONCORDANT_DATA to the folder of real data")
    table = pl.read_csv(source, infer_schema_length=None)
    radiomics = table.select(
        pl.int_range(table.height).cast(pl.String).alias("sample_id"),
        pl.col("^original_.*$").cast(pl.Float64),
    )
    radiomics.write_parquet(tmp_path / "radiomics.parquet")
    features = read_features(
        FeatureOptions(path=tmp_path / "radiomics.parquet", transform="signed_log1p")
    )
    assert (len(features.embeddings), features.token_dim) == (338, 53)
    assert np.abs(features.embeddings.values).max() < 50
