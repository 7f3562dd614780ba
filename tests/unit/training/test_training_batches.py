"""From the store's tables to padded tensors, and back out by rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from concordant.core.modality import Modality
from concordant.core.tokens import CodeTokens
from concordant.training.batches import Samples
from concordant.training.scaling import fit_scaling
from training_fixture import make_batch, make_samples


def batch_of(samples, scaled_on=None):
    fitted_on = scaled_on or samples
    return make_batch(
        samples, {modality: fit_scaling(fitted_on.table(modality)) for modality in Modality}
    )


@pytest.mark.parametrize("ehr", ["codes", "tokens"])
def test_a_batch_keeps_the_order_of_samples_and_who_has_what(ehr):
    samples = make_samples(30, ehr=ehr, pooled=True)
    batch = batch_of(samples)
    assert len(batch) == len(samples) == 30
    for modality in Modality:
        assert batch.pair.of(modality).present.tolist() == samples.present(modality).tolist()
    np.testing.assert_array_equal(batch.time, samples.target.time)
    np.testing.assert_array_equal(batch.event, samples.target.event)
    assert batch.time.dtype == torch.float64
    assert batch.pair.subject.tolist() == samples.subject.tolist()


@pytest.mark.parametrize("ehr", ["codes", "tokens"])
def test_taking_rows_before_and_after_gives_the_same_tokens(ehr):
    samples = make_samples(30, ehr=ehr, pooled=True)
    rows = np.array([7, 3, 3, 20, 29])
    taken, whole = batch_of(samples.take(rows), samples), batch_of(samples)
    np.testing.assert_array_equal(taken.time, whole.time[rows])
    for modality in Modality:
        one, all_rows = taken.pair.of(modality), whole.pair.of(modality)
        width = one.valid.shape[1]
        np.testing.assert_array_equal(one.valid, all_rows.valid[rows, :width])
        assert not all_rows.valid[rows, width:].any()
        for part in ("index", "weight") if isinstance(one, CodeTokens) else ("values",):
            np.testing.assert_array_equal(getattr(one, part), getattr(all_rows, part)[rows, :width])


@pytest.mark.parametrize("ehr", ["codes", "tokens"])
def test_chunks_laid_end_to_end_are_the_batch(ehr):
    pair = batch_of(make_samples(30, ehr=ehr, pooled=True)).pair
    chunks = [pair.rows(slice(start, start + 8)) for start in range(0, 30, 8)]
    assert torch.equal(torch.cat([one.subject for one in chunks]), pair.subject)
    assert torch.equal(torch.cat([one.ct.pooled for one in chunks]), pair.ct.pooled)
    for modality in Modality:
        parts = (
            ("index", "weight", "valid")
            if isinstance(pair.of(modality), CodeTokens)
            else ("values", "valid")
        )
        for part in parts:
            joined = torch.cat([getattr(one.of(modality), part) for one in chunks])
            assert torch.equal(joined, getattr(pair.of(modality), part))


def test_a_modality_that_is_left_out_is_missing_in_everyone():
    whole = make_samples(12)
    samples = Samples({Modality.CT: whole.table(Modality.CT)}, whole.target)
    assert not samples.present(Modality.EHR).any()
    batch = batch_of(samples)
    assert not batch.pair.ehr.present.any()
    assert batch.pair.subject is None
    assert samples.take(np.array([1, 2])).subject is None
