"""MOTOR: CLMBR's network, its own checkpoints."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from clmbr_fixture import BAGS, events, write_clmbr, write_motor
from concordant.core.errors import WeightsError
from concordant.encoders.clmbr import Clmbr
from concordant.encoders.motor import Motor

RECORD = events((400.0, "MEDS_BIRTH"), (3.0, "LAB//3"), (2.0, "LAB//4"), (1.0, "LAB//1", 0.5))


def test_motor_encodes_with_its_own_checkpoint(tmp_path):
    write_motor(tmp_path)
    encoded = Motor(weights=tmp_path, max_tokens=2).encode([RECORD])[0]
    assert encoded.tokens.shape == (2, 32)
    np.testing.assert_array_equal(encoded.pooled, encoded.tokens[-1])


def test_each_encoder_refuses_the_other_ones_checkpoint_and_names_it(tmp_path):
    write_motor(tmp_path / "motor")
    write_clmbr(tmp_path / "clmbr", task="clmbr")
    with pytest.raises(
        WeightsError, match="task_type is 'motor'; give these weights to the encoder 'motor'"
    ):
        Clmbr(weights=tmp_path / "motor").encode([RECORD])
    with pytest.raises(
        WeightsError, match="task_type is 'clmbr'; give these weights to the encoder 'clmbr'"
    ):
        Motor(weights=tmp_path / "clmbr").encode([RECORD])


def test_a_hierarchical_vocabulary_needs_the_parents_of_codes(tmp_path):
    write_clmbr(tmp_path, entries=BAGS, is_hierarchical=True, task="motor")
    with pytest.raises(
        WeightsError, match=r"the vocabulary is hierarchical.*give the option `ontology`"
    ):
        Motor(weights=tmp_path).encode([RECORD])
    parents = tmp_path / "codes.parquet"
    pl.DataFrame(
        {"code": ["local/4", "LAB//9"], "parent_codes": [["LAB//4"], ["LAB//10"]]}
    ).write_parquet(parents)
    mapped = events((400.0, "MEDS_BIRTH"), (3.0, "LAB//3"), (2.0, "local/4"), (1.0, "LAB//1"))
    plain = events((400.0, "MEDS_BIRTH"), (3.0, "LAB//3"), (2.0, "LAB//4"), (1.0, "LAB//1"))
    encoder = Motor(weights=tmp_path, ontology=parents)
    one, other = encoder.encode([mapped, plain])
    np.testing.assert_allclose(one.tokens, other.tokens, atol=1e-6)
    assert encoder.known_events(mapped) == 4
