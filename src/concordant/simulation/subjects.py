"""Latent factors, log-hazards, oracles and survival times of one site's subjects."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import polars as pl
from jaxtyping import Float, Int
from scipy.optimize import brentq

from concordant.simulation.options import SimulationOptions

FACTORS = ("ct", "ehr", "shared")
MODALITY_SETS = ("ct", "ehr", "both")
SPLIT_ENDS = {"train": 0.60, "tuning": 0.75, "held_out": 1.0}

FIRST_INDEX = datetime(2016, 1, 1)
INDEX_MINUTES = 6 * 365 * 24 * 60
WEIBULL_SHAPE = 1.2
MEDIAN_DAYS = 730.0  # of a subject whose log-hazard is 0


@dataclass(frozen=True, slots=True)
class Site:
    """A hospital of the simulation.

    Attributes:
        name: Its name in tables.
        number: 0 or 1; part of every random stream's seed and of the subjects' numbers.
        n: Subjects.
        factor_mean: Mean of each latent factor (their variance is 1).
        is_development: True for the site whose cohort has splits.
    """

    name: str
    number: int
    n: int
    factor_mean: float
    is_development: bool


def sites(options: SimulationOptions) -> tuple[Site, Site]:
    """Return the development site and the external one."""
    return (
        Site("site_a", 0, options.n_development, 0.0, is_development=True),
        Site("site_b", 1, options.n_external, options.case_mix_shift, is_development=False),
    )


def generator(options: SimulationOptions, site: Site, *stream: int) -> np.random.Generator:
    """Return a stream's generator, so that no draw depends on the order of the work."""
    return np.random.default_rng([options.seed, site.number, *stream])


def draw_subjects(site: Site, options: SimulationOptions) -> pl.DataFrame:
    """Draw the subjects of a site.

    The log-hazard is `ct_signal * ct + ehr_signal * ehr + shared_signal * shared + interaction * ct
    * ehr`. An oracle is its conditional expectation given the factors that a set of modalities sees
    (the shared one is seen by both) under the site's own distribution. Times are Weibull; the
    censoring times have the same shape, so that P(censored | log-hazard h) = c / (c + exp(h))
    exactly.

    Returns:
        Per subject: `sample_id`, `subject_id`, `site`, `split` (null at the external site),
        `prediction_time`, `age` (years), `sex`, `has_ct`, `has_ehr`, `factor_*`, `log_hazard`,
        `oracle_*` (higher = earlier event), `time_days` (>= 1), `event` (1 = observed).
    """
    rng = generator(options, site, 0)
    factors = dict(
        zip(FACTORS, rng.normal(site.factor_mean, 1.0, (len(FACTORS), site.n)), strict=True)
    )
    log_hazard = _log_hazard(factors, options)
    outcome = _survival(log_hazard, options.censoring, rng)
    number = np.arange(1, site.n + 1)
    oracles = {
        f"oracle_{seen}": _log_hazard(_expected(factors, seen, site.factor_mean), options)
        for seen in MODALITY_SETS
    }
    return pl.DataFrame(
        {
            "sample_id": [f"{site.name}_{each:06d}" for each in number],
            "subject_id": (site.number + 1) * 1_000_000 + number,
            "site": [site.name] * site.n,
            "split": pl.Series(
                _splits(outcome.event, rng) if site.is_development else [None] * site.n,
                dtype=pl.String,
            ),
            "prediction_time": [
                FIRST_INDEX + timedelta(minutes=int(minute))
                for minute in rng.integers(INDEX_MINUTES, size=site.n)
            ],
            "age": np.clip(
                62.0 + 7.0 * factors["ehr"] + 9.0 * rng.standard_normal(site.n), 20.0, 98.0
            ).round(1),
            "sex": np.where(rng.random(site.n) < 0.5, "female", "male"),
            "has_ct": rng.random(site.n) >= options.missing_ct,
            "has_ehr": rng.random(site.n) >= options.missing_ehr,
            **{f"factor_{name}": values for name, values in factors.items()},
            "log_hazard": log_hazard,
            **oracles,
            "time_days": outcome.time_days,
            "event": outcome.event.astype(np.int8),
        }
    )


def _log_hazard(
    factors: dict[str, Float[np.ndarray, " subject"]], options: SimulationOptions
) -> Float[np.ndarray, " subject"]:
    return np.asarray(
        options.ct_signal * factors["ct"]
        + options.ehr_signal * factors["ehr"]
        + options.shared_signal * factors["shared"]
        + options.interaction * factors["ct"] * factors["ehr"]
    )


def _expected(
    factors: dict[str, Float[np.ndarray, " subject"]], seen: str, mean: float
) -> dict[str, Float[np.ndarray, " subject"]]:
    """Replace what is not seen by its mean, right for products of independent factors too."""
    hidden = {"ct": "ehr", "ehr": "ct", "both": None}[seen]
    return {
        name: np.full_like(values, mean) if name == hidden else values
        for name, values in factors.items()
    }


@dataclass(frozen=True, slots=True)
class _Outcome:
    time_days: Float[np.ndarray, " subject"]
    event: Int[np.ndarray, " subject"]


def _survival(
    log_hazard: Float[np.ndarray, " subject"], censoring: float, rng: np.random.Generator
) -> _Outcome:
    scale = np.log(2.0) / MEDIAN_DAYS**WEIBULL_SHAPE
    until_event = (rng.exponential(size=len(log_hazard)) / (scale * np.exp(log_hazard))) ** (
        1 / WEIBULL_SHAPE
    )
    unit = rng.exponential(size=len(log_hazard))
    if censoring == 0:
        return _Outcome(np.ceil(until_event), np.ones(len(log_hazard), np.int64))
    level = brentq(lambda c: np.mean(1 / (1 + np.exp(log_hazard - c))) - censoring, -50.0, 50.0)
    until_censored = (unit / (scale * np.exp(level))) ** (1 / WEIBULL_SHAPE)
    return _Outcome(
        np.ceil(np.minimum(until_event, until_censored)),
        (until_event <= until_censored).astype(np.int64),
    )


def _splits(event: Int[np.ndarray, " subject"], rng: np.random.Generator) -> list[str]:
    """Assign splits at random within those with and without an event: each has both."""
    splits = np.empty(len(event), dtype=object)
    for value in (0, 1):
        rows = rng.permutation(np.flatnonzero(event == value))
        start = 0
        for split, end in SPLIT_ENDS.items():
            stop = round(end * len(rows))
            splits[rows[start:stop]] = split
            start = stop
    return splits.tolist()
