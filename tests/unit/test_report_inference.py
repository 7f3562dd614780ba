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
from concordant.report.calibration import calibration_figure
from concordant.report.decision import decision_figure, main_horizon
from concordant.report.headline import headline
from concordant.report.html import render_report, write_report
from concordant.report.judging import (
    further_tests,
    gain_over_both_details,
    gain_over_both_sentence,
    method_of,
    tau_sentence,
)
from concordant.report.squares import band_path, line_path
from concordant.report.survival_curves import survival_figure
from concordant.report.tables import read_run
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
    assert (told.margin, told.simultaneous, told.over_folds, told.any) == (
        "0.030",
        True,
        False,
        True,
    )
    rows = {(table.cohort, row.model.fusion): row for table in told.tables for row in table.rows}
    assert set(rows) == {(cohort, fusion) for cohort in COHORTS for fusion in FEW[2:]}
    for one in family(finished).to_dicts():
        row = rows[one["cohort"], one["fusion"]]
        assert row.simultaneous == wording.interval(
            one["ci_low_simultaneous"], one["ci_high_simultaneous"]
        )
        assert row.p_adjusted == wording.p_value(one["p_adjusted"])
        shown = "yes" if one["p_non_inferiority_adjusted"] < 0.05 else "not shown"
        assert row.not_worse == f"{shown}, {wording.p_equation(one['p_non_inferiority_adjusted'])}"
        assert plain(row.equivalent) in words
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
    assert not further_tests(tables).any
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
    assert wording.p_value(p) in [row.p_folds for row in further_tests(tables).tables[0].rows]
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
    for panel in survival_figure(tables, headline(tables).featured).panels:
        given = read_predictions(
            next(finished.path.glob(f"contrastive-*/predictions/{panel.cohort}.parquet"))
        )
        groups = risk_groups(given.target.time, given.target.event, given.risk)
        tau = min(groups.tau, panel.horizontal.high)
        lost = -risk_groups(
            given.target.time, given.target.event, given.risk, tau=tau
        ).restricted_mean_difference.difference
        length = {"Days": 1.0, "Months": 365.25 / 12, "Years": 365.25}[panel.unit]
        assert (
            f"Within the first {wording.days(tau)} the highest third loses {lost / length:.1f} ["
            in panel.gap
        )
        assert plain(panel.gap) in words


# decision curves


def test_decision_curves_are_drawn_where_the_table_says(finished, words):
    tables = read_run(finished)
    figure = decision_figure(tables)
    table = pl.read_parquet(finished.decision_curves)
    assert [(panel.cohort, panel.horizon) for panel in figure.panels] == [
        (cohort, "1 year") for cohort in COHORTS
    ]
    assert [(panel.cohort, panel.horizon) for panel in figure.further] == [
        (cohort, "6 months") for cohort in COHORTS
    ]
    for panel in figure.panels:
        titles = {curve.name: curve.title for curve in panel.curves}
        assert titles == {
            "fusion": "Contrastive",
            "ct": "CT alone",
            "ehr": "Record alone",
            "all": "Acting on everybody",
        }
        drawn = next(curve for curve in panel.curves if curve.name == "ct").path
        places = [tuple(map(float, place.split())) for place in re.split("[ML]", drawn) if place]
        own = table.filter(
            pl.col("cohort") == panel.cohort,
            pl.col("fusion") == FEW[0],
            pl.col("horizon_days") == 365,
            pl.col("net_benefit").is_not_null(),
        )
        for (x, y), row in zip(places[:40], own.to_dicts(), strict=False):
            assert x / 10 == pytest.approx(panel.horizontal.place(100 * row["threshold"]), abs=0.02)
            assert 100 - y / 10 == pytest.approx(
                panel.vertical.place(100 * row["net_benefit"]), abs=0.02
            )
        assert panel.zero == pytest.approx(100 - panel.vertical.place(0), abs=1e-3)
        assert plain(panel.sentence) in words


def test_the_sentence_reads_the_curves_at_the_overall_risk(finished):
    table = pl.read_parquet(finished.decision_curves).filter(pl.col("horizon_days") == 365)
    for panel in decision_figure(read_run(finished)).panels:
        given = read_predictions(
            next(finished.path.glob(f"contrastive-*/predictions/{panel.cohort}.parquet"))
        )
        overall = 1 - kaplan_meier(given.target.time, given.target.event).at(np.array([365.0]))[0]
        at = np.floor(100 * overall) / 100
        own = table.filter(
            pl.col("cohort") == panel.cohort, (pl.col("threshold") - at).abs() < 1e-9
        )
        row = own.row(by_predicate=pl.col("fusion") == "contrastive", named=True)
        assert f"is {100 * at:.0f}% or more by contrastive" in panel.sentence
        limits = wording.interval(
            100 * row["difference_ci_low"], 100 * row["difference_ci_high"], 1
        )
        gain = f"{wording.signed(100 * row['difference'], 1)} {limits} beside CT alone"
        assert (
            f"is worth {wording.number(100 * row['net_benefit'], 1)} patients rightly acted on per "
            f"100, {gain}" in panel.sentence
        )
        low, high = (
            int(one) / 100
            for one in re.search(r"highest from (\d+)% to (\d+)%", panel.sentence).groups()
        )
        for threshold in np.arange(low, high + 0.001, 0.01):
            values = dict(
                table.filter(
                    pl.col("cohort") == panel.cohort, (pl.col("threshold") - threshold).abs() < 1e-9
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
    assert decision_figure(tables).reason.startswith("The study names no horizon")
    assert "since the study names no horizon" in calibration_figure(tables).sentence
    assert "names no horizon" in render_report(tables)


def test_horizons_that_no_curve_reaches_give_their_reason(changed):
    gone = {
        "net_benefit": pl.lit(None, pl.Float64),
        "note": pl.lit("the survival curves end at 100 days"),
    }
    rewrite(changed.decision_curves, lambda table: table.with_columns(**gone))
    assert (
        decision_figure(read_run(changed)).reason
        == "No curve could be computed: the survival curves end at 100 days."
    )


def test_the_chief_horizon_is_the_longest_that_most_cohorts_reach():
    assert main_horizon([("a", 30), ("b", 30), ("a", 365), ("b", 365), ("a", 730)]) == 365


def test_paths_break_where_nothing_is_known():
    assert line_path([(0, 10), (5.5, 20), None, (100, 0)]) == "M0 100L55 200M1000 0"
    assert (
        band_path([(0, 10), (10, 20), None], [(0, 0), (10, 5), None])
        == "M0 0L100 50L100 200L0 100Z"
    )
    assert line_path([None]) == ""


# calibration


def test_calibration_is_drawn_and_tabled_as_the_run_has_it(finished, words):
    tables = read_run(finished)
    figure = calibration_figure(tables)
    groups = pl.read_parquet(finished.calibration_groups).filter(
        pl.col("fusion") == "contrastive", pl.col("horizon_days") == 365
    )
    assert (figure.model, figure.recalibrated) == ("contrastive", False)
    for panel in figure.panels:
        for mark, row in zip(
            panel.marks, groups.filter(pl.col("cohort") == panel.cohort).to_dicts(), strict=True
        ):
            assert mark.x == pytest.approx(panel.axis.place(100 * row["predicted"]), abs=1e-3)
            assert (mark.y, mark.low, mark.high) == pytest.approx(
                tuple(
                    100 - panel.axis.place(100 * row[name])
                    for name in ("observed", "ci_low", "ci_high")
                ),
                abs=1e-3,
            )
            assert mark.high <= mark.y <= mark.low
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
    assert f"on held_out {ratio:.2f} [" in figure.sentence


def test_recalibrated_predictions_stand_beside_the_others(changed):
    for name in ("calibration_groups.parquet", "calibration.parquet"):
        rewrite(
            changed.path / name,
            lambda table: pl.concat([table, table.with_columns(recalibrated=pl.lit(True))]),
        )
    figure = calibration_figure(read_run(changed))
    assert figure.recalibrated
    for panel in figure.panels:
        assert [mark.recalibrated for mark in panel.marks] == [False] * (len(panel.marks) // 2) + [
            True
        ] * (len(panel.marks) // 2)
    assert [row.version for row in figure.tables[0].rows] == ["as predicted", "recalibrated"] * 3
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
