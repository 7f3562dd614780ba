"""The contract of `encoders/base.py`, one test per line, run over the registry."""

from __future__ import annotations

import ast
import copy
import functools
import importlib
import inspect
import pkgutil
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import clmbr_fixture
import concordant.encoders
import ct_weights_fixture
from concordant.core.embedding import CodeEmbedding, TokenEmbedding
from concordant.core.events import Events
from concordant.core.modality import Modality
from concordant.core.volume import Volume
from concordant.encoders.base import ENCODERS, RecordEncoder, VolumeEncoder

OPTIONS = {
    "one_hot": [
        {},
        {"values": "last"},
        {"windows_days": (30.0, 365.0)},
        {"values": ("bins", "mean", "slope")},
    ],
    "count": [{}, {"values": "last", "windows_days": (30.0,)}],
    "volume_features": [{}, {"grid": 2}],
    "label_volume": [{"labels": (1, 2, 3)}],
    "colipri": [{"token_grid": 2}, {"tokens": "raw", "token_grid": None}],
    "ctfm": [{"token_grid": 2, "patches_at_once": 3}, {"token_grid": None, "batch_size": 2}],
    "merlin": [{"token_grid": 1}, {"batch_size": 2}],
    "tiny_ct": [{}, {"token_grid": 3, "batch_size": 2}],
    "clmbr": [{}, {"max_tokens": 3, "batch_tokens": 20}],
    "motor": [{"max_tokens": 5}],
}
"""Options to test an encoder with; one that is not listed is tested with its defaults."""

WEIGHTS = {
    "colipri": ct_weights_fixture.write_colipri,
    "ctfm": ct_weights_fixture.write_ctfm,
    "merlin": ct_weights_fixture.write_merlin,
    "tiny_ct": ct_weights_fixture.write_tiny_ct,
    "clmbr": clmbr_fixture.write_clmbr,
    "motor": clmbr_fixture.write_motor,
}
"""What writes small weights into a folder, of the encoders that have some."""

READS_MASKS = {"label_volume"}


def label(name, options):
    """Name a case without its folder of weights, which another process may have put elsewhere."""
    return f"{name}({','.join(f'{key}={value}' for key, value in options.items())})"


CASES = [
    pytest.param(name, options, id=label(name, options))
    for name in ENCODERS
    for options in OPTIONS.get(name, [{}])
]


@functools.cache
def weights_folder():
    return tempfile.TemporaryDirectory(prefix="concordant-weights-")


@functools.cache
def weights(name):
    return WEIGHTS[name](Path(weights_folder().name) / name)


def create(name, options):
    """Make an encoder, with small weights where it has some."""
    return ENCODERS.create(
        name, **options, **({"weights": weights(name)} if name in WEIGHTS else {})
    )


def scan(generator):
    """A body of soft tissue in air, with two lungs of other sizes in every scan."""
    depth, height, width = np.mgrid[-1:1:20j, -1:1:24j, -1:1:28j]
    radius = generator.uniform(0.2, 0.4)
    lungs = ((np.abs(width) - 0.4) ** 2 + height**2 + depth**2) < radius**2
    body = width**2 + height**2 < 0.8
    voxels = np.where(lungs, -800.0, np.where(body, 40.0, -1000.0)) + generator.normal(
        0, 20, body.shape
    )
    return Volume(voxels.astype(np.float32), tuple(generator.uniform(0.9, 2.5, 3).tolist()))


def mask(generator):
    """Balls of label 1 and 2, which touch, on background."""
    depth, height, width = np.mgrid[-1:1:20j, -1:1:24j, -1:1:28j]
    large, small = generator.uniform(0.4, 0.6), generator.uniform(0.2, 0.3)
    labels = (depth**2 + height**2 + width**2 < large**2).astype(np.float32)
    labels[(depth - large) ** 2 + height**2 + width**2 < small**2] = 2
    return Volume(labels, (2.0, 1.0, 1.5))


def record(generator):
    """A record with static, repeated and numeric codes."""
    n = int(generator.integers(1, 30))
    days = np.sort(generator.uniform(0, 400, n))[::-1]
    codes = [f"LAB//{code}" for code in generator.integers(0, 20, n)]
    values = np.where(generator.random(n) < 0.5, np.nan, generator.normal(size=n))
    return Events(
        np.concatenate([[np.nan, 20_000.0], days]),
        ("GENDER//F", "MEDS_BIRTH", *codes),
        np.concatenate([[np.nan, np.nan], values]),
    )


def inputs(name, *, n=3, seed=0):
    generator = np.random.default_rng(seed)
    if issubclass(ENCODERS.get(name), RecordEncoder):
        return [record(generator) for _ in range(n)]
    return [mask(generator) if name in READS_MASKS else scan(generator) for _ in range(n)]


def assert_same(one, other):
    assert type(one) is type(other)
    if isinstance(one, CodeEmbedding):
        assert one.codes == other.codes
        np.testing.assert_array_equal(one.weights, other.weights)
        np.testing.assert_array_equal(one.numeric, other.numeric)
    else:
        np.testing.assert_array_equal(one.tokens, other.tokens)
        np.testing.assert_array_equal(one.pooled, other.pooled)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_same_bytes_in_give_the_same_tokens_out(name, options):
    first = create(name, options).encode(inputs(name))
    again = create(name, options).encode(inputs(name))
    for one, other in zip(first, again, strict=True):
        assert_same(one, other)
    assert any(_differ(one, other) for one, other in pairwise(first)), (
        "different inputs must not all look the same"
    )


def _differ(one, other):
    try:
        assert_same(one, other)
    except AssertionError:
        return True
    return False


@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_batch_equals_the_loop_over_its_members(name, options):
    encoder = create(name, options)
    given = inputs(name)
    batch = encoder.encode(given)
    singles = [encoder.encode([one])[0] for one in given]
    assert len(batch) == len(given)
    for one, other in zip(batch, singles, strict=True):
        if isinstance(one, TokenEmbedding):  # kernels may sum a batch in another order
            np.testing.assert_allclose(one.tokens, other.tokens, rtol=1e-5, atol=1e-5)
        else:
            assert_same(one, other)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_card_declares_what_comes_out(name, options):
    encoder = create(name, options)
    card = encoder.card
    assert isinstance(encoder, VolumeEncoder if encoder.modality is Modality.CT else RecordEncoder)
    assert encoder.version >= 1
    assert card.licence
    assert isinstance(card.training_data, tuple)
    assert card.dtype in ("float32", "float16")
    for one in encoder.encode(inputs(name)):
        if card.kind == "codes":
            assert (card.token_dim, card.pooled_dim, card.max_tokens) == (None, None, None)
            _check_codes(one)
        else:
            _check_tokens(one, card)


def _check_codes(one):
    assert isinstance(one, CodeEmbedding)
    assert list(one.codes) == sorted(set(one.codes))
    assert one.weights.shape == one.numeric.shape == (len(one.codes),)
    assert one.numeric.dtype == bool
    assert np.isfinite(one.weights).all()


def _check_tokens(one, card):
    assert isinstance(one, TokenEmbedding)
    assert one.tokens.dtype in (np.float32, np.float16)
    assert 1 <= len(one.tokens) <= card.max_tokens
    assert one.tokens.shape[1] == card.token_dim
    assert np.isfinite(one.tokens).all()
    assert (None if one.pooled is None else one.pooled.shape) == (
        None if card.pooled_dim is None else (card.pooled_dim,)
    )
    assert one.pooled is None or np.isfinite(one.pooled).all()


@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_volume_encoder_declares_spacing_and_window_in_physical_units(name, options):
    card = create(name, options).card
    assert card.spacing_mm is None or (len(card.spacing_mm) == 3 and min(card.spacing_mm) > 0)
    assert card.window_hu is None or card.window_hu[0] < card.window_hu[1]


@pytest.mark.parametrize(
    ("name", "options"),
    [case for case in CASES if issubclass(ENCODERS.get(case.values[0]), VolumeEncoder)],
)
def test_a_token_has_a_place_in_the_scan_or_none_has(name, options):
    encoder = create(name, options)
    for volume, embedding in zip(inputs(name), encoder.encode(inputs(name)), strict=True):
        boxes = encoder.token_boxes(volume)
        if boxes is not None:
            assert boxes.shape == (len(embedding.tokens), 2, 3)
            assert (boxes[:, 0] >= 0).all()
            assert (boxes[:, 0] <= boxes[:, 1]).all()
            assert (boxes[:, 1] <= volume.voxels.shape).all()
            assert (boxes[:, 0] < boxes[:, 1]).all(1).any()


@pytest.mark.parametrize(("name", "options"), CASES)
def test_nothing_is_learned_from_the_cohort(name, options):
    fresh, used = create(name, options), create(name, options)
    used.encode(inputs(name, n=4, seed=1))
    given = inputs(name)
    kept = copy.deepcopy(given)
    for one, other in zip(fresh.encode(given), used.encode(given), strict=True):
        assert_same(one, other)
    for before, after in zip(kept, given, strict=True):
        values = (
            [before.voxels, after.voxels]
            if isinstance(before, Volume)
            else [before.numeric_value, after.numeric_value]
        )
        np.testing.assert_array_equal(*values)


MODULES = [
    importlib.import_module(module.name)
    for module in pkgutil.walk_packages(concordant.encoders.__path__, "concordant.encoders.")
]


PICKLES = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def unsafe_loads(source):
    """Name every way in a source text to load an object that could run code.

    Pickle's error may be caught.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [
                alias.name
                for alias in node.names
                if alias.name.split(".")[0] in PICKLES and (alias.name != "pickle" or alias.asname)
            ]
        elif isinstance(node, ast.ImportFrom):
            found += [node.module] if (node.module or "").split(".")[0] in PICKLES else []
        elif (
            isinstance(node, ast.Attribute)
            and ast.unparse(node.value) == "pickle"
            and node.attr != "UnpicklingError"
        ):
            found.append(ast.unparse(node))
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "load"
        ):
            options = {
                keyword.arg: getattr(keyword.value, "value", None) for keyword in node.keywords
            }
            owner = ast.unparse(node.func.value)
            if (owner == "torch" and options.get("weights_only") is not True) or options.get(
                "allow_pickle"
            ) is True:
                found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_weights_are_loaded_from_safetensors_or_with_weights_only(module):
    assert unsafe_loads(inspect.getsource(module)) == []


def test_every_registered_encoder_lies_in_a_module_checked_above():
    files = {Path(module.__file__) for module in MODULES}
    assert {Path(inspect.getfile(ENCODERS.get(name))) for name in ENCODERS} <= files


@pytest.mark.parametrize(
    "source",
    [
        "import pickle; pickle.load(stream)",
        "import pickle; Loader = pickle.Unpickler",
        "import pickle as p",
        "from pickle import loads",
        "from joblib import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_the_check_of_loads_sees_unsafe_ones(source):
    assert unsafe_loads(source)


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path, weights_only=True)",
        "np.load(path)",
        "from safetensors.torch import load_file",
    ],
)
def test_the_check_of_loads_lets_safe_ones_pass(source):
    assert not unsafe_loads(source)
