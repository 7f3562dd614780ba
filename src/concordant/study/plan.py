"""The plan of a study: its strategies, the trials and folds of each, and every single fit.

Pure values: names, paths, numbers. Whatever comes later takes the plan, not the study.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from concordant.config import Strategy, Trial
from concordant.core.artifacts import FitFolder, RunFolder, StrategyFolder
from concordant.core.errors import CohortError, NotApplicableError
from concordant.core.files import fingerprint
from concordant.core.modality import Modality
from concordant.fusion import FUSIONS, FusionDims
from concordant.training.fit import refuse_single_key

FIT_VERSION = 2
"""Raised when the same options and inputs would give another fit."""


@dataclass(frozen=True, slots=True)
class Fold:
    """A division of the development cohort.

    Attributes:
        rows: Row numbers of the cohort per part: train, tuning, test.
        repeat: Repeat of cross-validation, or None.
        fold: Fold of cross-validation, or None.
    """

    rows: Mapping[str, Int[np.ndarray, " row"]]
    repeat: int | None = None
    fold: int | None = None

    @property
    def key(self) -> tuple[int, int] | None:
        """Repeat and fold; None without cross-validation."""
        return None if self.repeat is None or self.fold is None else (self.repeat, self.fold)

    @property
    def name(self) -> str:
        """What folders call it."""
        return "splits" if self.key is None else f"r{self.repeat}-f{self.fold}"


@dataclass(frozen=True, slots=True)
class CohortPlan:
    """What the fits of a strategy depend on in a cohort, apart from the fold.

    Attributes:
        label: Label of the predicted rows in tables.
        stores: Folder of the store of each modality that the strategy uses.
        available: Per sample "both", "ct", "ehr" or "none".
        outcomes: Fingerprint of who is in the cohort and of their outcomes.
    """

    label: str
    stores: Mapping[Modality, Path]
    available: tuple[str, ...]
    outcomes: str


@dataclass(frozen=True)
class StrategyPlan:
    """A strategy and how it is fitted.

    Attributes:
        strategy: What is fitted.
        folder: Where it keeps its fits and predictions.
        trials: The ways to fit it that may differ.
        cohorts: The cohorts it predicts, the one it is fitted on first.
        reason: Why it is not applicable, or None.
    """

    strategy: Strategy
    folder: StrategyFolder
    trials: tuple[Trial, ...]
    cohorts: tuple[CohortPlan, ...]
    reason: str | None = None

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What its fits depend on, trial, fold and seed apart."""
        return {
            "strategy": self.strategy.resolved(),
            "cohorts": {one.label: one.outcomes for one in self.cohorts},
            "stores": {
                one.label: {str(modality): store.name for modality, store in one.stores.items()}
                for one in self.cohorts
            },
        }


@dataclass(frozen=True, slots=True)
class Fit:
    """One strategy fitted once: by one trial, on one fold, from one seed.

    Attributes:
        folder: Where it writes.
        strategy: Position of its strategy in the plan.
        trial: Position of its trial among those of the strategy.
        fold: Position of its fold in the plan.
        seed: Seed of initialisation and dropout.
        fingerprint: Changes when anything does that the result depends on.
    """

    folder: FitFolder
    strategy: int
    trial: int
    fold: int
    seed: int
    fingerprint: str


@dataclass(frozen=True)
class Plan:
    """All that is to be fitted.

    Attributes:
        run: The run folder.
        strategies: Every strategy, those that are not applicable too.
        folds: The divisions of the development cohort; one without cross-validation.
        seeds: Seeds from which each trial is fitted.
        times: Days at which survival is predicted, ascending.
        components: Fingerprint of imported component code per module.
    """

    run: RunFolder
    strategies: tuple[StrategyPlan, ...]
    folds: tuple[Fold, ...]
    seeds: tuple[int, ...]
    times: Float[np.ndarray, " time"]
    components: Mapping[str, str]

    @cached_property
    def fits(self) -> tuple[Fit, ...]:
        """Every fit, fold by fold, so that those that share inputs stand together."""
        return tuple(self._listed())

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the cohorts that are predicted, the internal one first."""
        return tuple(one.label for one in self.strategies[0].cohorts)

    def name(self, fit: Fit) -> str:
        """Return what messages call a fit."""
        trial = self.strategies[fit.strategy].trials[fit.trial].name
        fold = self.folds[fit.fold]
        parts = [
            self.strategies[fit.strategy].strategy.name,
            *([] if trial == "default" else [trial]),
            f"seed {fit.seed}",
            *([] if fold.key is None else [f"repeat {fold.repeat}, fold {fold.fold}"]),
        ]
        return ", ".join(parts)

    def fits_of(self, strategy: int) -> list[Fit]:
        """Return the fits of a strategy, by its position."""
        return self._by_strategy.get(strategy, [])

    @cached_property
    def fingerprint(self) -> str:
        """Changes when any fit does."""
        return fingerprint({"fits": [fit.fingerprint for fit in self.fits]})

    @cached_property
    def _by_strategy(self) -> dict[int, list[Fit]]:
        grouped: dict[int, list[Fit]] = {}
        for fit in self.fits:
            grouped.setdefault(fit.strategy, []).append(fit)
        return grouped

    @cached_property
    def shared_facts(self) -> dict[str, Any]:
        """What all fits depend on."""
        return {
            "fit_version": FIT_VERSION,
            "times": fingerprint({"times": self.times.tolist()}),
            "components": dict(self.components),
        }

    @cached_property
    def row_digests(self) -> tuple[str, ...]:
        """Fingerprint of the rows of each fold."""
        return tuple(
            fingerprint({role: rows.tolist() for role, rows in fold.rows.items()})
            for fold in self.folds
        )

    @property
    def _longest_first(self) -> list[int]:
        """Applicable strategies, those that read every token first: no worker waits for them."""
        applicable = [k for k, one in enumerate(self.strategies) if one.reason is None]
        return sorted(
            applicable,
            key=lambda k: not FUSIONS.get(self.strategies[k].strategy.fusion.name).reads_tokens,
        )

    def _listed(self) -> Iterator[Fit]:
        shared = fingerprint(self.shared_facts)
        digests = [fingerprint(one.facts) for one in self.strategies]
        options = {
            trial: fingerprint(trial.options.model_dump(mode="json"))
            for one in self.strategies
            for trial in one.trials
        }
        for place, fold in enumerate(self.folds):
            for number in self._longest_first:
                planned = self.strategies[number]
                for tried, trial in enumerate(planned.trials):
                    for seed in self.seeds:
                        parts = (
                            shared,
                            digests[number],
                            options[trial],
                            self.row_digests[place],
                            str(seed),
                        )
                        yield Fit(
                            planned.folder.fit(trial.name, seed, fold.name if fold.key else None),
                            number,
                            tried,
                            place,
                            seed,
                            fingerprint({"parts": parts}),
                        )


def trials_that_differ(strategy: Strategy, trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """Return the trials that give a strategy different fits.

    Of the options of training a ridge solution knows the vocabulary's alone.
    """
    if FUSIONS.get(strategy.fusion.name).solver != "ridge":
        return tuple(trials)
    first = {trial.options.min_code_samples: trial for trial in reversed(trials)}
    return tuple(trial for trial in trials if first[trial.options.min_code_samples] is trial)


def why_not_applicable(
    strategy: Strategy, trials: Sequence[Trial], most_tokens: Mapping[Modality, int]
) -> str | None:
    """Return why a strategy cannot be fitted to encoders with at most so many tokens, or None.

    Raises:
        ConfigError: The fusion cannot have the width of a trial.
    """
    chosen = strategy.fusion
    try:
        for width in dict.fromkeys(trial.options.width for trial in trials):
            dims = FusionDims(width, 0.0, dict.fromkeys(Modality, 1))
            refuse_single_key(FUSIONS.create(chosen.name, dims, **chosen.options), most_tokens)
    except NotApplicableError as error:
        return str(error)
    return None


def refuse_without_events(plan: Plan, observed: Bool[np.ndarray, " sample"]) -> None:
    """Refuse, before the first fit, what no strategy could be fitted on or stopped by.

    Args:
        plan: The plan.
        observed: True where a sample of the development cohort had the event.

    Raises:
        CohortError: Nobody with its modalities had the event; the message names the strategy, the
            fold and the part.
    """
    for planned in plan.strategies:
        used = planned.strategy.modalities
        known = np.isin(np.array(planned.cohorts[0].available), ["both", *used])
        for fold in plan.folds if planned.reason is None else ():
            for part in ("train", "tuning"):
                rows = fold.rows[part]
                if not (known & observed)[rows].any():
                    place = "" if fold.key is None else f", repeat {fold.repeat}, fold {fold.fold}"
                    raise CohortError(
                        f"{planned.strategy.name}{place}: {part} has no observed event (event = 1) "
                        f"among its {known[rows].sum()} samples with {' or '.join(used)}; a model "
                        "cannot be fitted. Check the events, and who has the modality in which "
                        "split or fold"
                    )
