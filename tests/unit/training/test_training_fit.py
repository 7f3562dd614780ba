"""The one way to fit: who learns from what, when it stops, and what a fitted model says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fusion_cases import CASES, IDS

import concordant.training.fit as fitting
from concordant.core.embedding import (
    CodeEmbedding,
    CodeTable,
    TokenEmbedding,
    TokenTable,
    pack_codes,
    pack_tokens,
)
from concordant.core.errors import ConcordantError, ConfigError, NotApplicableError
from concordant.core.modality import Modality
from concordant.core.survival import Outcomes
from concordant.metrics import concordance_index
from concordant.model import ModelSpec, TTEModel
from concordant.training.batches import Samples
from concordant.training.fit import fit, torch_device
from training_fixture import CT_DIM, make_samples, quick, slow_cox, split, with_inputs

EVERY = pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
CT, EHR = Modality.CT, Modality.EHR


def parts(seed=0, **options):
    return split(make_samples(110, seed=seed, **options), 50, 30, 30)


def permuted(samples, seed=0):
    """The same inputs with another's outcome."""
    return Samples(
        samples.inputs,
        samples.target.take(np.random.default_rng(seed).permutation(len(samples))),
        samples.subject,
    )


def distorted(samples):
    """Other values, and for codes other codes too, with the same samples present."""
    changed = {}
    for modality, table in samples.inputs.items():
        if isinstance(table, CodeTable):
            changed[modality] = CodeTable(
                tuple(f"{code}X" for code in table.codes),
                table.numeric,
                table.index,
                table.weight * 9,
                table.offsets,
            )
        else:
            changed[modality] = TokenTable(table.values * 100 + 5, table.offsets, table.pooled)
    return with_inputs(samples, changed)


def scaling_arrays(fitted):
    found = []
    for scaling in fitted.scaling.values():
        columns = (
            [scaling]
            if hasattr(scaling, "codes")
            else [one for one in (scaling.token, scaling.pooled) if one is not None]
        )
        found += [array for one in columns for array in (one.mean, one.scale)] + [
            np.array(getattr(scaling, "codes", ()))
        ]
    return found


@pytest.mark.parametrize("ehr", ["codes", "tokens"])
def test_scaling_and_vocabulary_come_from_train_alone(ehr):
    train, tuning, _ = parts(ehr=ehr)
    first = fit(train, tuning, ModelSpec("late", {}), quick(max_epochs=1))
    second = fit(train, distorted(tuning), ModelSpec("late", {}), quick(max_epochs=1))
    for one, other in zip(scaling_arrays(first), scaling_arrays(second), strict=True):
        np.testing.assert_array_equal(one, other)
    third = fit(distorted(train), tuning, ModelSpec("late", {}), quick(max_epochs=1))
    assert any(
        not np.array_equal(one, other)
        for one, other in zip(scaling_arrays(first), scaling_arrays(third), strict=True)
    )


@EVERY
def test_the_outcome_of_those_who_are_predicted_changes_nothing(name, options):
    """Everything goes through one table, as in a study.

    The rows of train, of tuning and the rest.
    """
    whole = make_samples(110)
    rows = np.random.default_rng(4).permutation(110)
    train, tuning, test = rows[:50], rows[50:80], rows[80:]
    other = Outcomes(whole.target.time.copy(), whole.target.event.copy())
    other.time[test], other.event[test] = 1.5, 1
    risks = []
    for target in (whole.target, other):
        samples = Samples(whole.inputs, target, whole.subject)
        fitted = fit(
            samples.take(train), samples.take(tuning), ModelSpec(name, options), quick(max_epochs=4)
        )
        risks.append(fitted.predict(samples.take(test).inputs).risk)
    np.testing.assert_array_equal(*risks)


@EVERY
def test_a_fit_depends_on_its_seed_and_on_no_global_state(name, options):
    train, tuning, new = parts()
    risks = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        np.random.seed(noise)  # noqa: NPY002 # the global state is what must be of no account
        # the same
        before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
        risks.append(
            fit(train, tuning, ModelSpec(name, options), quick(max_epochs=4, dropout=0.3), seed=7)
            .predict(new.inputs)
            .risk
        )
        assert torch.equal(before, torch.get_rng_state())
        # the same
        np.testing.assert_array_equal(before_numpy, np.random.get_state()[1])  # noqa: NPY002
    np.testing.assert_array_equal(*risks)


def test_the_outcome_of_tuning_decides_when_to_stop_and_nothing_else():
    train, tuning, new = parts()
    spec, fixed = ModelSpec("concat", {}), quick(max_epochs=15, min_epochs=15, patience=1)
    first, second = (fit(train, part, spec, fixed) for part in (tuning, permuted(tuning)))
    np.testing.assert_array_equal(first.predict(new.inputs).risk, second.predict(new.inputs).risk)


def test_training_stops_after_patience_and_keeps_the_best_epoch():
    train, tuning, _ = parts()
    options = quick(max_epochs=60, min_epochs=0, patience=2, lr=3e-1)
    fitted = fit(train, tuning, ModelSpec("concat", {}), options)
    losses = [entry["tuning_loss"][0] for entry in fitted.history]
    best = int(np.argmin(losses))
    assert 0 < best < len(losses) == best + options.patience < options.max_epochs
    found = fitted.predict(tuning.inputs)
    slow = slow_cox(found.risk, tuning.target.time, tuning.target.event, valid=found.known)
    observed = (tuning.target.observed & found.known).sum()
    assert slow.value / observed == pytest.approx(losses[best], rel=1e-5)


def test_the_tuning_loss_is_not_heeded_before_the_least_number_of_epochs():
    train, tuning, _ = parts()
    fitted = fit(
        train,
        permuted(tuning),
        ModelSpec("concat", {}),
        quick(max_epochs=40, min_epochs=25, patience=3, lr=3e-2),
    )
    losses = [entry["tuning_loss"] for entry in fitted.history]
    assert losses[:25] == [None] * 25
    assert all(loss is not None for loss in losses[25:])
    assert np.ptp(fitted.predict(tuning.inputs).risk) > 0, (
        "the start, where every log-hazard is zero, was not an epoch to choose"
    )


def test_a_chunk_size_changes_memory_and_not_the_fit():
    train, tuning, new = parts()
    for name, options in (("late", {}), ("cross_attention", {"query": "both"})):
        risks = [
            fit(train, tuning, ModelSpec(name, options), quick(chunk_size=size))
            .predict(new.inputs)
            .risk
            for size in (None, 11)
        ]
        np.testing.assert_allclose(*risks, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("combine", ["stack", "mean"])
def test_the_views_of_late_fusion_are_the_unimodal_models(combine, monkeypatch):
    """From one start, each view ends where its unimodal model ends, whatever the other does and
    however long it goes on.
    """
    train, tuning, new = split(make_samples(170, ehr="tokens", seed=2), 80, 60, 30)
    options = quick(max_epochs=60, min_epochs=0, patience=2, lr=3e-1)
    start: dict[str, torch.Tensor] = {}

    def build(spec, inputs, width, dropout):
        model = TTEModel(spec, inputs, width, dropout)
        if spec.fusion == "late":
            start.update({name: value.clone() for name, value in model.state_dict().items()})
        else:
            model.load_state_dict(_of_view(start, spec.fusion_options["modality"]), strict=False)
        return model

    monkeypatch.setattr(fitting, "TTEModel", build)
    late = fit(train, tuning, ModelSpec("late", {"combine": combine}), options)
    lengths = []
    for modality in Modality:
        alone = fit(train, tuning, ModelSpec("unimodal", {"modality": modality}), options)
        lengths.append(len(alone.history))
        expected = dict(alone.model.named_parameters())
        found = _of_view(late.model.state_dict(), modality)
        assert set(found) == set(expected)
        for name, value in found.items():
            torch.testing.assert_close(
                value, expected[name], rtol=1e-4, atol=1e-5, msg=f"{modality}: {name}"
            )
    assert len(late.history) == max(lengths)
    first = list(Modality)[int(np.argmin(lengths))]
    longer = quick(max_epochs=max(lengths), min_epochs=0, patience=60, lr=3e-1)
    ends = [
        fit(train, tuning, ModelSpec("unimodal", {"modality": first}), one).predict(new.inputs).risk
        for one in (options, longer)
    ]
    assert not np.allclose(*ends), (
        "the case that matters: the view that stops first would find a better epoch if it went on "
        "with the other"
    )


def _of_view(state, modality):
    """Rename a late model's parameters of one modality to those of the unimodal model."""
    modality = Modality(modality)
    names = {
        f"fusion.branches.{modality.value}.": "fusion.branch.",
        f"head.layers.{list(Modality).index(modality)}.": "head.layers.0.",
    }
    names[f"projectors.{modality.value}."] = f"projectors.{modality.value}."
    return {
        new + name.removeprefix(old): value
        for old, new in names.items()
        for name, value in state.items()
        if name.startswith(old)
    }


def test_the_two_stages_of_contrastive_fusion_follow_each_other():
    train, tuning, _ = parts()
    fitted = fit(
        train,
        tuning,
        ModelSpec("contrastive", {"regime": "two_stage", "align_epochs": 30}),
        quick(),
    )
    phases = [entry["phase"] for entry in fitted.history]
    assert phases[:31] == [0] * 30 + [1]
    assert all(entry["tuning_loss"] is None for entry in fitted.history[:30])
    aligned = [entry["train_loss"] for entry in fitted.history[:30]]
    assert aligned[-1] < aligned[0]


@EVERY
def test_who_has_nothing_the_strategy_uses_gets_the_mean_risk_of_train_and_is_flagged(
    name, options
):
    train, tuning, new = parts(missing=0.4)
    fitted = fit(train, tuning, ModelSpec(name, options), quick(max_epochs=3))
    found = fitted.predict(new.inputs)
    uses = fitted.model.fusion.uses
    expected = np.any([new.present(modality) for modality in uses], axis=0)
    assert 0 < expected.sum() < len(new)
    np.testing.assert_array_equal(found.known, expected)
    on_train = fitted.predict(train.inputs)
    np.testing.assert_allclose(
        found.risk[~found.known], on_train.risk[on_train.known].mean(), rtol=1e-5, atol=1e-7
    )
    assert np.ptp(found.risk[found.known]) > 0


def test_a_modality_left_out_of_a_prediction_is_missing():
    train, tuning, new = parts()
    fitted = fit(train, tuning, ModelSpec("concat", {}), quick())
    left_out = fitted.predict({CT: new.table(CT)})
    masked = fitted.predict({CT: new.table(CT), EHR: fitted.scaling[EHR].absent(len(new))})
    np.testing.assert_array_equal(left_out.risk, masked.risk)
    np.testing.assert_array_equal(left_out.known, new.present(CT))


def test_neighbours_in_a_batch_do_not_change_a_prediction():
    train, tuning, new = parts()
    absurd = pack_tokens(
        [TokenEmbedding(np.full((9, CT_DIM), 1e30, np.float32))], dim=CT_DIM, pooled_dim=None
    )
    for name, options in (("co_attention", {"guide": "both"}), ("contrastive", {})):
        fitted = fit(train, tuning, ModelSpec(name, options), quick(max_epochs=3))
        together = fitted.predict(new.inputs).risk
        table = new.table(CT)
        crowd = TokenTable(
            np.concatenate([table.values, absurd.values]),
            np.append(table.offsets, table.offsets[-1] + 9),
            None,
        )
        records = pack_codes([CodeEmbedding(("NEW",), np.ones(1, np.float32), np.zeros(1, bool))])
        ehr = new.table(EHR)
        both = {
            CT: crowd,
            EHR: CodeTable(
                (*ehr.codes, "NEW"),
                np.append(ehr.numeric, False),
                np.append(ehr.index, len(ehr.codes)),
                np.append(ehr.weight, records.weight),
                np.append(ehr.offsets, ehr.offsets[-1] + 1),
            ),
        }
        np.testing.assert_allclose(fitted.predict(both).risk[:-1], together, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["linear", "concat", "late"])
def test_survival_curves_expect_as_many_events_as_train_saw(name):
    """What Breslow's baseline guarantees.

    The sum of the cumulative hazards at everyone's own time is the number of events.
    """
    samples = make_samples(120, missing=0.1)
    known = samples.take(np.flatnonzero(samples.present(CT) | samples.present(EHR)))
    train, tuning = split(known, 80, len(known) - 80)
    fitted = fit(train, tuning, ModelSpec(name, {}), quick())
    risk = fitted.predict(train.inputs).risk
    curves = fitted.survival(risk, train.target.time)
    assert -np.log(np.diag(curves)).sum() == pytest.approx(train.target.observed.sum(), rel=1e-5)


def test_survival_starts_at_one_never_rises_and_is_lower_for_a_higher_risk():
    train, tuning, new = parts()
    fitted = fit(train, tuning, ModelSpec("linear", {}), quick())
    risk = fitted.predict(new.inputs).risk
    curves = fitted.survival(risk, np.linspace(0, train.target.time.max() * 2, 80))
    assert (curves[:, 0] == 1).all()
    assert ((curves >= 0) & (curves <= 1)).all()
    assert (np.diff(curves, axis=1) <= 0).all()
    assert (np.diff(curves[np.argsort(risk)], axis=0) <= 1e-12).all()


@pytest.mark.parametrize(("name", "options"), [("linear", {}), ("concat", {}), ("late", {})])
def test_a_signal_in_both_modalities_is_learned_and_a_higher_risk_is_an_earlier_event(
    name, options
):
    train, tuning, new = split(make_samples(700, missing=0.0, seed=1), 400, 150, 150)
    fitted = fit(
        train,
        tuning,
        ModelSpec(name, options),
        quick(max_epochs=80, min_epochs=10, patience=10, width=16),
    )
    risk = fitted.predict(new.inputs).risk
    assert concordance_index(new.target.time, new.target.event, risk).estimate > 0.72
    for modality in Modality:
        only = fitted.predict({modality: new.table(modality)}).risk
        assert concordance_index(new.target.time, new.target.event, only).estimate > 0.58


@pytest.mark.parametrize("part", ["train", "tuning"])
@pytest.mark.parametrize("name", ["linear", "concat", "unimodal"])
def test_a_part_without_events_among_those_who_count_is_refused(part, name):
    pieces = dict(zip(("train", "tuning"), parts(missing=0.4), strict=False))
    one = pieces[part]
    event = one.target.event * ~(one.present(CT) if name == "unimodal" else np.ones(len(one), bool))
    pieces[part] = Samples(one.inputs, Outcomes(one.target.time, event), one.subject)
    spec = ModelSpec(name, {"modality": "ct"} if name == "unimodal" else {})
    with pytest.raises(ConcordantError, match=f"{part} has no observed event"):
        fit(pieces["train"], pieces["tuning"], spec, quick())


def one_code_each(n=40):
    """Two codes per record, one of them of nobody else: the vocabulary keeps one."""
    return pack_codes(
        [
            CodeEmbedding(
                (f"A{row % 3}", f"ONLY{row:03d}"), np.ones(2, np.float32), np.zeros(2, bool)
            )
            for row in range(n)
        ]
    )


def test_a_single_key_is_refused_where_the_vocabulary_leaves_a_single_one():
    samples = with_inputs(make_samples(40), {EHR: one_code_each()})
    with pytest.raises(NotApplicableError, match="ehr needs more than one token"):
        fit(samples, samples, ModelSpec("cross_attention", {"query": "ct"}), quick(max_epochs=1))
    fit(samples, samples, ModelSpec("cross_attention", {"query": "ehr"}), quick(max_epochs=1))


def test_records_without_a_known_code_are_missing_records_everywhere():
    """They train nothing, carry no weight in the mean risk, and get the mean risk."""
    rows = [f"A{row % 2}" if row % 4 else f"ONLY{row:03d}" for row in range(120)]
    ehr = pack_codes(
        [CodeEmbedding((code,), np.ones(1, np.float32), np.zeros(1, bool)) for code in rows]
    )
    samples = Samples({EHR: ehr}, make_samples(120).target)
    there = np.array([code.startswith("A") for code in rows])
    for name in ("unimodal", "linear"):
        spec = ModelSpec(name, {"modality": "ehr"})
        train, tuning = split(samples, 70, 50)
        fitted = fit(train, tuning, spec, quick())
        found = fitted.predict(train.inputs)
        np.testing.assert_array_equal(found.known, there[:70])
        np.testing.assert_allclose(
            found.risk[~found.known], found.risk[found.known].mean(), rtol=1e-5, atol=1e-7
        )
        other = Outcomes(train.target.time.copy(), train.target.event.copy())
        other.time[~there[:70]], other.event[~there[:70]] = 1.5, 1
        again = fit(Samples(train.inputs, other), tuning, spec, quick())
        np.testing.assert_array_equal(
            again.predict(tuning.inputs).risk, fitted.predict(tuning.inputs).risk
        )


def test_a_device_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match="'abacus'"):
        torch_device("abacus")
    with pytest.raises(ConfigError, match="cuda:99"):
        torch_device("cuda:99")
    assert torch_device("cpu").type == "cpu"
    assert torch_device("auto").type in ("cpu", "cuda")
