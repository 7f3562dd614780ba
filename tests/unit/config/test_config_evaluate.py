"""How predictions are judged: every key of `evaluate`, what it takes and what it refuses."""

from __future__ import annotations

import re

import pytest

from concordant.core.errors import ConfigError
from study_fixture import small_study, write_tables


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tables(tmp_path_factory.mktemp("tables"))


def test_what_is_not_given_is_the_careful_choice(folder):
    chosen = small_study(folder).evaluate
    assert (chosen.tau, chosen.multiplicity, chosen.margin, chosen.cause) == (
        "common",
        "holm",
        None,
        None,
    )
    assert (chosen.gain_over_both, chosen.recalibrate) == (True, False)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("tau", value) for value in ("common", "cohort", 365, 0.5)),
        *(("multiplicity", value) for value in ("holm", "benjamini_hochberg", "max_t")),
        *(("margin", value) for value in (None, 0.02)),
        *(("cause", value) for value in (None, 1)),
        *((key, value) for key in ("gain_over_both", "recalibrate") for value in (True, False)),
    ],
)
def test_what_is_given_is_kept_and_written_down(folder, key, value):
    study = small_study(folder, evaluate={key: value})
    assert getattr(study.evaluate, key) == value
    assert study.resolved()["evaluate"][key] == value


FAULTS = {
    "tau": [
        (
            "comon",
            "evaluate.tau: given 'comon', expected common, cohort or a number of days > 0. Did you "
            "mean 'common'?",
        ),
        (0, "evaluate.tau: given 0, expected common, cohort or a number of days > 0"),
        (-3.5, "evaluate.tau: given -3.5, expected"),
        (float("inf"), "evaluate.tau: given inf, expected"),
        (float("nan"), "evaluate.tau: given nan, expected"),
        (True, "evaluate.tau: given True, expected"),
        (None, "evaluate.tau: given None, expected"),
        ([365], "evaluate.tau: given [365], expected"),
    ],
    "multiplicity": [
        (
            "bonferroni",
            "evaluate.multiplicity: given 'bonferroni', expected 'holm', 'benjamini_hochberg' or "
            "'max_t'",
        )
    ],
    "margin": [
        (0, "evaluate.margin: given 0, expected greater than 0"),
        (0.5, "evaluate.margin: given 0.5, expected less than 0.5"),
        ("small", "evaluate.margin: given 'small', expected a number"),
    ],
    "gain_over_both": [("often", "evaluate.gain_over_both: given 'often', expected true or false")],
    "cause": [
        (
            2,
            "evaluate.cause: given 2, expected 1 or nothing: the models of a study are fitted on "
            "event 1",
        ),
        (0, "evaluate.cause: given 0, expected 1 or nothing"),
        (True, "evaluate.cause: given True, expected 1 or nothing"),
        ("death", "evaluate.cause: given 'death', expected 1 or nothing"),
    ],
    "recalibrate": [(7, "evaluate.recalibrate: given 7, expected true or false")],
}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [(key, *fault) for key, faults in FAULTS.items() for fault in faults],
)
def test_what_it_cannot_be_is_refused_in_one_sentence(folder, key, value, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        small_study(folder, evaluate={key: value})


def test_recalibration_is_told_at_horizons(folder):
    with pytest.raises(
        ConfigError,
        match=r"evaluate.recalibrate: given true, but calibration is told at task.horizons_days; "
        r"give the days",
    ):
        small_study(folder, task={"event": "death"}, evaluate={"recalibrate": True})


def test_recalibration_and_a_cause_exclude_each_other(folder):
    with pytest.raises(
        ConfigError,
        match=r"recalibrate: given true beside evaluate.cause, .* leave out one of the two",
    ):
        small_study(folder, evaluate={"recalibrate": True, "cause": 1})


def test_a_misspelt_key_is_met_with_a_suggestion(folder):
    with pytest.raises(
        ConfigError, match=r"evaluate\.multiplicty: unknown key\. Did you mean 'multiplicity'\?"
    ):
        small_study(folder, evaluate={"multiplicty": "holm"})
