"""Where a run keeps what: the one place that knows the names of a run folder's files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder `runs/<study>`.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def results(self) -> Path:
        """Table of metrics, whole-cohort rows only."""
        return self.path / "results.parquet"

    @property
    def subgroups(self) -> Path:
        """Table of metrics by availability pattern and site."""
        return self.path / "subgroups.parquet"

    @property
    def contrasts(self) -> Path:
        """Table of paired differences."""
        return self.path / "contrasts.parquet"

    @property
    def gains_over_both(self) -> Path:
        """Table of gains over the better of both unimodal models."""
        return self.path / "gains_over_both.parquet"

    @property
    def decision_curves(self) -> Path:
        """Table of net benefits."""
        return self.path / "decision_curves.parquet"

    @property
    def calibration(self) -> Path:
        """Table of calibration measures, before and after recalibration."""
        return self.path / "calibration.parquet"

    @property
    def calibration_groups(self) -> Path:
        """Table of predicted and observed probabilities by group of risk."""
        return self.path / "calibration_groups.parquet"

    def table(self, name: str) -> Path:
        """Return the table of an analysis, by its name in `concordant.analysis.ANALYSES`."""
        return self.path / f"{name}.parquet"

    @property
    def survival_curves(self) -> Path:
        """Table of Kaplan-Meier curves by third of predicted risk."""
        return self.path / "survival_curves.parquet"

    @property
    def audit(self) -> Path:
        """Checks against leakage."""
        return self.path / "audit.json"

    @property
    def record(self) -> Path:
        """What was run on what: strategies, cohorts, quarantine, options, versions."""
        return self.path / "run.json"

    @property
    def digests(self) -> Path:
        """Digests of all that a finished run has written; the last thing that it writes."""
        return self.path / "digests.json"

    @property
    def trials(self) -> Path:
        """Table of the trials of each strategy and fold, and which of them was chosen."""
        return self.path / "trials.parquet"

    @property
    def work(self) -> Path:
        """What the processes of a run share while it goes on; removed at its end."""
        return self.path / ".work"

    @property
    def drivers(self) -> Path:
        """The processes that drive a run, and what each of them has in hand."""
        return self.path / ".drivers"

    @property
    def report(self) -> Path:
        """The report."""
        return self.path / "report.html"

    @property
    def figures(self) -> Path:
        """The report's figures as files, for a paper."""
        return self.path / "figures"

    @property
    def pictures(self) -> Path:
        """Attention pictures for the report, where the study asks for them."""
        return self.path / "pictures"

    def strategy(self, name: str) -> StrategyFolder:
        """Return the folder of a strategy."""
        return StrategyFolder(self.path / name)


@dataclass(frozen=True, slots=True)
class StrategyFolder:
    """The folder of one strategy: one combination of encoders, fusion and head.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The resolved strategy as YAML."""
        return self.path / "config.yaml"

    def predictions(self, cohort: str) -> Path:
        """Predictions of all seeds, by cohort: `held_out`, `development`, or an external name."""
        return self.path / "predictions" / f"{slug(cohort)}.parquet"

    def fit(self, trial: str, seed: int, fold: str | None) -> FitFolder:
        """Return the folder of a fit; a trial called "default" and no fold are left unnamed."""
        parts = ["" if trial == "default" else slug(trial), f"seed{seed}", fold or ""]
        return FitFolder(self.path / "fits" / "__".join(part for part in parts if part))


@dataclass(frozen=True, slots=True)
class FitFolder:
    """The folder of one fit, written whole or not at all: model, history, predictions.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def account(self) -> Path:
        """What the fit depended on, what it came to, and the digests of the files beside it."""
        return self.path / "fit.json"

    @property
    def predictions(self) -> Path:
        """Risks and survival curves of each part, in the rows' order."""
        return self.path / "predictions.safetensors"

    @property
    def failure(self) -> Path:
        """Why the fit failed, beside the folder that it therefore does not have."""
        return self.path.with_name(f"{self.path.name}.failed.json")


def slug(text: str) -> str:
    """Turn a label into a file name."""
    return re.sub(r"[^A-Za-z0-9_.@=-]+", "-", text).strip("-.")
