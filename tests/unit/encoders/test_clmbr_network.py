"""The network: its attention and its rules against slow, obvious ones.

Padding, batches, gaps, length.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clmbr_fixture import tiny_config, tiny_network
from concordant.encoders.clmbr.attention import local_attention
from concordant.encoders.clmbr.layout import NEW, OLD


def slow_attention(query, key, value, span):
    out = torch.zeros_like(query)
    for place in range(query.shape[1]):
        first = max(0, place - span + 1)
        scores = torch.einsum(
            "bhd,bkhd->bhk", query[:, place], key[:, first : place + 1]
        ) / math.sqrt(query.shape[-1])
        out[:, place] = torch.einsum(
            "bhk,bkhd->bhd", scores.softmax(-1), value[:, first : place + 1]
        )
    return out


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 60),
    st.integers(1, 70),
    st.integers(1, 20),
    st.integers(1, 3),
    st.integers(0, 99),
)
def test_windowed_attention_is_that_of_every_window(length, span, block, batch, seed):
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(batch, length, 2, 4, generator=generator) for _ in range(3)]
    torch.testing.assert_close(
        local_attention(*parts, span=span, block=block),
        slow_attention(*parts, span),
        atol=2e-6,
        rtol=1e-5,
    )


def slow_forward(network, tokens, ages):
    """The forward pass of one record, written out event by event in float64, from the published
    rules.
    """
    sizes, old = network.sizes, network.layout is OLD
    state = {name: value.double() for name, value in network.state_dict().items()}

    def norm(values, name):
        square = (values**2).mean(-1, keepdim=True)
        return state[f"{name}.weight"] * (
            values / (square.sqrt() + 1e-8) if old else values / (square + 1e-6).sqrt()
        )

    half = sizes.head_dim // 2
    frequency = torch.tensor(
        [10_000.0 ** -(2 * one / max(1, half - 1)) for one in range(half)], dtype=torch.float64
    )
    angle = torch.tensor(ages, dtype=torch.float64)[:, None] * frequency

    def turn(values):
        turned = values.clone()
        for pair in range(half):
            a, b = values[..., 2 * pair], values[..., 2 * pair + 1]
            sin, cos = angle[:, pair].sin()[:, None], angle[:, pair].cos()[:, None]
            turned[..., 2 * pair], turned[..., 2 * pair + 1] = a * cos - b * sin, b * cos + a * sin
        return turned

    hidden = norm(state["embed.weight"][tokens], "in_norm")
    span = sizes.attention_width + (1 if old else 0)
    for layer in range(sizes.n_layers):
        name = f"layers.{layer}"
        projected = (
            norm(hidden, f"{name}.norm") @ state[f"{name}.input_proj.weight"].T
            + state[f"{name}.input_proj.bias"]
        )
        ff, qkv = projected[:, : sizes.intermediate_size], projected[:, sizes.intermediate_size :]
        query, key, value = qkv.reshape(len(tokens), 3, sizes.n_heads, sizes.head_dim).unbind(1)
        attended = slow_attention(turn(query)[None], turn(key)[None], value[None], span)[0].reshape(
            len(tokens), -1
        )
        gelu = 0.5 * ff * (1 + torch.erf(ff / math.sqrt(2)))
        output = (
            torch.cat([attended, gelu], -1) @ state[f"{name}.output_proj.weight"].T
            + state[f"{name}.output_proj.bias"]
        )
        hidden = hidden + output
    return norm(hidden, "out_norm")


def inputs(generator, batch, length, vocabulary=20):
    tokens = torch.randint(0, vocabulary, (batch, length), generator=generator)
    ages = torch.rand(batch, length, generator=generator).mul(900).sort(1).values
    return tokens, ages


def run(network, tokens, ages, valid=None, **more):
    with torch.no_grad():
        return network(
            tokens,
            ages,
            torch.ones(ages.shape, dtype=torch.bool) if valid is None else valid,
            **more,
        )


@pytest.mark.parametrize("layout", [OLD, NEW])
def test_the_forward_pass_is_that_of_the_published_rules(layout):
    network = tiny_network(tiny_config(), layout)
    tokens, ages = inputs(torch.Generator().manual_seed(1), 1, 23)
    expected = slow_forward(network, tokens[0], ages[0].tolist())
    np.testing.assert_allclose(run(network, tokens, ages)[0].numpy(), expected.numpy(), atol=1e-5)


def test_the_rules_of_one_layout_are_not_those_of_the_other():
    tokens, ages = inputs(torch.Generator().manual_seed(1), 1, 23)
    old, new = (run(tiny_network(tiny_config(), layout), tokens, ages) for layout in (OLD, NEW))
    assert (old - new).abs().max() > 1e-3


@pytest.mark.parametrize("layout", [OLD, NEW])
def test_a_window_counts_itself_or_not_by_layout(layout):
    network = tiny_network(tiny_config(n_layers=1), layout)
    tokens, ages = inputs(torch.Generator().manual_seed(2), 1, 20)
    changed = tokens.clone()
    changed[0, 5] = (changed[0, 5] + 1) % 20
    moved = (run(network, tokens, ages) != run(network, changed, ages)).any(-1)[0]
    assert moved.nonzero()[:, 0].tolist() == list(range(5, 5 + 6 + (layout is OLD)))
    assert network.span == 6 + (layout is OLD)


def test_a_state_depends_on_nothing_beyond_the_reach():
    network = tiny_network(tiny_config())
    tokens, ages = inputs(torch.Generator().manual_seed(3), 1, 40)
    whole = run(network, tokens, ages)
    cut = run(network, tokens[:, -network.reach - 4 :], ages[:, -network.reach - 4 :])
    torch.testing.assert_close(cut[:, -4:], whole[:, -4:], atol=1e-5, rtol=1e-5)
    shorter = run(network, tokens[:, -network.reach :], ages[:, -network.reach :])
    assert (shorter[:, -1] - whole[:, -1]).abs().max() > 1e-6


@pytest.mark.parametrize("where", ["end", "start", "scattered"])
def test_what_stands_where_no_event_is_changes_nothing(where):
    network = tiny_network(tiny_config())
    generator = torch.Generator().manual_seed(4)
    tokens, ages = inputs(generator, 1, 17)
    places = {
        "end": range(17),
        "start": range(6, 23),
        "scattered": sorted(torch.randperm(23, generator=generator)[:17].tolist()),
    }[where]
    wide = (
        torch.full((1, 23), -7),
        torch.full((1, 23), math.nan),
        torch.zeros(1, 23, dtype=torch.bool),
    )
    for values, own in zip(wide, (tokens, ages, True), strict=True):
        values[:, list(places)] = own
    states = run(network, *wide)
    torch.testing.assert_close(
        states[:, list(places)], run(network, tokens, ages), atol=1e-6, rtol=1e-6
    )
    assert (states[~wide[2]] == 0).all()


def test_a_batch_equals_its_records():
    network = tiny_network(tiny_config())
    tokens, ages = inputs(torch.Generator().manual_seed(5), 4, 30)
    lengths = [30, 1, 12, 7]
    valid = torch.arange(30) < torch.tensor(lengths)[:, None]
    states = run(network, tokens, ages, valid)
    for row, length in enumerate(lengths):
        alone = run(network, tokens[row : row + 1, :length], ages[row : row + 1, :length])[0]
        torch.testing.assert_close(states[row, :length], alone, atol=1e-5, rtol=1e-5)


def test_a_bag_of_one_is_a_token_and_a_bag_is_a_weighted_sum():
    network = tiny_network(tiny_config())
    tokens, ages = inputs(torch.Generator().manual_seed(6), 2, 9)
    bags = torch.stack([tokens, torch.zeros_like(tokens)], -1)
    weights = torch.tensor([1.0, 0.0]).expand(2, 9, 2)
    torch.testing.assert_close(
        run(network, bags, ages, weights=weights), run(network, tokens, ages)
    )
    with torch.no_grad():
        table = network.embed.weight
        mixed = network._embedded(torch.tensor([[[1, 4]]]), torch.tensor([[[0.5, 2.0]]]))
    torch.testing.assert_close(mixed[0, 0], 0.5 * table[1] + 2 * table[4])


def test_normed_ages_take_the_last_two_channels_and_swiglu_gates():
    config = tiny_config(use_normed_ages=True, hidden_act="swiglu", use_bias=False, n_layers=1)
    network = tiny_network(config)
    tokens, ages = inputs(torch.Generator().manual_seed(7), 1, 1)
    states = run(network, tokens, ages)[0, 0].double()
    state = {name: value.double() for name, value in network.state_dict().items()}

    def norm(values, name):
        return state[f"{name}.weight"] * values / (values.square().mean() + 1e-6).sqrt()

    hidden = norm(state["embed.weight"][tokens[0, 0]], "in_norm")
    age = (ages[0, 0].double() - network.age_scale.mean_days) / network.age_scale.std_days
    normed = torch.cat([norm(hidden, "layers.0.norm")[:-2], torch.stack([age, age**2])])
    projected = state["layers.0.input_proj.weight"] @ normed
    gate, value, attended = (
        projected[:48],
        projected[48:96],
        projected[-32:],
    )  # alone, an event attends to its own value
    combined = torch.cat([attended, gate / (1 + (-gate).exp()) * value])
    torch.testing.assert_close(
        states,
        norm(hidden + state["layers.0.output_proj.weight"] @ combined, "out_norm"),
        atol=1e-6,
        rtol=1e-5,
    )


def test_gradients_flow_and_far_events_get_none():
    network = tiny_network(tiny_config(n_layers=1, attention_width=4))
    tokens, ages = inputs(torch.Generator().manual_seed(8), 1, 12, vocabulary=12)
    tokens = torch.arange(12)[None]
    network(tokens, ages, torch.ones(1, 12, dtype=torch.bool))[0, -1].sum().backward()
    moved = network.embed.weight.grad[:12].abs().sum(1) > 0
    assert moved.tolist() == [False] * 8 + [True] * 4


def test_in_bfloat16_states_are_nearly_those_of_float32():
    """What a GPU runs under; ages stay in float32, whose days bfloat16 could not tell apart."""
    network = tiny_network(tiny_config())
    tokens, ages = inputs(torch.Generator().manual_seed(9), 2, 30)
    exact = run(network, tokens, ages + 20_000)
    with torch.autocast("cpu", torch.bfloat16):
        rough = run(network, tokens, ages + 20_000)
    assert (rough.float() - exact).abs().mean() < 0.03 * exact.abs().mean()
