"""Builds the page: one file without scripts, fonts or anything else from a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from concordant.core.artifacts import RunFolder
from concordant.core.files import write_text
from concordant.report import wording
from concordant.report.calibration import calibration_figure
from concordant.report.decision import decision_figure
from concordant.report.facts import StudyFacts
from concordant.report.forest import concordance_panels, gain_panels
from concordant.report.headline import headline
from concordant.report.judging import (
    competing_sentence,
    further_tests,
    gain_over_both_details,
    method_of,
    tau_sentence,
)
from concordant.report.pictures import AttentionPictures, read_pictures
from concordant.report.rows import Kind, RunTables
from concordant.report.scatter import gain_scatter
from concordant.report.sections import cohort_rows, flat, left_out, strategy_tables, subgroup_tables
from concordant.report.standalone import TRACK, standalone_forest
from concordant.report.survival_curves import survival_figure
from concordant.report.tables import read_run

_FILTERS = (
    wording.count,
    wording.days,
    wording.inside_sentence,
    wording.listing,
    wording.number,
    wording.p_value,
    wording.seconds,
    wording.signed,
    wording.strategy_name,
)


def write_report(run: RunFolder) -> Path:
    """Write `report.html` into a run folder and return its path.

    Raises:
        ConcordantError: An artifact of the run is missing or damaged.
    """
    write_text(run.report, render_report(read_run(run), read_pictures(run)))
    return run.report


def write_forest_svg(run: RunFolder, path: Path) -> Path:
    """Write the forest plot of all cohorts as an SVG file that stands alone, and return its path.

    Raises:
        ConcordantError: An artifact of the run is missing or damaged.
    """
    tables = read_run(run)
    figure = standalone_forest(concordance_panels(tables, headline(tables).featured))
    write_text(
        path,
        _environment()
        .get_template("forest.svg.j2")
        .render(figure=figure, study=tables.study, track=TRACK),
    )
    return path


def render_report(tables: RunTables, attention: AttentionPictures | None = None) -> str:
    """Return the page as text; every text from the run is escaped."""
    top = headline(tables)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            study=tables.study,
            audit=tables.audit,
            attention=attention,
            headline=top,
            concordance=wording.metric_name(tables.concordance),
            concordances=concordance_panels(tables, top.featured),
            gains=gain_panels(tables, top.featured),
            other_gains=[gain for gain in tables.other_gains if gain.metric == tables.concordance],
            scatter=gain_scatter(tables),
            strategies=strategy_tables(tables, top.featured),
            tau=tau_sentence(tables),
            competing=competing_sentence(tables),
            method=method_of(tables),
            tests=further_tests(tables),
            over_both=gain_over_both_details(tables, top.featured),
            decision=decision_figure(tables),
            calibration=calibration_figure(tables),
            survival=survival_figure(tables, top.featured),
            subgroups=subgroup_tables(tables, top.featured),
            cohort_rows=list(cohort_rows(tables.study.cohorts)),
            left_out=left_out(tables.study.members),
            quarantine=[row for row in tables.study.quarantine if row.n],
            provenance=list(_provenance(tables.study)),
            several_encoders=len(
                {(model.ct_encoder, model.ehr_encoder) for model in tables.of_kind(Kind.FUSION)}
            )
            > 1,
            n_seeds=len(_seeds(tables.study)),
            has_foreign=bool(tables.of_kind(Kind.FOREIGN)),
            has_oracle=bool(tables.of_kind(Kind.ORACLE)),
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("concordant.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({function.__name__: function for function in _FILTERS})
    environment.globals["interval"] = wording.interval
    return environment


def _seeds(study: StudyFacts) -> list[int]:
    return sorted({one.seed for one in study.members if one.seed is not None})


def _provenance(study: StudyFacts) -> Iterator[tuple[str, str]]:
    """Yield what has to be known to run the study again."""
    computing = sum(one.seconds or 0.0 for one in study.members)
    for key, value in (
        ("Fingerprint", study.fingerprint),
        ("Git revision", study.git_revision),
        ("Started", study.started),
        ("Finished", study.finished),
        ("Time from start to end", _elapsed(study)),
        ("Computing time of all fits", wording.seconds(computing) if computing else None),
        ("Seeds", ", ".join(map(str, _seeds(study)))),
        (
            "Versions",
            ", ".join(f"{name} {version}" for name, version in study.versions.items() if version),
        ),
        ("Training", _options(study.train)),
        (
            "Cross-validation",
            "none: the cohort's own splits"
            if study.cross_validation is None
            else _options(study.cross_validation),
        ),
    ):
        if value:
            yield key, value


def _options(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in flat(options))


def _elapsed(study: StudyFacts) -> str | None:
    """Return the time from start to end; None where either was not kept as an ISO time."""
    try:
        start, end = (
            datetime.fromisoformat(text or "") for text in (study.started, study.finished)
        )
        return wording.seconds((end - start).total_seconds())
    except (TypeError, ValueError):  # absent, no ISO time, or only one of the two with a time zone
        return None
