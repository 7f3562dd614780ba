"""Options of training, and the rule behind "auto". What the defaults are is not tested.

They are a choice, with its benchmark.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from concordant.training.options import MANY_EVENTS, TrainOptions, regularisation


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_more_events_never_ask_for_more_regularisation(one, other):
    fewer, more = (
        regularisation(TrainOptions(dropout="auto", weight_decay="auto"), events)
        for events in sorted((one, other))
    )
    assert 0 <= more.dropout <= fewer.dropout < 1
    assert 0 <= more.weight_decay <= fewer.weight_decay


def test_beyond_many_events_it_shrinks_in_proportion_and_before_it_does_not():
    auto = TrainOptions(dropout="auto", weight_decay="auto")
    assert regularisation(auto, 1) == regularisation(auto, MANY_EVENTS)
    ten = regularisation(auto, 10 * MANY_EVENTS)
    assert ten.dropout == pytest.approx(regularisation(auto, 1).dropout / 10)
    assert ten.weight_decay == pytest.approx(regularisation(auto, 1).weight_decay / 10)


@given(st.floats(0, 0.99), st.floats(0, 100), st.integers(0, 10**6))
def test_numbers_are_taken_as_they_are(dropout, weight_decay, events):
    found = regularisation(TrainOptions(dropout=dropout, weight_decay=weight_decay), events)
    assert (found.dropout, found.weight_decay) == (dropout, weight_decay)


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": 0},
        {"lr": -1e-3},
        {"lr": float("nan")},
        {"lr": float("inf")},
        {"max_epochs": 0},
        {"min_epochs": -1},
        {"patience": 0},
        {"width": 1},
        {"dropout": 1.0},
        {"dropout": "none"},
        {"weight_decay": -1},
        {"weight_decay": float("nan")},
        {"weight_decay": float("inf")},
        {"chunk_size": 1},
        {"learning_rate": 1e-3},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_by_name(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        TrainOptions(**wrong)


def test_options_do_not_change_once_made():
    with pytest.raises(ValidationError, match="frozen"):
        TrainOptions().lr = 1.0
