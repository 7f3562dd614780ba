"""Vocabulary and tokeniser: values, texts, births, days, bags; batches by length."""

from __future__ import annotations

import msgpack
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clmbr_fixture import AGE_SECONDS, BAGS, FLAT, INF, events
from concordant.core.errors import RecordError, WeightsError
from concordant.encoders.clmbr.batching import MAX_PADDING, batches_by_length, padded
from concordant.encoders.clmbr.tokenizer import bags_of, tokenize
from concordant.encoders.clmbr.vocabulary import Flat, Hierarchical, read_dictionary
from concordant.encoders.code_terms import Ontology

TOKEN = {
    (entry.get("code_string"), entry.get("val_start"), entry.get("text_string")): token
    for token, entry in enumerate(FLAT)
}


def lab(number):
    return TOKEN[f"LAB//{number}", None, None]


def dictionary(tmp_path, content):
    path = tmp_path / "dictionary.msgpack"
    path.write_bytes(msgpack.dumps(content))
    return read_dictionary(path)


@pytest.fixture
def flat(tmp_path):
    return Flat(
        dictionary(tmp_path, {"vocab": FLAT, "is_hierarchical": False, "age_stats": AGE_SECONDS})
    )


def tokens(record, vocabulary):
    return [bag.tokens for bag in tokenize(record, vocabulary).bags]


@pytest.mark.parametrize(
    ("event", "token"),
    [
        (("LAB//1",), lab(1)),
        (("LAB//1", -3.0), TOKEN["LAB//1", -INF, None]),
        (("LAB//1", 0.0), TOKEN["LAB//1", 0.0, None]),
        (("LAB//1", 1.4999), TOKEN["LAB//1", 0.0, None]),
        (("LAB//1", 1.5), None),
        (("LAB//2", -1.0), TOKEN["LAB//2", -1.0, None]),
        (("LAB//2", -1.0001), None),
        (("LAB//3", 2.0), None),
        (("NOTE", None, "smoker"), TOKEN["NOTE", None, "smoker"]),
        (("NOTE", None, "never"), None),
        (("LAB//3", None, "high"), None),
        (("LAB//1", -3.0, "low"), TOKEN["LAB//1", -INF, None]),
        (("NOTE",), None),
        (("ICD10CM/I21",), None),
    ],
)
def test_an_event_is_its_numbers_range_its_text_or_its_code_never_the_bare_code_of_a_value(
    flat, event, token
):
    found = bags_of(events((3.0, *event)), flat)[0]
    assert found.tokens == (() if token is None else (token,))


@pytest.mark.parametrize("birth", ["MEDS_BIRTH", "SNOMED/3950001", "SNOMED/184099003"])
def test_the_birth_has_three_names(flat, birth):
    sequence = tokenize(events((100.5, birth), (0.25, "LAB//4")), flat)
    assert [bag.tokens for bag in sequence.bags] == [(0,), (lab(4),)]
    assert sequence.age_days.tolist() == [0.0, 100.25]
    assert sequence.age_days.dtype == np.float32


@pytest.mark.parametrize(
    "record", [events((3.0, "LAB//4")), events((None, "MEDS_BIRTH"), (3.0, "LAB//4")), events()]
)
def test_a_record_without_a_dated_birth_is_refused_and_names_nobody(flat, record):
    with pytest.raises(RecordError, match="no dated birth event in the record"):
        tokenize(record, flat)


@pytest.mark.parametrize("code", ["MEDS_DEATH", "MEDS_DEATH//ICD10CM/I21.9", "SNOMED/419620001"])
def test_a_death_without_a_time_tells_nothing(tmp_path, code):
    vocab = [*FLAT, {"type": "code", "code_string": code, "weight": -0.1}]
    vocabulary = Flat(
        dictionary(tmp_path, {"vocab": vocab, "is_hierarchical": False, "age_stats": AGE_SECONDS})
    )
    record = events((None, code), (3.0, "MEDS_BIRTH"), (2.0, "LAB//1"))
    assert tokens(record, vocabulary) == tokens(
        events((3.0, "MEDS_BIRTH"), (2.0, "LAB//1")), vocabulary
    )
    assert tokens(events((3.0, "MEDS_BIRTH"), (2.0, code)), vocabulary)[-1] == (len(FLAT),)


def test_static_events_stand_right_after_the_birth(flat):
    record = events(
        (None, "GENDER//F"),
        (None, "LAB//9"),
        (401.0, "LAB//3"),
        (400.0, "MEDS_BIRTH"),
        (400.0, "LAB//5"),
        (1.0, "LAB//6"),
    )
    sequence = tokenize(record, flat)
    assert [bag.tokens[0] for bag in sequence.bags] == [lab(3), 0, 1, lab(9), lab(5), lab(6)]
    assert sequence.age_days.tolist() == [-1, 0, 0, 0, 0, 399]
    assert sequence.places.tolist() == [2, 3, 0, 1, 4, 5]


def test_what_a_day_had_already_is_dropped_and_midnight_begins_a_day(flat):
    record = events(
        (400.625, "MEDS_BIRTH"),  # at midnight; the prediction time is at 15:00
        (2.625, "LAB//3"),  # midnight
        (2.5, "LAB//4"),
        (2.4, "LAB//3"),
        (1.625 + 1e-6 / 86_400, "LAB//3"),  # the last microsecond of that day
        (1.625, "LAB//3"),  # midnight
    )
    sequence = tokenize(record, flat)
    assert [bag.tokens[0] for bag in sequence.bags] == [0, lab(3), lab(4), lab(3)]
    assert sequence.places.tolist() == [0, 1, 2, 5]


def test_two_ranges_of_a_code_on_a_day_are_two_tokens(flat):
    record = events(
        (9.0, "MEDS_BIRTH"), (2.0, "LAB//1", -1.0), (2.0, "LAB//1", 1.0), (2.0, "LAB//1", -2.0)
    )
    assert tokens(record, flat) == [
        (0,),
        (TOKEN["LAB//1", -INF, None],),
        (TOKEN["LAB//1", 0.0, None],),
    ]


@pytest.fixture
def hierarchical(tmp_path):
    entries = [
        *BAGS,
        {"type": "code", "code_string": "LAB", "weight": -1.0},
        {"type": "code", "code_string": "ANY", "weight": -1.0},
        {"type": "numeric", "val_start": 5.0, "val_end": INF, "weight": -1},
        {"type": "numeric", "val_start": -INF, "val_end": 2.0, "weight": -1},
        {"type": "numeric", "val_start": 2.0, "val_end": 5.0, "weight": -1},
        {"type": "text", "text_string": "positive", "weight": -1},
    ]
    ontology = Ontology(
        {
            "LAB//3": ("LAB", "UNKNOWN"),
            "LAB": ("ANY",),
            "UNKNOWN": ("ANY",),
            "ANY": ("LAB//3",),
            "local": ("LAB",),
        }
    )
    return Hierarchical(
        dictionary(tmp_path, {"vocab": entries, "is_hierarchical": True, "age_stats": AGE_SECONDS}),
        ontology,
    )


N = len(BAGS)


@pytest.mark.parametrize(
    ("event", "bag"),
    [
        (("LAB//3",), {lab(3): 1 / 3, N: 1 / 3, N + 1: 1 / 3}),
        (
            ("local",),
            {lab(3): 1 / 3, N: 1 / 3, N + 1: 1 / 3},
        ),  # ANY and LAB//3 go round in a circle
        (("LAB//3", 2.0), {lab(3): 1 / 3, N: 1 / 3, N + 1: 1 / 3, N + 4: 1.0}),
        (("LAB//3", 1.9), {lab(3): 1 / 3, N: 1 / 3, N + 1: 1 / 3, N + 3: 1.0}),
        (("LAB//4", 7.0, "positive"), {lab(4): 1.0, N + 2: 1.0, N + 5: 1.0}),
        (("LAB//1", -0.5), {lab(1): 1.0, N + 3: 1.0, TOKEN["LAB//1", -INF, None]: 1.0}),
        (("elsewhere",), {}),
        (("elsewhere", None, "smoker"), {TOKEN["NOTE", None, "smoker"]: 1.0}),
    ],
)
def test_in_a_hierarchy_a_code_and_its_ancestors_share_one_weight_number_and_text_have_one_each(
    hierarchical, event, bag
):
    found = bags_of(events((3.0, *event)), hierarchical)[0]
    assert dict(zip(found.tokens, found.weights, strict=True)) == pytest.approx(bag)


def test_of_a_day_a_bag_is_dropped_only_where_all_of_it_was_there(hierarchical):
    record = events(
        (9.0, "MEDS_BIRTH"),
        (2.0, "LAB//3"),
        (2.0, "local"),
        (2.0, "LAB//3", 3.0),
        (2.0, "local", 3.0),
    )
    assert tokenize(record, hierarchical).places.tolist() == [0, 1, 3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xc1", "no readable vocabulary"),
        (msgpack.dumps([1, 2]), "no readable vocabulary"),
        (msgpack.dumps({"is_hierarchical": False}), "vocab"),
        (msgpack.dumps({"vocab": [{"type": "code"}]}), "code_string"),
        (
            msgpack.dumps({"vocab": [{"type": "numeric", "code_string": "a", "val_start": 0.0}]}),
            "val_end",
        ),
        (
            msgpack.dumps(
                {
                    "vocab": [
                        {"type": "numeric", "code_string": "a", "val_start": None, "val_end": 1.0}
                    ]
                }
            ),
            "no readable vocabulary",
        ),
        (
            msgpack.dumps({"vocab": [{"type": "image", "code_string": "a"}]}),
            "entries of type image; expected code",
        ),
    ],
)
def test_a_broken_dictionary_is_named(tmp_path, content, message):
    path = tmp_path / "dictionary.msgpack"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"dictionary\.msgpack.*{message}"):
        read_dictionary(path)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 3000), min_size=1, max_size=200), st.integers(1, 5000))
def test_batches_hold_every_sequence_once_within_the_budget_with_little_padding(
    lengths, batch_tokens
):
    batches = list(batches_by_length(lengths, batch_tokens))
    assert sorted(number for batch in batches for number in batch) == list(range(len(lengths)))
    for batch in batches:
        own = [lengths[number] for number in batch]
        assert len(batch) == 1 or max(own) * len(own) <= batch_tokens
        assert sum(own) >= (1 - MAX_PADDING) * max(own) * len(own)


def test_sequences_are_padded_at_their_ends(flat, hierarchical):
    records = [
        events((9.0, "MEDS_BIRTH"), (2.0, "LAB//3"), (1.0, "LAB//3", 3.0)),
        events((8.0, "MEDS_BIRTH")),
    ]
    batch = padded([tokenize(record, flat) for record in records], bags=False)
    assert batch.tokens.tolist() == [[0, lab(3)], [0, 0]]
    assert batch.valid.tolist() == [[True, True], [True, False]]
    bags = padded([tokenize(record, hierarchical) for record in records], bags=True)
    assert bags.tokens.shape == bags.weights.shape == (2, 3, 4)
    torch.testing.assert_close(
        bags.weights.sum(-1), torch.tensor([[1.0, 1.0, 2.0], [1.0, 0.0, 0.0]])
    )
