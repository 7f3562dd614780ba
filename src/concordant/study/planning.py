"""From a study, its cohorts and their stores to the plan of its fits."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float

from concordant.config import Component, Strategy, Study
from concordant.core.files import file_digest, fingerprint
from concordant.core.modality import Modality
from concordant.study.data import StudyData
from concordant.study.plan import (
    CohortPlan,
    Fold,
    Plan,
    StrategyPlan,
    trials_that_differ,
    why_not_applicable,
)
from concordant.study.sources import Stores
from concordant.training.folds import draw_folds, group_numbers

SURVIVAL_QUANTILES = 100
TUNING_FOLDS = 5
"""Under cross-validation one fifth of a fold's training part serves as tuning."""

OUTCOMES = ("sample_id", "subject_id", "site", "time_days", "event")
"""Columns of a cohort table on which fits and predictions depend."""


def make_plan(study: Study, data: StudyData, stores: Stores) -> Plan:
    """Lay out every fit; a strategy that attends over a single key stands with its reason."""
    default = {one: next(iter(study.encoder_choices(one)), None) for one in Modality}
    trials, cohorts = study.trials(), _Cohorts(default, data, stores)
    strategies = tuple(
        StrategyPlan(
            strategy,
            study.run_folder.strategy(strategy.name),
            trials_that_differ(strategy, trials),
            cohorts.of(strategy),
            why_not_applicable(strategy, trials, cohorts.most_tokens(strategy)),
        )
        for strategy in study.strategies()
    )
    return Plan(
        study.run_folder,
        strategies,
        folds_of(data),
        study.seeds(),
        survival_times(data, study.task.horizons_days),
        component_digests(study.imports),
    )


class _Cohorts:
    """What strategies with the same encoders share, computed once."""

    def __init__(
        self, default: Mapping[Modality, Component | None], data: StudyData, stores: Stores
    ) -> None:
        self._data = data
        self._stores = stores
        self._default = default
        self._outcomes = [
            fingerprint({"rows": one.table.select(OUTCOMES).rows()}) for one in data.cohorts
        ]
        self._known: dict[tuple[str | None, ...], tuple[CohortPlan, ...]] = {}

    def of(self, strategy: Strategy) -> tuple[CohortPlan, ...]:
        """Return the cohorts as a strategy sees them."""
        key = (strategy.ct_label, strategy.ehr_label)
        if key not in self._known:
            used = {one: chosen for one in Modality if (chosen := strategy.encoder(one))}
            self._known[key] = tuple(self._cohort(place, used) for place in self._places)
        return self._known[key]

    def most_tokens(self, strategy: Strategy) -> dict[Modality, int]:
        """Return the greatest number of tokens of a sample, per modality."""
        label = self._data.development.label
        chosen = {modality: strategy.encoder(modality) for modality in Modality}
        return {
            modality: 0 if one is None else self._stores[modality, one.label][label].max_tokens
            for modality, one in chosen.items()
        }

    @property
    def _places(self) -> range:
        return range(len(self._data.cohorts))

    def _cohort(self, place: int, used: Mapping[Modality, Component]) -> CohortPlan:
        # which modalities a sample has is asked of the study's encoders also where this strategy
        # leaves one unused
        cohort = self._data.cohorts[place]
        asked = {one: used.get(one) or self._default[one] for one in Modality}
        present = {
            modality: self._stores[modality, one.label][cohort.label].present(cohort.sample_ids)
            for modality, one in asked.items()
            if one is not None
        }
        return CohortPlan(
            self._data.labels[place],
            {one: self._stores[one, used[one].label][cohort.label].folder for one in used},
            availability(present, cohort.table.height),
            self._outcomes[place],
        )


def availability(
    present: Mapping[Modality, Sequence[bool] | np.ndarray], n: int
) -> tuple[str, ...]:
    """Return per sample which modalities there are: "both", "ct", "ehr" or "none"."""
    ct, ehr = (np.asarray(present.get(one, np.zeros(n, bool))) for one in Modality)
    return tuple(np.select([ct & ehr, ct, ehr], ["both", "ct", "ehr"], "none").tolist())


def folds_of(data: StudyData) -> tuple[Fold, ...]:
    """Return the division of the development cohort by its splits, or one per repeat and fold."""
    if data.assignment is None:
        parts = {"train": "train", "tuning": "tuning", "test": "held_out"}
        return (Fold({part: data.development.rows(split) for part, split in parts.items()}),)
    pairs = data.assignment.select("repeat", "fold").unique().sort("repeat", "fold").rows()
    return tuple(_fold(data, data.assignment, repeat, fold) for repeat, fold in pairs)


def _fold(data: StudyData, assignment: pl.DataFrame, repeat: int, fold: int) -> Fold:
    table = data.development.table.with_row_index("row")
    here = table.join(
        assignment.filter(pl.col("repeat") == repeat).select("sample_id", tested="fold"),
        on="sample_id",
        maintain_order="left",
    )
    test, rest = here.filter(pl.col("tested") == fold), here.filter(pl.col("tested") != fold)
    seed = int(np.random.SeedSequence([data.seed, repeat, fold]).generate_state(1)[0])
    inner = draw_folds(
        rest["event"].to_numpy(), group_numbers(rest, data.group), folds=TUNING_FOLDS, seed=seed
    )
    rows = rest["row"].to_numpy()
    parts = {"train": rows[inner != 0], "tuning": rows[inner == 0], "test": test["row"].to_numpy()}
    return Fold(parts, repeat, fold)


def survival_times(data: StudyData, horizons_days: Sequence[float]) -> Float[np.ndarray, " time"]:
    """Return 100 quantiles of the event times of those who are learned from, and the horizons."""
    learned = data.development.table[data.learned_from()]
    events = learned.filter(pl.col("event") == 1)["time_days"].to_numpy()
    quantiles = np.quantile(events, np.linspace(0, 1, SURVIVAL_QUANTILES), method="nearest")
    return np.unique(np.concatenate([quantiles, np.array(horizons_days, dtype=np.float64)]))


def component_digests(imports: Sequence[str]) -> dict[str, str]:
    """Return a digest of the source of every imported module, a package with all that is in it."""
    return {name: _source_digest(name) for name in imports}


def _source_digest(name: str) -> str:
    module = sys.modules[name]
    folders = [Path(folder) for folder in getattr(module, "__path__", ())]
    files = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    alone = getattr(module, "__file__", None)
    files = files or ([Path(alone)] if alone else [])
    return fingerprint({str(number): file_digest(path) for number, path in enumerate(files)})
