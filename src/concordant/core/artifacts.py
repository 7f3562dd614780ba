"""Where a run keeps what: the one place that knows the names of a run folder's files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


class _File:
    """A file of a folder, by its name: read from an instance, the path of it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, folder: _Folder, owner: type) -> Path:
        return folder.path / self.name


@dataclass(frozen=True, slots=True)
class _Folder:
    path: Path


@dataclass(frozen=True, slots=True)
class RunFolder(_Folder):
    """The folder `runs/<study>`."""

    results = _File("results.parquet")
    """Table of metrics, whole-cohort rows only."""
    subgroups = _File("subgroups.parquet")
    """Table of metrics by availability pattern and site."""
    contrasts = _File("contrasts.parquet")
    """Table of paired differences."""
    gains_over_both = _File("gains_over_both.parquet")
    """Table of gains over the better of both unimodal models."""
    decision_curves = _File("decision_curves.parquet")
    """Table of net benefits."""
    calibration = _File("calibration.parquet")
    """Table of calibration measures, before and after recalibration."""
    calibration_groups = _File("calibration_groups.parquet")
    """Table of predicted and observed probabilities by group of risk."""
    survival_curves = _File("survival_curves.parquet")
    """Table of Kaplan-Meier curves by third of predicted risk."""
    audit = _File("audit.json")
    """Checks against leakage."""
    record = _File("run.json")
    """What was run on what: strategies, cohorts, quarantine, options, versions."""
    digests = _File("digests.json")
    """Digests of all that a finished run has written; the last thing that it writes."""
    trials = _File("trials.parquet")
    """Table of the trials of each strategy and fold, and which of them was chosen."""
    work = _File(".work")
    """What the processes of a run share while it goes on; removed at its end."""
    drivers = _File(".drivers")
    """The processes that drive a run, and what each of them has in hand."""
    report = _File("report.html")
    """The report."""
    figures = _File("figures")
    """The report's figures as files, for a paper."""
    pictures = _File("pictures")
    """Attention pictures for the report, where the study asks for them."""

    def table(self, name: str) -> Path:
        """Return the table of an analysis, by its name in `concordant.analysis.ANALYSES`."""
        return self.path / f"{name}.parquet"

    def strategy(self, name: str) -> StrategyFolder:
        """Return the folder of a strategy."""
        return StrategyFolder(self.path / name)


@dataclass(frozen=True, slots=True)
class StrategyFolder(_Folder):
    """The folder of one strategy: one combination of encoders, fusion and head."""

    config = _File("config.yaml")
    """The resolved strategy as YAML."""

    def predictions(self, cohort: str) -> Path:
        """Predictions of all seeds, by cohort: `held_out`, `development`, or an external name."""
        return self.path / "predictions" / f"{slug(cohort)}.parquet"

    def fit(self, trial: str, seed: int, fold: str | None) -> FitFolder:
        """Return the folder of a fit; a trial called "default" and no fold are left unnamed."""
        parts = ["" if trial == "default" else slug(trial), f"seed{seed}", fold or ""]
        return FitFolder(self.path / "fits" / "__".join(part for part in parts if part))


@dataclass(frozen=True, slots=True)
class FitFolder(_Folder):
    """The folder of one fit, written whole or not at all: model, history, predictions."""

    account = _File("fit.json")
    """What the fit depended on, what it came to, and the digests of the files beside it."""
    predictions = _File("predictions.safetensors")
    """Risks and survival curves of each part, in the rows' order."""

    @property
    def failure(self) -> Path:
        """Why the fit failed, beside the folder that it therefore does not have."""
        return self.path.with_name(f"{self.path.name}.failed.json")


def slug(text: str) -> str:
    """Turn a label into a file name."""
    return re.sub(r"[^A-Za-z0-9_.@=-]+", "-", text).strip("-.")
