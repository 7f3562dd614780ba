"""Builds the page: one file without scripts, fonts or anything else from a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from concordant.analysis import Shown
from concordant.core.artifacts import RunFolder, slug
from concordant.core.files import write_text
from concordant.core.records import RunRecord
from concordant.report import sections, wording
from concordant.report.attention import AttentionPictures, read_pictures
from concordant.report.displays.base import DARK, LIGHT, Display, inline_svg, write_figures
from concordant.report.displays.calibration import calibration_section
from concordant.report.displays.decision import decision_section
from concordant.report.displays.forest import concordance_display, concordance_panels, gain_panels
from concordant.report.displays.scatter import gain_scatter
from concordant.report.displays.survival_curves import survival_section
from concordant.report.figure_section import FigureSection
from concordant.report.headline import Headline, headline
from concordant.report.inference import (
    competing_sentence,
    further_tests,
    gain_over_both_details,
    method_of,
    tau_sentence,
)
from concordant.report.run_tables import Kind, RunTables, read_run, shown_by_analyses
from concordant.report.table import table_of

_FILTERS = (
    inline_svg,
    slug,
    table_of,
    wording.days,
    wording.inside_sentence,
    wording.listing,
    wording.strategy_name,
)


class _Figures(NamedTuple):
    """What of the page is drawn."""

    top: Headline
    scatter: Display | None
    survival: FigureSection
    calibration: FigureSection
    decision: FigureSection

    @classmethod
    def of(cls, tables: RunTables) -> _Figures:
        top = headline(tables)
        return cls(
            top,
            gain_scatter(tables),
            survival_section(tables, top.featured),
            calibration_section(tables),
            decision_section(tables),
        )

    def displays(self, tables: RunTables, shown: Sequence[Shown]) -> list[Display]:
        """Return every figure, that of the concordance first."""
        forest = concordance_display(concordance_panels(tables, self.top.featured), "forest")
        drawn = [
            one
            for section in (self.survival, self.calibration, self.decision)
            for one in (*section.displays, *section.further)
        ]
        found = (forest, self.scatter, *drawn, *(one.figure for one in shown))
        return [one for one in found if one is not None]


def write_report(run: RunFolder) -> Path:
    """Write `report.html` and the figures into a run folder and return the page's path.

    Analyses without a section of their own stand in sections as they show themselves.

    Raises:
        ConcordantError: An artifact of the run is missing or damaged.
    """
    tables, shown = read_run(run), shown_by_analyses(run)
    figures = _Figures.of(tables)
    page = _rendered(tables, figures, read_pictures(run), shown)
    write_figures(figures.displays(tables, shown), run.figures)
    write_text(run.report, page)
    return run.report


def render_report(
    tables: RunTables, attention: AttentionPictures | None = None, *, shown: Sequence[Shown] = ()
) -> str:
    """Return the page as text; every text from the run is escaped."""
    return _rendered(tables, _Figures.of(tables), attention, shown)


def _rendered(
    tables: RunTables,
    figures: _Figures,
    attention: AttentionPictures | None,
    shown: Sequence[Shown],
) -> str:
    featured = figures.top.featured
    fused = {(model.ct_encoder, model.ehr_encoder) for model in tables.of_kind(Kind.FUSION)}
    encoders = len(fused) > 1
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            figures._asdict(),
            light=LIGHT,
            dark=DARK,
            record=tables.record,
            audit=tables.audit,
            attention=attention,
            concordance=wording.metric_name(tables.concordance),
            concordances=concordance_panels(tables, featured),
            gains=gain_panels(tables, featured),
            strategies=sections.strategy_tables(tables, featured, encoders=encoders),
            other_gains=sections.other_gains(tables, encoders=encoders),
            tau=tau_sentence(tables),
            competing=competing_sentence(tables),
            method=method_of(tables),
            tests=further_tests(tables, encoders=encoders),
            over_both=gain_over_both_details(tables, featured),
            subgroups=sections.subgroup_tables(tables, featured, encoders=encoders),
            cohorts=sections.cohort_table(tables.record.cohorts),
            left_out=sections.left_out(tables.record.strategies),
            quarantine=sections.quarantine_table(tables.record.quarantine),
            checks=sections.audit_table(tables.audit.checks),
            grid=sections.grid_table(tables.record.strategies),
            provenance=list(_provenance(tables.record)),
            shown=shown,
            n_seeds=len(_seeds(tables.record)),
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
    return environment


def _seeds(record: RunRecord) -> list[int]:
    return sorted({seed for one in record.strategies for seed in one.seeds})


def _provenance(record: RunRecord) -> Iterator[tuple[str, str]]:
    """Yield what has to be known to run the study again."""
    computing = sum(one.seconds or 0.0 for one in record.strategies)
    versions = (f"{name} {version}" for name, version in record.versions.items() if version)
    folds = record.cross_validation
    for key, value in (
        ("Fingerprint", record.fingerprint),
        ("Git revision", record.git_revision),
        ("Started", record.started),
        ("Finished", record.finished),
        ("Time from start to end", _elapsed(record)),
        ("Computing time of all fits", wording.seconds(computing) if computing else None),
        ("Seeds", ", ".join(map(str, _seeds(record)))),
        ("Versions", ", ".join(versions)),
        ("Training", _options(record.train)),
        ("Cross-validation", "none: the cohort's own splits" if folds is None else _options(folds)),
    ):
        if value:
            yield key, value


def _options(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in sections.flat(options))


def _elapsed(record: RunRecord) -> str | None:
    """Return the time from start to end; None where either was not kept as an ISO time."""
    try:
        start, end = (
            datetime.fromisoformat(text or "") for text in (record.started, record.finished)
        )
        return wording.seconds((end - start).total_seconds())
    except (TypeError, ValueError):  # absent, no ISO time, or only one of the two with a time zone
        return None
