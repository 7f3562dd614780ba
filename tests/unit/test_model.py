"""Projectors, the start of a model, and how views become one risk."""

from __future__ import annotations

import pytest
import torch

from concordant.core.modality import Modality
from concordant.core.tokens import CodeTokens, Pair, Tokens
from concordant.fusion import FUSIONS
from concordant.model import (
    CodeProjector,
    InputDims,
    ModelOutput,
    ModelSpec,
    TokenProjector,
    TTEModel,
)

CT, EHR = Modality.CT, Modality.EHR
INPUTS = {CT: InputDims("tokens", 5, 3), EHR: InputDims("codes", 30, None, 4.0)}
OPTIONS = {"unimodal": {"modality": "ehr"}}


def build(name, inputs=INPUTS, width=16, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TTEModel(ModelSpec(name, OPTIONS.get(name, {}) | options), inputs, width, 0.0).eval()


def tokens(batch=4, seed=0):
    rng = torch.Generator().manual_seed(seed)
    valid = torch.tensor([[True, True, False], [True, False, False], [False] * 3, [True] * 3])[
        :batch
    ]
    return Tokens(
        torch.randn(batch, 3, 5, generator=rng), valid, torch.randn(batch, 3, generator=rng)
    ).cleaned()


def codes():
    valid = torch.tensor([[True, True], [True, False], [False, False], [True, True]])
    return CodeTokens(
        torch.tensor([[3, 7], [7, 0], [0, 0], [29, 3]]),
        torch.tensor([[1.0, -2.0], [0.5, 9.0], [9.0, 9.0], [3.0, 1.0]]),
        valid,
    ).cleaned()


def test_tokens_are_mapped_one_by_one_and_their_pooled_vector_by_a_map_of_its_own():
    projector, given = TokenProjector(INPUTS[CT], 6), tokens()
    found = projector(given, False)
    for row, place in given.valid.nonzero():
        torch.testing.assert_close(
            found.values[row, place], projector.token(given.values[row, place])
        )
    assert (found.values[~given.valid] == 0).all()
    torch.testing.assert_close(found.pooled[0], projector.pooled(given.pooled[0]))
    assert (found.pooled[2] == 0).all()


def test_without_a_pooled_vector_the_mean_of_the_projected_tokens_stands_in():
    projector = TokenProjector(InputDims("tokens", 5), 6)
    given = Tokens(tokens().values, tokens().valid).cleaned()
    found = projector(given, False)
    for row in range(4):
        there = given.valid[row]
        expected = (
            projector.token(given.values[row][there]).mean(0) if there.any() else torch.zeros(6)
        )
        torch.testing.assert_close(found.pooled[row], expected)


def test_codes_are_an_embedding_times_their_weight_and_their_sum_is_the_pooled_vector():
    projector, given = CodeProjector(INPUTS[EHR], 6), codes()
    found = projector(given, False)
    embedding, identity, bias = projector.embedding, projector.identity, projector.bias
    torch.testing.assert_close(found.values[0, 1], -2 * embedding[7] + identity[7])
    torch.testing.assert_close(found.pooled[0], embedding[3] - 2 * embedding[7] + bias)
    torch.testing.assert_close(found.pooled[1], 0.5 * embedding[7] + bias)
    assert (found.pooled[2] == 0).all()
    assert (found.values[~given.valid] == 0).all()


@pytest.mark.parametrize("kind", ["pooled", "mean", "codes"])
def test_leaving_the_tokens_out_leaves_the_pooled_vectors_as_they_are(kind):
    if kind == "codes":
        projector, given = CodeProjector(INPUTS[EHR], 6), codes()
    else:
        projector, given = (
            TokenProjector(InputDims("tokens", 5, 3 if kind == "pooled" else None), 6),
            tokens() if kind == "pooled" else Tokens(tokens().values, tokens().valid).cleaned(),
        )
    whole, short = projector(given, False), projector(given, True)
    assert torch.equal(whole.pooled, short.pooled)
    assert torch.equal(whole.valid, short.valid)


@pytest.mark.parametrize("name", list(FUSIONS))
def test_a_strategy_that_does_not_read_tokens_says_the_same_without_them(name):
    model = build(name)
    for parameter in model.head.parameters():
        torch.nn.init.normal_(parameter)
    pair = Pair(tokens(), codes())
    with torch.no_grad():
        expected = model(pair).log_hazard
        if model.fusion.reads_tokens:
            return
        model.fusion.reads_tokens = True  # hides the class's word for this one instance
        assert torch.equal(model(pair).log_hazard, expected)


@pytest.mark.parametrize("name", list(FUSIONS))
def test_a_new_model_says_zero_of_everyone(name):
    model = build(name)
    assert (model(Pair(tokens(), codes())).log_hazard == 0).all()


def test_linear_maps_start_orthogonal():
    model = build("co_attention", guide="both")
    for name, module in [*model.fusion.named_modules(), *model.projectors.named_modules()]:
        if isinstance(module, torch.nn.Linear):
            weight = module.weight if module.out_features <= module.in_features else module.weight.T
            torch.testing.assert_close(
                weight @ weight.T, torch.eye(len(weight)), rtol=0, atol=1e-5, msg=name
            )


@pytest.mark.parametrize("norm", [4.0, 100.0])
@pytest.mark.parametrize("vocabulary", [8, 64, 400])
def test_a_typical_record_starts_with_the_variance_of_a_linear_map_whatever_its_length(
    norm, vocabulary
):
    """A third: that of a map with uniform weights within 1 / sqrt(inputs), on standardised
    inputs.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        projector = CodeProjector(InputDims("codes", vocabulary, None, norm), 64)
        weight = torch.randn(1000, vocabulary) * (norm / vocabulary) ** 0.5
    index = torch.arange(vocabulary).expand(1000, -1)
    pooled = projector(
        CodeTokens(index, weight, torch.ones_like(index, dtype=torch.bool)), True
    ).pooled.detach()
    assert float(pooled.var()) == pytest.approx(1 / 3, rel=0.1)


def test_an_empty_vocabulary_builds_and_says_nothing():
    model = build("late", {CT: InputDims("tokens", 5, 3), EHR: InputDims("codes", 0)})
    nothing = CodeTokens(
        torch.zeros(4, 1, dtype=torch.long), torch.zeros(4, 1), torch.zeros(4, 1, dtype=torch.bool)
    )
    assert not model(Pair(tokens(), nothing)).view_valid[:, 1].any()


def test_only_what_a_strategy_uses_is_projected():
    assert set(build("unimodal").projectors) == {"ehr"}
    assert set(build("concat").projectors) == {"ct", "ehr"}
    assert not build("linear").projectors


def test_a_pooled_vector_that_is_declared_must_be_there():
    given = Tokens(tokens().values, tokens().valid)
    with pytest.raises(TypeError, match="no pooled vector"):
        build("concat")(Pair(given, codes()))


def test_codes_cannot_be_fused_unprojected():
    with pytest.raises(TypeError, match="pass a projector"):
        Pair(tokens(), codes()).projected(EHR)


def test_each_view_of_late_fusion_owns_its_parameters_and_no_others():
    model = build("late")
    first, second = (set(model.view_parameters(view)) for view in (0, 1))
    assert not first & second
    assert first | second == {name for name, _ in model.named_parameters()}
    loss = model(Pair(tokens(), codes())).log_hazard[:, 0].sum()
    loss.backward()
    reached = {
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and parameter.grad.any()
    }
    assert reached <= first


@pytest.mark.parametrize("name", [name for name in FUSIONS if name != "late"])
def test_a_single_view_owns_every_parameter(name):
    model = build(name)
    assert model.view_parameters(0) == [parameter for parameter, _ in model.named_parameters()]


def output(hazard, valid):
    return ModelOutput(torch.tensor(hazard), torch.tensor(valid), None, None)


def two_views(combine):
    model = build("late", combine=combine)
    model.view_mean.copy_(torch.tensor([1.0, -1.0]))
    model.view_scale.copy_(torch.tensor([2.0, 0.5]))
    model.view_weight.copy_(torch.tensor([3.0, 0.25]))
    model.mean_risk.fill_(0.125)
    return model


@pytest.mark.parametrize(
    ("combine", "expected"), [("stack", [3.5, 3.0, 0.5, 0.125]), ("mean", [1.75, 3.0, 0.5, 0.125])]
)
def test_several_views_are_standardised_weighed_and_summed_or_averaged(combine, expected):
    hazard = [[3.0, 0.0]] * 4  # standardised: 1 and 2; weighed: 3 and 0.5
    valid = [[True, True], [True, False], [False, True], [False, False]]
    assert two_views(combine).risk(output(hazard, valid)).tolist() == expected


@pytest.mark.parametrize("combine", ["stack", "mean"])
def test_what_an_invalid_view_says_is_never_read(combine):
    valid = [[True, False], [False, False]]
    found = two_views(combine).risk(output([[3.0, float("nan")], [float("inf")] * 2], valid))
    assert found.tolist() == [3.0, 0.125]


def test_one_view_is_the_risk_unless_the_sample_is_unknown():
    model = build("concat")
    model.mean_risk.fill_(0.125)
    assert model.risk(output([[2.5], [7.0]], [[True], [False]])).tolist() == [2.5, 0.125]


# --- pooled codes: a product, never a gather of (batch, token, width) ---

VOCABULARIES = pytest.mark.parametrize("vocabulary", [12, 500])


def records(vocabulary, batch=50, places=8, seed=0):
    """Codes with repeats, empty records, and garbage in invalid places."""
    rng = torch.Generator().manual_seed(seed)
    valid = torch.rand(batch, places, generator=rng) < 0.6
    valid[::7] = False
    index = torch.randint(vocabulary, (batch, places), generator=rng)
    weight = torch.randn(batch, places, generator=rng)
    return CodeTokens(
        torch.where(valid, index, 10**6), torch.where(valid, weight, float("nan")), valid
    )


def slow_pooled(given, table):
    """One code of one record at a time."""
    rows = []
    for index, weight, valid in zip(given.index, given.weight, given.valid, strict=True):
        parts = [w * table[i] for i, w in zip(index[valid], weight[valid], strict=True)]
        rows.append(torch.stack(parts).sum(0) if parts else torch.zeros_like(table[0]))
    return torch.stack(rows)


@VOCABULARIES
def test_pooled_codes_and_their_gradient_equal_the_sum_code_by_code(vocabulary):
    given = records(vocabulary)
    fast, slow = (torch.linspace(-1, 1, vocabulary * 6).reshape(-1, 6) for _ in range(2))
    found = given.weighted_sum(fast.requires_grad_())
    expected = slow_pooled(given, slow.requires_grad_())
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    upstream = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    found.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(fast.grad, slow.grad, rtol=1e-6, atol=1e-5)


@VOCABULARIES
def test_codes_as_a_matrix_give_the_same_sum(vocabulary):
    given, table = records(vocabulary), torch.randn(vocabulary, 3)
    torch.testing.assert_close(given.dense(vocabulary) @ table, given.weighted_sum(table))


@VOCABULARIES
def test_pooled_codes_and_their_gradient_run_under_functional_call_and_vmap(vocabulary):
    given = records(vocabulary)
    several = [CodeProjector(InputDims("codes", vocabulary), 4) for _ in range(3)]
    parameters, _ = torch.func.stack_module_state(several)

    def pooled_square(one):
        out = torch.func.functional_call(several[0], one, (given, True))
        return out.pooled.square().sum()

    gradient, value = torch.func.vmap(torch.func.grad_and_value(pooled_square))(parameters)
    for place, module in enumerate(several):
        expected = module(given, True).pooled.square().sum()
        expected.backward()
        torch.testing.assert_close(value[place], expected.detach())
        torch.testing.assert_close(gradient["embedding"][place], module.embedding.grad)
