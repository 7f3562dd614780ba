"""A study whose patients may have another event, and one with somebody's curves.

What its tables and its report say.
"""

from __future__ import annotations

import html
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from concordant.core.artifacts import RunFolder
from concordant.core.files import read_json
from concordant.core.survival import SURVIVAL_TIMES_KEY, Predictions, read_predictions
from concordant.metrics import (
    aalen_johansen,
    brier_score_at,
    concordance_index_ipcw,
    integrated_brier_score,
    kaplan_meier,
    net_benefit,
)
from concordant.report.displays.decision import decision_section
from concordant.report.run_tables import read_run
from concordant.study import run_study
from study_fixture import alter, files_of, small_study, write_tables

METRICS = [
    "concordance_index",
    "concordance_index_ipcw",
    "integrated_brier_score",
    "brier_score",
    "calibration_slope",
]
COHORTS = ("held_out", "west")
DAYS = np.array([90.0, 180.0, 270.0, 365.0])


def compete(table: pl.DataFrame) -> pl.DataFrame:
    """Make every third row's event, and every fourth row's censoring, another event."""
    row = pl.int_range(pl.len())
    other = ((pl.col("event") == 1) & (row % 3 == 0)) | ((pl.col("event") == 0) & (row % 4 == 0))
    return table.with_columns(event=pl.when(other).then(2).otherwise("event"))


def write_score(folder: Path, scale: float = 400.0) -> None:
    """Write somebody's score with curves for the external cohort."""
    table = pl.read_parquet(folder / "external.parquet")
    noise = pl.Series(np.random.default_rng(0).normal(size=table.height))
    rows = table.select("sample_id", risk=noise - pl.col("time_days").log())
    curves = np.exp(-np.outer(np.exp(rows["risk"].to_numpy() / 9), DAYS / scale))
    times = {SURVIVAL_TIMES_KEY: str(DAYS.tolist())}
    rows.with_columns(pl.Series("survival", curves.tolist())).write_parquet(
        folder / "score.parquet", metadata=times
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = write_tables(tmp_path_factory.mktemp("competing"), n_development=240, n_external=90)
    for name in ("development", "external"):
        alter(made / f"{name}.parquet", compete)
    write_score(made)
    return made


def study(folder: Path, name: str, **evaluate: object) -> RunFolder:
    foreign = [{"name": "their_score", "table": "score.parquet"}]
    return run_study(
        small_study(folder, name=name, foreign=foreign, evaluate={"metrics": METRICS, **evaluate})
    )


@pytest.fixture(scope="module")
def of_cause(folder: Path) -> RunFolder:
    return study(folder, "of_cause", cause=1)


@pytest.fixture(scope="module")
def censored(folder: Path) -> RunFolder:
    return study(folder, "censored")


def predictions(run: RunFolder, fusion: str, cohort: str) -> Predictions:
    (strategy,) = (one for one in read_json(run.record)["strategies"] if one["fusion"] == fusion)
    return read_predictions(run.strategy(strategy["folder"]).predictions(cohort))


def row(path: Path, **equal: object) -> dict[str, object]:
    return pl.read_parquet(path).row(
        by_predicate=pl.all_horizontal(pl.col(name) == value for name, value in equal.items()),
        named=True,
    )


def words(run: RunFolder) -> str:
    page = re.sub(r"<style>.*?</style>", "", run.report.read_text(), flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


@pytest.mark.parametrize("cohort", COHORTS)
def test_members_are_judged_by_the_cause(of_cause, cohort):
    given = predictions(of_cause, "late", cohort)
    time, event, tau = (
        given.target.time,
        given.target.event,
        row(of_cause.table("results"), fusion="late", cohort=cohort, metric=METRICS[1])["tau_days"],
    )
    before, column = given.survival_times_days < tau, list(given.survival_times_days).index(365.0)
    expected = {
        METRICS[1]: concordance_index_ipcw(time, event, given.risk, tau=tau, cause=1),
        METRICS[2]: integrated_brier_score(
            time, event, given.survival[:, before], given.survival_times_days[before], cause=1
        ),
    }
    for metric, one in expected.items():
        found = row(of_cause.table("results"), fusion="late", cohort=cohort, metric=metric)
        assert (found["value"], found["standard_error"]) == pytest.approx(
            (one.estimate, one.standard_error), rel=1e-10
        )
    found = row(
        of_cause.table("calibration"),
        fusion="late",
        cohort=cohort,
        metric="brier_score",
        horizon_days=365,
    )
    assert found["value"] == pytest.approx(
        brier_score_at(time, event, given.survival[:, column], 365, cause=1).estimate, rel=1e-10
    )
    assert "a cause-specific Cox model) overstates it" in found["note"]
    observed = (
        aalen_johansen(time, event, cause=1).at(np.array([365.0]))[0]
        / (1 - given.survival[:, column]).mean()
    )
    assert row(
        of_cause.table("calibration"),
        fusion="late",
        cohort=cohort,
        metric="calibration_in_the_large",
        horizon_days=365,
    )["value"] == pytest.approx(observed, rel=1e-10)
    slope = row(
        of_cause.table("results"),
        fusion="late",
        cohort=cohort,
        metric="calibration_slope",
        horizon_days=365,
    )
    assert slope["value"] is None
    assert "does not know competing events" in slope["note"]
    contrasts = pl.read_parquet(of_cause.table("contrasts")).filter(
        pl.col("cohort") == cohort, pl.col("metric") == METRICS[1], pl.col("family").is_not_null()
    )
    late = contrasts.row(by_predicate=pl.col("fusion") == "late", named=True)
    reference = predictions(of_cause, late["reference"], cohort)
    difference = (
        expected[METRICS[1]].estimate
        - concordance_index_ipcw(time, event, reference.risk, tau=tau, cause=1).estimate
    )
    assert late["difference"] == pytest.approx(difference, abs=1e-12)


def test_a_cause_changes_the_judging_and_no_model(of_cause, censored):
    for cohort in COHORTS:
        assert predictions(of_cause, "late", cohort).table.equals(
            predictions(censored, "late", cohort).table
        )
    values = [
        pl.read_parquet(run.table("results")).filter(pl.col("metric") == METRICS[0])["value"]
        for run in (of_cause, censored)
    ]
    assert (values[0] != values[1]).all()


def test_the_counts_of_both_events_are_told(of_cause, folder):
    told = {
        one["label"]: (one["n_events"], one["n_competing"])
        for one in read_json(of_cause.record)["cohorts"]
    }
    event = pl.read_parquet(folder / "external.parquet")["event"]
    assert told["west"] == ((event == 1).sum(), (event == 2).sum())
    assert read_json(of_cause.record)["cause"] == 1


def test_the_report_says_how_other_events_count_and_what_a_probability_is(of_cause, censored):
    said, plain = words(of_cause), words(censored)
    told = {one["label"]: one["n_competing"] for one in read_json(of_cause.record)["cohorts"]}
    counts = f"({told['held_out']} on held_out and {told['west']} on west)"
    assert (
        f"Other events compete with death {counts}: whoever had one is known never to have this "
        "one." in said
    )
    assert "one minus their predicted survival overstates the probability of death" in said
    assert "what was observed (Aalen-Johansen)" in said
    assert (
        f"Patients with another event {counts} count as censored when it came: every number is "
        "about the hazard of death alone." in plain
    )
    assert "what was observed (Kaplan-Meier)" in plain
    left_out = (
        "Without calibration slope and integrated calibration index, which have no form for "
        "competing events."
    )
    assert said.count(left_out) == len(COHORTS)
    assert "Strategy Observed over expected Brier score" in said
    assert left_out not in plain
    assert (
        "Strategy Observed over expected Calibration slope Integrated calibration index Brier score"
        in plain
    )
    assert all("Another event counts as censored here" in one for one in (said, plain))
    assert all("Competing events" in one for one in (said, plain))


@pytest.mark.parametrize(("run", "cause"), [("of_cause", 1), ("censored", None)])
def test_curves_of_others_are_judged_as_those_of_members(run, cause, request, folder):
    run = request.getfixturevalue(run)
    rows = pl.read_parquet(folder / "external.parquet")
    time, event = rows["time_days"].to_numpy(), rows["event"].to_numpy()
    survival = np.array(pl.read_parquet(folder / "score.parquet")["survival"].to_list())
    brier = brier_score_at(time, event, survival[:, 3], 365, cause=cause)
    for path in (run.table("results"), run.table("calibration")):
        found = row(path, fusion="their_score", metric="brier_score", horizon_days=365)
        assert (found["cohort"], found["value"], found["standard_error"]) == pytest.approx(
            ("west", brier.estimate, brier.standard_error)
        )
    tau = row(run.table("results"), fusion="their_score", metric="integrated_brier_score")[
        "tau_days"
    ]
    integral = integrated_brier_score(
        time, event, survival[:, tau > DAYS], DAYS[tau > DAYS], cause=cause
    )
    assert row(run.table("results"), fusion="their_score", metric="integrated_brier_score")[
        "value"
    ] == pytest.approx(integral.estimate)
    curve = (
        pl.read_parquet(run.table("decision_curves"))
        .filter(pl.col("fusion") == "their_score", pl.col("horizon_days") == 180)
        .drop_nulls("net_benefit")
    )
    expected = net_benefit(
        time, event, 1 - survival[:, 1], 180, curve["threshold"].to_numpy(), cause=cause
    )
    np.testing.assert_allclose(curve["net_benefit"], expected.estimate, atol=1e-12)
    groups = pl.read_parquet(run.table("calibration_groups")).filter(
        pl.col("fusion") == "their_score", pl.col("horizon_days") == 365
    )
    assert groups["n"].sum() == rows.height
    last = (
        1 - kaplan_meier(time, event).at(np.array([365.0]))[0]
        if cause is None
        else aalen_johansen(time, event).at(np.array([365.0]))[0]
    )
    assert row(
        run.table("calibration"),
        fusion="their_score",
        metric="calibration_in_the_large",
        horizon_days=365,
    )["value"] == pytest.approx(last / (1 - survival[:, 3]).mean())


def test_curves_of_others_are_drawn_under_their_own_name(censored):
    drawn = {
        display.cohort: dict(display.frame.select("kind", "strategy").unique().rows())
        for display in decision_section(read_run(censored)).displays
    }
    assert drawn["west"]["foreign"] == "their_score"
    assert "foreign" not in drawn["held_out"]
    assert "their_score" in words(censored)


def test_other_curves_of_others_make_other_tables_and_fit_nothing_anew(folder):
    run = study(folder, "anew")
    fits = {
        name: state
        for name, state in files_of(run.path).items()
        if name.endswith(("fit.json", "model.safetensors"))
    }
    before = row(
        run.table("results"), fusion="their_score", metric="brier_score", horizon_days=365
    )["value"]
    try:
        write_score(folder, scale=900.0)
        again = study(folder, "anew")
    finally:
        write_score(folder)
    assert (
        row(again.table("results"), fusion="their_score", metric="brier_score", horizon_days=365)[
            "value"
        ]
        != before
    )
    assert {name: state for name, state in files_of(run.path).items() if name in fits} == fits


def test_a_score_without_curves_is_in_the_results_alone(tmp_path):
    folder = write_tables(tmp_path, n_development=240, n_external=90)
    rows = pl.read_parquet(folder / "external.parquet")
    rows.select("sample_id", risk=pl.col("time_days").neg()).write_parquet(folder / "score.parquet")
    run = study(folder, "plain", cause=1)
    assert row(run.table("results"), fusion="their_score", metric="concordance_index")["value"] == 1
    assert (
        row(run.table("results"), fusion="their_score", metric="brier_score", horizon_days=365)[
            "note"
        ]
        == "not every row has a survival curve"
    )
    for path in (
        run.table("decision_curves"),
        run.table("calibration"),
        run.table("calibration_groups"),
    ):
        assert "their_score" not in pl.read_parquet(path)["fusion"]
    assert "event counts as censored" not in words(run)
    assert "Competing events" not in words(run)
