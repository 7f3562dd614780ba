"""What the report says of tests, time, utility and calibration.

Every number is one of the run's tables.
"""

from __future__ import annotations

import html
import re
import shutil

import numpy as np
import polars as pl
import pytest

from concordant.core.artifacts import RunFolder
from concordant.core.errors import ConcordantError
from concordant.core.survival import read_predictions
from concordant.metrics import kaplan_meier, risk_groups
from concordant.report import wording
from concordant.report.displays.calibration import calibration_section
from concordant.report.displays.decision import decision_section, main_horizon
from concordant.report.displays.survival_curves import survival_section, time_axis
from concordant.report.headline import headline
from concordant.report.inference import (
    further_tests,
    gain_over_both_details,
    gain_over_both_sentence,
    method_of,
    tau_sentence,
)
from concordant.report.page import render_report, write_report
from concordant.report.run_tables import read_run
from run_folder_fixture import identifiers, write_run_folder

FEW = ("unimodal(modality=ct)", "unimodal(modality=ehr)", "concat", "contrastive")
COHORTS = ("held_out", "mayo_florida")

OPTIONAL_TABLES = (
    "gains_over_both.parquet",
    "decision_curves.parquet",
    "calibration_groups.parquet",
    "calibration.parquet",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> RunFolder:
    judged = {"multiplicity": "max_t", "margin": 0.03}
    return write_run_folder(
        tmp_path_factory.mktemp("finished") / "run", strategies=FEW, oracle=False, judged=judged
    )


@pytest.fixture
def changed(finished, tmp_path) -> RunFolder:
    """A run that a test may change."""
    return RunFolder(shutil.copytree(finished.path, tmp_path / "run"))


@pytest.fixture(scope="module")
def words(finished) -> str:
    page = re.sub(r"<style>.*?</style>", "", write_report(finished).read_text(), flags=re.DOTALL)
    return plain(html.unescape(re.sub(r"<[^>]+>", " ", page)))


def plain(text: str) -> str:
    return " ".join(text.replace("\u201c", "").replace("\u201d", "").split())


def rewrite(path, change) -> None:
    change(pl.read_parquet(path)).write_parquet(path)


def family(run: RunFolder) -> pl.DataFrame:
    table = pl.read_parquet(run.contrasts)
    return table.filter(pl.col("family").is_not_null(), pl.col("metric") == "concordance_index")


# tests of differences


def test_every_test_of_a_difference_is_told(finished, words):
    told = further_tests(read_run(finished))
    assert (told.margin, told.simultaneous, told.over_folds) == ("0.030", True, False)
    rows = {
        (table.cohort, row.title): dict(
            zip([column.title for column in table.columns[1:]], row.cells, strict=True)
        )
        for table in told.tables
        for row in table.rows
    }
    assert set(rows) == {(cohort, fusion.title()) for cohort in COHORTS for fusion in FEW[2:]}
    for one in family(finished).to_dicts():
        row = rows[one["cohort"], one["fusion"].title()]
        assert row["Simultaneous interval"].detail == wording.interval(
            one["ci_low_simultaneous"], one["ci_high_simultaneous"]
        )
        assert row["Adjusted p"].text == wording.p_value(one["p_adjusted"])
        shown = "yes" if one["p_non_inferiority_adjusted"] < 0.05 else "not shown"
        p = wording.p_equation(one["p_non_inferiority_adjusted"])
        assert row["Not worse by 0.030"].text == f"{shown}, {p}"
        assert plain(row["Equivalent within 0.030"].text) in words
    assert "A difference below 0.030 was declared not to matter" in words


@pytest.mark.parametrize(
    ("method", "name"),
    [("holm", "Holm"), ("benjamini_hochberg", "Benjamini-Hochberg"), ("max_t", "max-T")],
)
def test_the_adjustment_is_named(changed, method, name):
    rewrite(
        changed.contrasts,
        lambda table: table.with_columns(
            multiplicity=pl.when(pl.col("family").is_not_null()).then(pl.lit(method))
        ),
    )
    tables = read_run(changed)
    assert method_of(tables).name == name
    assert f"{name}-adjusted p" in " ".join(headline(tables).paragraphs)
    assert f"corrected ({name}" in render_report(tables)


def test_without_a_margin_folds_or_joint_intervals_there_is_nothing_further(tmp_path):
    run = write_run_folder(tmp_path / "run", sizes={"held_out": 90}, strategies=FEW, oracle=False)
    tables = read_run(run)
    assert not further_tests(tables).tables
    assert "Further tests of the same differences" not in render_report(tables)


def test_tests_over_folds_are_told(tmp_path):
    sizes = {"development": 160, "mayo_florida": 60}
    run = write_run_folder(
        tmp_path / "run",
        sizes=sizes,
        strategies=FEW,
        folds=4,
        oracle=False,
        judged={"test_train_ratio": 0.25},
    )
    tables = read_run(run)
    assert further_tests(tables).over_folds
    (p,) = family(run).filter(pl.col("cohort") == "development", pl.col("fusion") == "contrastive")[
        "p_nadeau_bengio"
    ]
    (table,) = (one for one in further_tests(tables).tables if one.cohort == "development")
    place = [column.title for column in table.columns].index("p over folds") - 1
    assert wording.p_value(p) in [row.cells[place].text for row in table.rows]
    assert "Nadeau-Bengio" in render_report(tables)


def test_gains_over_both_are_those_of_the_table(finished, words):
    tables = read_run(finished)
    table = pl.read_parquet(finished.gains_over_both).filter(
        pl.col("metric") == "concordance_index"
    )
    parts = []
    for cohort in COHORTS:
        won = table.filter(pl.col("cohort") == cohort, pl.col("p_adjusted") < 0.05)[
            "fusion"
        ].to_list()
        parts.append(f"{' and '.join(won) or 'none of 2'} on {cohort}")
    assert (
        gain_over_both_sentence(tables)
        == "Shown to be better than CT alone and than the record alone, both at once: "
        f"{'; '.join(parts)}."
    )
    assert gain_over_both_sentence(tables) in words
    details = gain_over_both_details(tables, headline(tables).featured)
    for row in table.filter(pl.col("fusion") == "contrastive").to_dicts():
        assert (
            f"{wording.signed(row['gain'])} on {row['cohort']} (above "
            f"{wording.signed(row['lower_limit'])}" in details
        )
    assert plain(details) in words


def test_gains_over_both_that_were_not_asked_for_are_not_mentioned(changed):
    rewrite(changed.gains_over_both, lambda table: table.clear())
    tables = read_run(changed)
    assert (
        gain_over_both_sentence(tables)
        == gain_over_both_details(tables, headline(tables).featured)
        == ""
    )
    assert "both at once" not in render_report(tables)


# time


def test_the_period_of_truncated_metrics_is_stated(finished, words):
    last = min(
        pl.read_parquet(path)["time_days"].max()
        for path in finished.path.glob("*/predictions/*.parquet")
    )
    expected = (
        f"Integrated Brier score runs over the first {wording.days(last)} ({last:,.0f} days), the "
        "same period in both cohorts."
    )
    assert tau_sentence(read_run(finished)) == expected
    assert plain(expected) in words


def test_periods_that_differ_are_a_warning(changed):
    longer = pl.when(pl.col("tau_days").is_not_null()).then(
        pl.when(pl.col("cohort") == "held_out").then(500.0).otherwise(730.0)
    )
    rewrite(changed.results, lambda table: table.with_columns(tau_days=longer))
    assert tau_sentence(read_run(changed)) == (
        "Integrated Brier score runs over the first 500 days on held_out and 730 days on "
        "mayo_florida: values on different cohorts do not mean the same."
    )
    rewrite(changed.results, lambda table: table.with_columns(tau_days=pl.lit(None, pl.Float64)))
    assert tau_sentence(read_run(changed)) == ""


def test_time_lost_by_the_highest_third_is_the_difference_of_restricted_means(finished, words):
    tables = read_run(finished)
    for display in survival_section(tables, headline(tables).featured).displays:
        given = read_predictions(
            next(finished.path.glob(f"contrastive-*/predictions/{display.cohort}.parquet"))
        )
        groups = risk_groups(given.target.time, given.target.event, given.risk)
        tau = min(groups.tau, display.last_day)
        lost = -risk_groups(
            given.target.time, given.target.event, given.risk, tau=tau
        ).restricted_mean_difference.difference
        axis = time_axis(display.last_day)
        assert (
            f"Within the first {wording.days(tau)} the highest third loses "
            f"{lost / axis.length:.1f} [" in display.sentence
        )
        assert f"] {axis.unit} without the event" in display.sentence
        assert plain(display.sentence) in words


# decision curves


def test_decision_curves_are_drawn_where_the_table_says(finished, words):
    tables = read_run(finished)
    section = decision_section(tables)
    table = pl.read_parquet(finished.decision_curves).filter(pl.col("net_benefit").is_not_null())
    assert [display.name for display in section.displays] == [
        f"decision-{cohort}-365" for cohort in COHORTS
    ]
    assert [display.name for display in section.further] == [
        f"decision-{cohort}-180" for cohort in COHORTS
    ]
    for display in section.displays:
        assert display.caption == "event within 1 year"
        assert set(display.frame["strategy"]) == {
            "Contrastive",
            "CT alone",
            "Record alone",
            "Acting on everybody",
        }
        own = table.filter(
            pl.col("cohort") == display.cohort,
            pl.col("fusion") == FEW[0],
            pl.col("horizon_days") == 365,
        )
        drawn = display.frame.filter(pl.col("fusion") == FEW[0])
        for name in ("threshold", "net_benefit", "ci_low", "ci_high"):
            assert drawn[name].equals(own[name])
        assert plain(display.sentence) in words


def test_the_sentence_reads_the_curves_at_the_overall_risk(finished):
    table = pl.read_parquet(finished.decision_curves).filter(pl.col("horizon_days") == 365)
    for display in decision_section(read_run(finished)).displays:
        given = read_predictions(
            next(finished.path.glob(f"contrastive-*/predictions/{display.cohort}.parquet"))
        )
        overall = 1 - kaplan_meier(given.target.time, given.target.event).at(np.array([365.0]))[0]
        at = np.floor(100 * overall) / 100
        own = table.filter(
            pl.col("cohort") == display.cohort, (pl.col("threshold") - at).abs() < 1e-9
        )
        row = own.row(by_predicate=pl.col("fusion") == "contrastive", named=True)
        assert f"is {100 * at:.0f}% or more by contrastive" in display.sentence
        limits = wording.interval(
            100 * row["difference_ci_low"], 100 * row["difference_ci_high"], 1
        )
        gain = f"{wording.signed(100 * row['difference'], 1)} {limits} beside CT alone"
        assert (
            f"is worth {wording.number(100 * row['net_benefit'], 1)} patients rightly acted on per "
            f"100, {gain}" in display.sentence
        )
        low, high = (
            int(one) / 100
            for one in re.search(r"highest from (\d+)% to (\d+)%", display.sentence).groups()
        )
        for threshold in np.arange(low, high + 0.001, 0.01):
            values = dict(
                table.filter(
                    pl.col("cohort") == display.cohort,
                    (pl.col("threshold") - threshold).abs() < 1e-9,
                )
                .drop_nulls("net_benefit")
                .select("fusion", "net_benefit")
                .rows()
            )
            assert max(values, key=values.get) == "contrastive"


def test_a_study_without_horizons_says_why_there_is_no_figure(changed):
    for name in ("decision_curves.parquet", "calibration_groups.parquet", "calibration.parquet"):
        rewrite(changed.path / name, lambda table: table.clear())
    tables = read_run(changed)
    assert decision_section(tables).sentence.startswith("The study names no horizon")
    assert "since the study names no horizon" in calibration_section(tables).sentence
    assert "names no horizon" in render_report(tables)


def test_horizons_that_no_curve_reaches_give_their_reason(changed):
    gone = {
        "net_benefit": pl.lit(None, pl.Float64),
        "note": pl.lit("the survival curves end at 100 days"),
    }
    rewrite(changed.decision_curves, lambda table: table.with_columns(**gone))
    assert (
        decision_section(read_run(changed)).sentence
        == "No curve could be computed: the survival curves end at 100 days."
    )


def test_the_chief_horizon_is_the_longest_that_most_cohorts_reach():
    assert main_horizon([("a", 30), ("b", 30), ("a", 365), ("b", 365), ("a", 730)]) == 365


# calibration


def test_calibration_is_drawn_and_tabled_as_the_run_has_it(finished, words):
    tables = read_run(finished)
    section = calibration_section(tables)
    groups = pl.read_parquet(finished.calibration_groups).filter(
        pl.col("fusion") == "contrastive", pl.col("horizon_days") == 365
    )
    assert (section.subject, section.recalibrated) == ("contrastive", False)
    for display in section.displays:
        own = groups.filter(pl.col("cohort") == display.cohort)
        for name in ("predicted", "observed", "ci_low", "ci_high"):
            assert display.frame[name].equals(own[name])
            assert own[name].max() <= display.highest
        assert display.description.count("patients: prediction") == own.height
    metrics = pl.read_parquet(finished.calibration).filter(pl.col("horizon_days") == 365)
    for row in metrics.filter(pl.col("fusion").is_in([*FEW[:2], "contrastive"])).to_dicts():
        assert (
            plain(
                f"{wording.number(row['value'])} {wording.interval(row['ci_low'], row['ci_high'])}"
            )
            in words
        )
    (ratio,) = metrics.filter(
        pl.col("fusion") == "contrastive",
        pl.col("cohort") == "held_out",
        pl.col("metric") == "calibration_in_the_large",
    )["value"]
    assert f"on held_out {ratio:.2f} [" in section.sentence


def test_recalibrated_predictions_stand_beside_the_others(changed):
    for name in ("calibration_groups.parquet", "calibration.parquet"):
        rewrite(
            changed.path / name,
            lambda table: pl.concat([table, table.with_columns(recalibrated=pl.lit(True))]),
        )
    section = calibration_section(read_run(changed))
    assert section.recalibrated
    for display in section.displays:
        half = display.frame.height // 2
        assert display.frame["recalibrated"].to_list() == [False] * half + [True] * half
        assert "recalibrated prediction" in display.description
    versions = [row.cells[0].text for row in section.tables[0].rows]
    assert versions == ["as predicted", "recalibrated"] * 3
    assert "recalibrated on the tuning data" in render_report(read_run(changed))


# the page


@pytest.mark.parametrize(
    "name",
    [
        "gains_over_both.parquet",
        "decision_curves.parquet",
        "calibration_groups.parquet",
        "calibration.parquet",
    ],
)
@pytest.mark.parametrize("damage", ["missing", "garbage", "other"])
def test_an_unusable_table_names_itself_and_the_way_out(changed, name, damage):
    path = changed.path / name
    if damage == "missing":
        path.unlink()
    elif damage == "garbage":
        path.write_bytes(b"\x00\xffnot a table")
    else:
        pl.DataFrame({"cohort": ["held_out"]}).write_parquet(path)
    with pytest.raises(ConcordantError, match=f"{name}.*concordant run"):
        render_report(read_run(changed))


def test_labels_of_the_new_tables_are_escaped_and_nobody_is_named(changed):
    evil = "<script>alert(1)</script>"
    for name in OPTIONAL_TABLES:
        rewrite(
            changed.path / name,
            lambda table: table.with_columns(
                fusion=pl.col("fusion").replace({"contrastive": evil})
            ),
        )
    rewrite(
        changed.contrasts,
        lambda table: table.with_columns(
            multiplicity=pl.when(pl.col("family").is_not_null()).then(pl.lit(evil))
        ),
    )
    page = render_report(read_run(changed))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not [one for one in identifiers(changed) if one in page]
