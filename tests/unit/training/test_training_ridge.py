"""The ridge Cox path: the solution of wide and sparse data, and the choice of the penalty."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from concordant.core.embedding import TokenTable
from concordant.core.modality import Modality
from concordant.core.survival import Outcomes
from concordant.metrics.cox import solve_cox
from concordant.model import ModelSpec
from concordant.training.batches import Samples
from concordant.training.fit import fit
from concordant.training.ridge import PENALTIES
from concordant.training.scaling import CodeScaling
from training_fixture import make_samples, quick, slow_cox, split, with_inputs

LINEAR = ModelSpec("linear", {})


def design_of(fitted, samples):
    """The design as the architecture states it.

    Scaled pooled features, 0 where missing, and an indicator per modality.
    """
    columns = []
    for modality in Modality:
        scaling, table = fitted.scaling[modality], samples.table(modality)
        scaled = scaling.apply(table)
        present = scaled.present.numpy().astype(float)
        features = np.zeros(
            (
                len(samples),
                len(scaling.codes) if isinstance(scaling, CodeScaling) else scaling.dims.features,
            )
        )
        for row in np.flatnonzero(present):
            valid = scaled.valid[row]
            if isinstance(scaling, CodeScaling):
                features[row, scaled.index[row][valid].numpy()] = scaled.weight[row][valid].numpy()
            else:
                features[row] = (
                    scaled.pooled[row].numpy()
                    if scaled.pooled is not None
                    else scaled.values[row][valid].numpy().mean(0)
                )
        columns += [features, present[:, None]]
    return np.concatenate(columns, 1)


def known(samples):
    return samples.take(
        np.flatnonzero(samples.present(Modality.CT) | samples.present(Modality.EHR))
    )


def chosen_penalty(fitted):
    return min(fitted.history, key=lambda entry: entry["tuning_loss"])["penalty"]


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("ehr", ["codes", "tokens"])
def test_the_risk_is_that_of_a_ridge_cox_model_of_the_stated_design(ehr, pooled):
    train, tuning = split(make_samples(140, ehr=ehr, pooled=pooled), 90, 50)
    fitted = fit(train, tuning, LINEAR, quick())
    rows = known(train)
    coefficients = solve_cox(design_of(fitted, rows), rows.target, penalty=chosen_penalty(fitted))
    found = fitted.predict(tuning.inputs)
    expected = design_of(fitted, tuning) @ coefficients
    np.testing.assert_allclose(found.risk[found.known], expected[found.known], rtol=1e-4, atol=1e-5)
    assert np.ptp(found.risk) > 0.1


def test_the_tuning_loss_of_the_path_is_the_likelihood_of_tuning_per_event():
    train, tuning = split(make_samples(140, missing=0.0), 90, 50)
    fitted = fit(train, tuning, LINEAR, quick())
    assert [entry["penalty"] for entry in fitted.history] == list(PENALTIES)
    for entry in fitted.history[::7]:
        coefficients = solve_cox(design_of(fitted, train), train.target, penalty=entry["penalty"])
        slow = slow_cox(
            design_of(fitted, tuning) @ coefficients, tuning.target.time, tuning.target.event
        )
        assert entry["tuning_loss"] == pytest.approx(
            slow.value / tuning.target.observed.sum(), rel=1e-6
        )


def wide(n=40, features=300, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, features)).astype(np.float32)
    time = rng.exponential(np.exp(-values[:, :3].sum(1))) * 100 + 1
    ct = TokenTable(values, np.arange(n + 1))
    return Samples({Modality.CT: ct}, Outcomes(time, (rng.random(n) < 0.8).astype(np.int64)))


def test_more_features_than_samples_give_the_solution_of_the_whole_design():
    train, tuning = split(wide(60), 40, 20)
    fitted = fit(train, tuning, LINEAR, quick())
    design = design_of(fitted, train)
    assert design.shape[1] > 300
    coefficients = solve_cox(design, train.target, penalty=chosen_penalty(fitted))
    np.testing.assert_allclose(
        fitted.predict(tuning.inputs).risk,
        design_of(fitted, tuning) @ coefficients,
        rtol=1e-3,
        atol=1e-5,
    )


def test_nothing_but_noise_gets_a_heavy_penalty():
    samples = wide(120, 20)
    noise = Samples(
        samples.inputs, samples.target.take(np.random.default_rng(9).permutation(len(samples)))
    )
    fitted = fit(*split(noise, 80, 40), LINEAR, quick())
    assert np.std(fitted.predict(noise.inputs).risk) < 0.5
    signal = fit(*split(samples, 80, 40), LINEAR, quick())
    assert chosen_penalty(signal) < chosen_penalty(fitted)


@pytest.mark.parametrize("modality", list(Modality))
def test_a_linear_model_of_one_modality_does_not_see_the_other(modality):
    train, tuning = split(make_samples(140, ehr="tokens"), 90, 50)
    spec = ModelSpec("linear", {"modality": modality})
    risk = fit(train, tuning, spec, quick()).predict(tuning.inputs).risk
    other = modality.other
    table = train.table(other)
    changed = with_inputs(train, {other: TokenTable(-table.values[::-1].copy(), table.offsets)})
    np.testing.assert_array_equal(
        fit(changed, tuning, spec, quick()).predict(tuning.inputs).risk, risk
    )


def test_gradients_have_no_part_in_it():
    train, tuning = split(make_samples(140), 90, 50)
    first = fit(train, tuning, LINEAR, quick(), seed=0)
    second = fit(train, tuning, LINEAR, quick(lr=1.0, max_epochs=1), seed=1)
    for one, other in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)
