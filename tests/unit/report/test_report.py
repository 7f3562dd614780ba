from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concordant.core.artifacts import RunFolder
from concordant.core.errors import ConcordantError, StoreError
from concordant.core.survival import read_predictions
from concordant.metrics import kaplan_meier, risk_groups
from concordant.report import page as page_module
from concordant.report import wording
from concordant.report.displays.base import DARK, LIGHT, Display, inline_svg, themed
from concordant.report.displays.forest import axis_over, concordance_panels, gain_panels
from concordant.report.displays.scatter import gain_scatter
from concordant.report.displays.survival_curves import survival_section, time_axis
from concordant.report.headline import headline
from concordant.report.page import render_report, write_report
from concordant.report.run_tables import Kind, read_run
from run_folder_fixture import identifiers, write_run_folder

FEW = ("unimodal(modality=ct)", "unimodal(modality=ehr)", "concat", "contrastive")
VOID = {"meta", "link", "br", "img", "input", "hr"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> RunFolder:
    return write_run_folder(tmp_path_factory.mktemp("finished") / "pe_mortality")


@pytest.fixture(scope="module")
def page(finished) -> str:
    return write_report(finished).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> RunFolder:
    return write_run_folder(
        tmp_path_factory.mktemp("few") / "run",
        sizes={"held_out": 90, "mayo_florida": 60},
        strategies=FEW,
    )


@pytest.fixture
def small(few, tmp_path) -> RunFolder:
    """A run that a test may change."""
    return RunFolder(shutil.copytree(few.path, tmp_path / "run"))


class _Reader(HTMLParser):
    """Collects tags, texts and unbalanced elements."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.faults: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.texts.append(data)


def read(page: str) -> _Reader:
    reader = _Reader()
    reader.feed(page)
    reader.close()
    return reader


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", " ".join(read(page).texts))


def change_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_table(path: Path, **columns: pl.Expr) -> None:
    pl.read_parquet(path).with_columns(**columns).write_parquet(path)


# the page as a whole


def test_page_is_well_formed_and_accessible(page):
    reader = read(page)
    assert reader.faults == []
    assert reader.open == []
    assert ("html", {"lang": "en"}) in reader.tags
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert not re.search(r"<th[^>]*>\s*</th>", page), "a header says what its column holds"
    for tag, attributes in reader.tags:
        if tag == "th":
            assert attributes["scope"] in ("col", "row")
        if tag == "svg" and attributes.get("role") == "img" and "aria-labelledby" in attributes:
            assert set(attributes["aria-labelledby"].split()) <= set(ids)
        if tag == "a" and attributes["href"].startswith("#"):
            assert attributes["href"][1:] in ids


def test_page_needs_no_network(page):
    assert not re.search(r"<script|<link|<img|<iframe|@import|url\(|\bsrc=", page)
    assert re.findall(r"https?://[^\"' )]+", page) == ["https://arxiv.org/abs/2606.15038"]


def test_sections_come_in_the_order_of_a_reader(page):
    sections = [attributes["id"] for tag, attributes in read(page).tags if tag == "section"]
    assert sections[:8] == [
        "forest",
        "strategies",
        "gains",
        "gap",
        "survival",
        "calibration",
        "decision",
        "cohorts",
    ]
    assert sections[8:] == ["availability", "left-out", "audit", "reading", "provenance"]


def test_no_patient_is_identified(finished, page):
    drawn = "".join(path.read_text() for path in finished.figures.glob("*.svg"))
    found = identifiers(finished)
    assert len(found) > 1_000
    assert not [one for one in found if one in page or one in drawn]


def test_labels_cannot_smuggle_markup_into_the_page(small):
    evil, bad_cohort = "<script>alert(1)</script>", '"><img src=x onerror=alert(2)>'
    for path in (small.results, small.contrasts, small.subgroups, small.survival_curves):
        renamed = pl.col("fusion").replace("concat", evil)
        change_table(
            path, fusion=renamed, cohort=pl.col("cohort").replace("mayo_florida", bad_cohort)
        )
    record = json.loads(
        small.record.read_text().replace("mayo_florida", "EVIL").replace('"concat"', '"SCRIPT"')
    )
    text = json.dumps(record).replace("EVIL", bad_cohort.replace('"', '\\"'))
    text = text.replace("SCRIPT", evil)
    small.record.write_text(text)
    change_json(
        small.record, name=evil, versions={evil: evil}, train={evil: evil}, fingerprint=evil
    )
    change_json(small.audit, checks=[{"name": evil, "passed": True, "detail": evil}])
    page = write_report(small).read_text()
    for text in (page, (small.figures / "forest.svg").read_text()):
        tags = {tag for tag, _ in read(text).tags}
        assert not tags & {"script", "img"}
        assert not [
            name
            for _, attributes in read(text).tags
            for name in attributes
            if name.startswith("on")
        ]
        assert "&lt;script&gt;" in text


def test_report_is_replaced_whole(small):
    small.report.write_text("old")
    assert write_report(small) == small.report
    assert small.report.read_text().startswith("<!doctype html>")
    assert not list(small.path.glob("*.tmp")) + list(small.path.glob(".*.tmp"))


def test_neither_torch_nor_a_plotting_library_is_there_before_it_is_needed():
    late = ["torch", "altair", "vl_convert", "PIL"]
    code = (
        "import sys, concordant, concordant.cli, concordant.report.page; "
        f"sys.exit(any(name in sys.modules for name in {late}))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# what it says


def test_headline_is_judged_by_tuning_and_not_by_the_test(small):
    results = pl.read_parquet(small.results).filter(
        pl.col("metric") == "concordance_index", pl.col("cohort") == "held_out"
    )
    scores = dict(
        results.filter(pl.col("fusion").is_in(["concat", "contrastive"]))
        .select("fusion", "value")
        .iter_rows()
    )
    worse = min(scores, key=lambda fusion: scores[fusion])
    strategies = json.loads(small.record.read_text())["strategies"]
    for one in strategies:
        if one["status"] == "done":
            one["tuning_concordance"] = 0.9 if one["fusion"] == worse else 0.6
    change_json(small.record, strategies=strategies)
    top = headline(read_run(small))
    assert top.featured is not None
    assert top.featured.fusion == worse
    assert wording.number(scores[worse]) in top.paragraphs[0]


def test_numbers_of_the_headline_are_those_of_the_tables(finished, page):
    results = pl.read_parquet(finished.results).filter(
        pl.col("metric") == "concordance_index", pl.col("fusion") == "contrastive"
    )
    contrasts = pl.read_parquet(finished.contrasts).filter(
        pl.col("fusion") == "contrastive",
        pl.col("metric") == "concordance_index",
        pl.col("family").is_not_null(),
    )
    top = " ".join(headline(read_run(finished)).paragraphs)
    for row in contrasts.iter_rows(named=True):
        assert (
            f"{wording.signed(row['difference'])} {wording.interval(row['ci_low'], row['ci_high'])}"
            in top
        )
        assert wording.p_equation(row["p_adjusted"]) in top
    inside = results.row(by_predicate=pl.col("cohort") == "held_out", named=True)
    assert (
        f"{wording.number(inside['value'])} {wording.interval(inside['ci_low'], inside['ci_high'])}"
        in top
    )
    assert top.replace(wording.KEEP, " ")[:200] in text_of(page)


def test_every_result_is_in_the_table_of_strategies(finished, page):
    results = pl.read_parquet(finished.results)
    words = text_of(page)
    assert results.height == 2 * 15 * 2
    for row in results.iter_rows(named=True):
        assert f"{row['value']:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}]" in words


@pytest.mark.parametrize(
    ("difference", "p_adjusted", "expected"),
    [
        (0.02, 0.01, "Contrastive beats CT alone on held_out and mayo_florida."),
        (-0.02, 0.01, "Contrastive does worse than CT alone on held_out and mayo_florida."),
        (0.02, 0.06, "Contrastive was not shown to beat CT alone on held_out or mayo_florida."),
        (None, None, "Contrastive was not shown to beat CT alone on held_out or mayo_florida."),
    ],
)
def test_verdict_follows_the_adjusted_p_value(small, difference, p_adjusted, expected):
    change_table(
        small.contrasts,
        difference=pl.lit(difference, dtype=pl.Float64),
        p_value=pl.lit(0.001),
        p_adjusted=pl.when(pl.col("family").is_not_null()).then(
            pl.lit(p_adjusted, dtype=pl.Float64)
        ),
    )
    top = headline(read_run(small))
    assert top.verdict == expected
    assert ("No fusion was shown to be better" in " ".join(top.paragraphs)) == (
        expected != "Contrastive beats CT alone on held_out and mayo_florida."
    )
    assert expected in text_of(render_report(read_run(small)))


def test_cohorts_may_disagree(small):
    shown = pl.when(pl.col("cohort") == "held_out").then(0.01).otherwise(0.4)
    change_table(
        small.contrasts,
        difference=pl.lit(0.03),
        p_adjusted=pl.when(pl.col("family").is_not_null()).then(shown),
    )
    assert (
        headline(read_run(small)).verdict
        == "Contrastive beats CT alone on held_out, but was not shown to beat it on mayo_florida."
    )


def test_distance_to_the_joint_oracle(finished):
    results = pl.read_parquet(finished.results).filter(
        pl.col("metric") == "concordance_index", pl.col("cohort") == "held_out"
    )
    values = dict(results.select("fusion", "value").iter_rows())
    sentence = headline(read_run(finished)).paragraphs[-1]
    gap = values["oracle(both)"] - values["contrastive"]
    assert (
        f"{abs(gap):.3f} {'below' if gap > 0 else 'above'} it ({values['oracle(both)']:.3f}) on "
        "held_out" in sentence
    )


def test_a_study_without_fusion_or_without_unimodal_models_says_so(tmp_path):
    alone = write_run_folder(
        tmp_path / "alone", sizes={"held_out": 60}, strategies=FEW[:2], oracle=False
    )
    fused = write_run_folder(
        tmp_path / "fused", sizes={"held_out": 60}, strategies=FEW[2:], oracle=False
    )
    assert headline(read_run(alone)).verdict.startswith("No fusion was fitted")
    assert headline(read_run(fused)).verdict.startswith("No model of one modality alone was fitted")
    for run in (alone, fused):
        assert "nothing to compare" in text_of(write_report(run).read_text())
        assert gain_scatter(read_run(run)) is None


def test_failed_audit_is_on_top(small):
    checks = [
        {
            "name": "subjects_disjoint_across_splits",
            "passed": False,
            "detail": "3 subjects are in two splits",
        }
    ]
    change_json(small.audit, passed=False, checks=checks)
    words = text_of(render_report(read_run(small)))
    assert words.index("The audit of the data failed") < words.index("Contrastive")
    assert "3 subjects are in two splits" in words


def test_what_was_left_out_is_shown(page):
    words = text_of(page)
    assert "attention over a single key ignores the query" in words
    assert "Late volume_features + pooled failed the loss is NaN at epoch 3" in words
    assert "3 of 147 file is truncated (2), constant volume (1)" in words
    assert "1,204 events after the prediction time were cut" in words


def test_missing_modalities_have_their_own_table(finished, page):
    rows = pl.read_parquet(finished.subgroups).filter(
        pl.col("fusion") == "late", pl.col("metric") == "concordance_index"
    )
    assert set(rows["level"]) == {"both", "ct", "ehr"}
    words = text_of(page)
    for row in rows.iter_rows(named=True):
        assert f"{row['value']:.3f} {wording.interval(row['ci_low'], row['ci_high'])}".replace(
            wording.KEEP, " "
        ) in words.replace(wording.MINUS, "-")


def test_optional_facts_may_be_absent(small):
    small.record.write_text('{"name": "bare"}')
    small.audit.write_text('{"passed": true}')
    page = render_report(read_run(small))
    assert read(page).faults == []
    assert "No strategy is singled out" in page


# seeds and folds


def test_seeds_are_read_averaged(tmp_path):
    run = write_run_folder(tmp_path / "run", sizes={"held_out": 80}, strategies=FEW, seeds=(0, 1))
    tables = read_run(run)
    results = pl.read_parquet(run.results).filter(
        pl.col("fusion") == "concat", pl.col("metric") == "concordance_index"
    )
    assert results["seed"].to_list() == [0, 1, None]
    concat = next(model for model in tables.models if model.fusion == "concat")
    estimate = tables.estimate("held_out", concat)
    assert estimate is not None
    assert estimate["value"] == results.filter(pl.col("seed").is_null())["value"].item()
    assert "Risks are averaged over 2 seeds." in text_of(render_report(tables))


def test_several_seeds_without_their_average_are_an_error(tmp_path):
    run = write_run_folder(
        tmp_path / "run", sizes={"held_out": 60}, strategies=FEW[:3], seeds=(0, 1), oracle=False
    )
    pl.read_parquet(run.results).filter(pl.col("seed").is_not_null()).write_parquet(run.results)
    with pytest.raises(ConcordantError, match="no row averaged over them"):
        read_run(run)


def test_two_record_encoders_make_two_groups(tmp_path):
    run = write_run_folder(
        tmp_path / "run",
        sizes={"held_out": 80},
        strategies=FEW,
        ehr_encoders=("one_hot", "clmbr"),
        oracle=False,
    )
    tables = read_run(run)
    (panel,) = concordance_panels(tables, headline(tables).featured)
    titles = [group.title for group in panel.groups]
    assert titles == [
        "One modality alone",
        "Fused: volume_features + one_hot",
        "Fused: volume_features + clmbr",
    ]
    assert [len(group.rows) for group in panel.groups] == [3, 2, 2]


def test_cross_validation_compares_with_the_modality_chosen_per_fold(tmp_path):
    run = write_run_folder(
        tmp_path / "run",
        sizes={"development": 160, "mayo_florida": 60},
        strategies=FEW,
        folds=4,
        oracle=False,
    )
    tables = read_run(run)
    words = text_of(render_report(tables))
    assert "the single modality chosen on tuning within each fold" in words
    assert "Gain over the single modality chosen on tuning, development" in words
    assert "Under cross-validation the thirds are formed by the rank inside each fold" in words
    assert tables.internal("development")
    assert not tables.internal("mayo_florida")
    panel = concordance_panels(tables, None)[0]
    contrast = next(
        gain
        for gain in tables.gains
        if gain["cohort"] == "development" and gain["metric"] == "concordance_index"
    )
    fused = tables.estimate("development", contrast["model"])
    assert fused is not None
    assert panel.groups[0].line == pytest.approx(fused["value"] - contrast["difference"])


# artifacts that cannot be used


@pytest.mark.parametrize(
    "name", ["results", "contrasts", "subgroups", "audit", "record", "survival_curves"]
)
@pytest.mark.parametrize("damage", ["missing", "garbage", "other"])
def test_unusable_artifact_names_itself_and_the_way_out(small, name, damage):
    path = getattr(small, name)
    if damage == "missing":
        path.unlink()
    elif damage == "garbage":
        path.write_bytes(b"\x00\xffnot a table")
    elif path.suffix == ".json":
        path.write_text("[1, 2]")
    else:
        pl.DataFrame({"cohort": ["held_out"]}).write_parquet(path)
    with pytest.raises(ConcordantError, match="concordant run") as error:
        write_report(small)
    assert path.name in str(error.value)
    assert not small.report.exists()


def test_a_folder_of_an_earlier_version_is_refused_with_the_way_out(small):
    small.record.rename(small.path / "study.json")
    with pytest.raises(StoreError, match=r"earlier version .* move it away and run"):
        write_report(small)


def test_a_run_without_a_concordance_index_is_refused(small):
    for path in (small.results, small.contrasts):
        pl.read_parquet(path).filter(pl.col("metric") != "concordance_index").write_parquet(path)
    with pytest.raises(ConcordantError, match=r"add concordance_index to evaluate\.metrics"):
        write_report(small)


# figures


def test_curves_are_kaplan_meier_of_the_thirds_of_risk(finished):
    tables = read_run(finished)
    section = survival_section(tables, headline(tables).featured)
    assert [display.cohort for display in section.displays] == ["held_out", "mayo_florida"]
    for display in section.displays:
        predictions = read_predictions(
            next(finished.path.glob(f"contrastive-volume*/predictions/{display.cohort}.parquet"))
        )
        target, thirds = (
            predictions.target,
            np.argsort(np.argsort(predictions.risk)) * 3 // len(predictions.risk),
        )
        at_risk = display.at_risk()
        for number, group in enumerate(("low", "middle", "high")):
            own = target.take(np.flatnonzero(thirds == number))
            rows = display.frame.filter(pl.col("group") == group)
            assert f"n = {len(own)}, {own.observed.sum()} events" in display.description
            curve = kaplan_meier(own.time, own.event)
            for day in np.linspace(1, min(display.last_day, own.time.max()) - 1, 25):
                drawn = rows.filter(pl.col("time_days") <= day)["survival"][-1]
                assert drawn == pytest.approx(float(curve.at(np.array(day))))
            ticks = at_risk.filter(pl.col("group") == group).sort("time_days")
            assert ticks["n_at_risk"].to_list() == [
                (own.time >= day).sum() for day in ticks["time_days"]
            ]
        test = risk_groups(target.time, target.event, predictions.risk).log_rank
        assert display.caption == f"log-rank {wording.p_equation(test.p_value)}"


def test_drawn_steps_are_few_and_end_where_the_curve_ends(finished):
    tables = read_run(finished)
    for display in survival_section(tables, headline(tables).featured).displays:
        drawn = display._drawn()
        assert drawn.height <= 3 * 202
        ends = display.frame.group_by("group", maintain_order=True).last()["survival"]
        assert drawn.group_by("third", maintain_order=True).last()["survival"].equals(ends)
        assert drawn.group_by("third").first()["survival"].to_list() == [1.0, 1.0, 1.0]


def test_a_cohort_without_curves_is_named_with_the_reason(small):
    curves = pl.read_parquet(small.survival_curves)
    gone = pl.col("cohort") == "mayo_florida"
    note = (
        curves.filter(gone)
        .unique("fusion")
        .with_columns(
            pl.lit(None, pl.Float64).alias("survival"), pl.lit("equal risks").alias("note")
        )
    )
    pl.concat([curves.filter(~gone), note]).write_parquet(small.survival_curves)
    tables = read_run(small)
    section = survival_section(tables, headline(tables).featured)
    assert [display.cohort for display in section.displays] == ["held_out"]
    assert "different risks: mayo_florida" in section.sentence


def test_forest_places_follow_the_table_and_tell_kinds_apart(finished):
    tables = read_run(finished)
    for panel in concordance_panels(tables, headline(tables).featured):
        rows = {row.label: row for group in panel.groups for row in group.rows}
        assert rows["CT alone"].mark == "unimodal"
        assert rows["Contrastive"].mark == "featured"
        assert rows["Oracle (both)"].mark == "oracle"
        for row in rows.values():
            assert wording.number(row.estimate) == row.cell.text
            places = [panel.axis.place(one) for one in (row.ci_low, row.estimate, row.ci_high)]
            assert places == sorted(places)
            assert 0 < places[0] < places[2] < 100
        assert panel.groups[0].line == rows["CT alone"].estimate


def test_hollow_marks_are_differences_that_were_not_shown(finished):
    tables = read_run(finished)
    panels = gain_panels(tables, None)
    shown = {
        (gain["cohort"], gain["model"].title): gain["shown"]
        for gain in tables.gains
        if gain["metric"] == "concordance_index"
    }
    drawn = {
        (panel.cohort, row.label): row.filled
        for panel in panels
        for group in panel.groups
        for row in group.rows
    }
    assert drawn == shown
    assert set(shown.values()) == {True, False}


def test_scatter_is_gain_against_gap(finished):
    tables = read_run(finished)
    figure = gain_scatter(tables)
    assert figure is not None
    assert figure.frame.height == 20
    assert figure.frame["gap"].n_unique() == 2
    alone = [tables.estimate("held_out", model) for model in tables.of_kind(Kind.CT, Kind.EHR)]
    gap = abs(alone[0]["value"] - alone[1]["value"])
    assert figure.frame["gap"][0] == pytest.approx(gap)
    gains = tables.concordance_gains()
    shown = {(row["cohort"], row["model"].title): row["shown"] for row in gains}
    for row in figure.frame.to_dicts():
        assert shown[row["cohort"], row["fusion"]] == row["shown"]
        assert f"{row['fusion']} on {row['cohort']}: gain {wording.signed(row['gain'])}" in (
            figure.description
        )


def test_figures_are_written_for_a_paper(finished, page):
    names = {path.name for path in finished.figures.iterdir()}
    stems = {"forest", "gain-against-gap"}
    for cohort in ("held_out", "mayo_florida"):
        stems |= {f"survival-{cohort}", f"calibration-{cohort}"}
        stems |= {f"decision-{cohort}-180", f"decision-{cohort}-365"}
    assert names == {f"{stem}.{ending}" for stem in stems for ending in ("svg", "pdf", "png")}
    for path in finished.figures.iterdir():
        starts = {".svg": b"<svg", ".pdf": b"%PDF", ".png": b"\x89PNG"}
        assert path.read_bytes().startswith(starts[path.suffix])
    words = " ".join(ET.fromstring((finished.figures / "forest.svg").read_text()).itertext())  # noqa: S314 - our own file
    for row in (
        pl.read_parquet(finished.results)
        .filter(pl.col("metric") == "concordance_index")
        .iter_rows(named=True)
    ):
        assert f"{row['value']:.3f}" in words


def test_every_figure_of_the_page_has_a_name_and_follows_the_readers_colours(page):
    drawings = re.findall(r'<svg class="drawing".*?</svg>', page, re.DOTALL)
    assert len(drawings) == 9
    for drawing in drawings:
        root = ET.fromstring(drawing)  # noqa: S314 - written by this project
        assert root.get("role") == "img"
        names = root.get("aria-labelledby").split()
        assert [child.get("id") for child in root[:2]] == names
        assert all(child.text for child in root[:2])
        assert not [one for one in root.iter() if one is not root and one.get("role")]
        inks = set(re.findall(r'(?:fill|stroke)="(#[^"]+)"', drawing))
        assert not inks & set(LIGHT.values())
        assert {"var(--muted)", "var(--faint)"} < set(re.findall(r'"(var[^"]+)"', drawing))
    assert set(LIGHT) == set(DARK)
    assert len(set(LIGHT.values())) == len(LIGHT)
    for name, colour in (*LIGHT.items(), *DARK.items()):
        assert f"--{name}: {colour};" in page


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bars(Display):
    """A figure that someone adds."""

    def draw(self):
        import altair as alt

        marks = alt.Chart(self.frame).mark_bar(color=LIGHT["accent"])
        return themed(marks.encode(x="n:Q", y="level:N"))


@dataclass(frozen=True)
class _Shown:
    title: str
    caption: str
    table: pl.DataFrame
    figure: Display | None = None


def test_a_figure_may_have_many_marks():
    frame = pl.DataFrame({"level": ["a", "b"] * 3_000, "n": range(6_000)})
    bars = _Bars(frame=frame, name="many", title="Many", description="Six thousand bars.")
    assert "<desc" in inline_svg(bars)


def test_an_analysis_without_a_section_of_its_own_is_shown(small, monkeypatch):
    frame = pl.DataFrame({"level": ["a <b>", "b"], "n": [1200, None], "mean_risk": [0.12345, -1.0]})
    bars = _Bars(frame=frame, name="bars", title="Bars & levels", description="Two bars.")
    shown = (
        _Shown("Shift between sites", "What differs & by how much.", frame, bars),
        _Shown("Nothing drawn", "A table alone.", frame.head(1).with_columns(known=pl.lit(True))),
    )
    page = render_report(read_run(small), shown=shown)
    reader = read(page)
    assert reader.faults == []
    sections = [attributes["id"] for tag, attributes in reader.tags if tag == "section"]
    assert sections[9:12] == ["Shift-between-sites", "Nothing-drawn", "left-out"]
    assert ("a", {"href": "#Shift-between-sites"}) in reader.tags
    words = text_of(page)
    assert "What differs & by how much." in words
    assert "level n mean risk a <b> 1,200 0.123 b \u2013 \u22121.000" in words
    assert "a <b> 1,200 0.123 yes" in words
    assert inline_svg(bars) in page
    monkeypatch.setattr(page_module, "shown_by_analyses", lambda run: shown)
    assert write_report(small).read_text() == render_report(read_run(small), shown=shown)
    assert (small.figures / "bars.pdf").is_file()


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(-1, 1).map(lambda value: round(value, 4)), min_size=1, max_size=6),
    st.booleans(),
)
def test_axes_hold_their_values_and_label_their_ticks_truly(values, signed):
    axis = axis_over(values, signed=signed)
    assert axis.low <= min(values)
    assert axis.high >= max(values)
    places = [tick.place for tick in axis.ticks]
    assert places == sorted(set(places))
    assert 2 <= len(places) <= 8
    assert len({tick.label for tick in axis.ticks}) == len(places)
    for tick in axis.ticks:
        value = float(tick.label.replace(wording.MINUS, "-"))
        assert axis.place(value) == pytest.approx(tick.place, abs=1e-3)


@settings(deadline=None, max_examples=60)
@given(st.floats(5, 12_000))
def test_time_axes_start_at_zero_and_do_not_crowd(last_day):
    axis = time_axis(last_day)
    assert axis.ticks[0] == 0
    assert 2 <= len(axis.ticks) <= 9
    assert axis.ticks[-1] * axis.length <= 1.02 * last_day
    assert axis.unit in ("days", "months", "years")


# words


@pytest.mark.parametrize(
    ("label", "title"),
    [
        ("unimodal(modality=ct)", "CT alone"),
        ("unimodal(modality=ehr)", "Record alone"),
        ("unimodal(chosen per fold)", "The single modality chosen per fold"),
        ("cross_attention(query=ehr)", "Cross-attention (query: record)"),
        (
            "contrastive(regime=two_stage,align_weight=0.5)",
            "Contrastive (regime: two-stage, align weight: 0.5)",
        ),
        ("late", "Late"),
        ("oracle(both)", "Oracle (both)"),
        ("PESI score, 2011", "PESI score, 2011"),
    ],
)
def test_strategies_in_words(label, title):
    assert wording.strategy_name(label) == title


@pytest.mark.parametrize(
    ("days", "text"),
    [
        (1, "1 day"),
        (30, "30 days"),
        (180, "6 months"),
        (365, "1 year"),
        (500, "16.4 months"),
        (730, "2 years"),
        (1000, "2.7 years"),
        (None, "\u2013"),
    ],
)
def test_times_in_words(days, text):
    assert wording.days(days) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0004, "< 0.001"),
        (0.0496, "0.050"),
        (0.03, "0.030"),
        (0.2, "0.20"),
        (1.0, "1.00"),
        (None, "\u2013"),
        (float("nan"), "\u2013"),
    ],
)
def test_p_values_in_print(value, text):
    assert wording.p_value(value) == text


def test_numbers_in_print():
    assert wording.number(-0.0001) == "0.000"
    assert wording.number(-0.0214) == "\u22120.021"
    assert wording.signed(0.0214) == "+0.021"
    assert wording.signed(0.0001) == "0.000"
    assert wording.interval(-0.02, 0.03) == "[\u22120.020,\u00a00.030]"
    assert wording.interval(None, 0.03) == ""
    assert wording.interval(1.0, 1.0) == ""
    assert wording.listing(["a", "b", "c"], "or") == "a, b or c"
    assert wording.share(1, 0) == "\u2013"
