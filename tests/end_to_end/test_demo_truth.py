"""The whole against a known truth.

Models come near what can be known, fusing pays where both tell something and costs little where
not.

Five cohorts are simulated at the demo's size, and five more whose records tell nothing. `make
test-slow` runs this, in minutes.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from concordant.config import read_study
from concordant.core.artifacts import RunFolder
from concordant.core.files import read_json
from concordant.core.survival import Predictions, read_predictions
from concordant.metrics import concordance_index
from concordant.simulate import SimulatedCohort, SimulationOptions, simulate
from concordant.study import run_study

SIZE = {"n_development": 1000, "n_external": 400}
SEEDS = range(5)
NEAR = 0.05
"""How far from its oracle a unimodal model may be, in Harrell's C."""

COST = 0.03
"""What a strategy may lose on average to the scan alone where the record tells nothing."""

NAIVE = "late(combine=mean)"
"""The mean of a good and a useless model: the one that has to lose."""

SCAN, RECORD = "unimodal(modality=ct)", "unimodal(modality=ehr)"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3 * 3600)]


@dataclass(frozen=True, slots=True)
class Demo:
    """What a run of the simulated study came to, on its held-out subjects.

    Attributes:
        concordance: Harrell's C by strategy, oracles among them.
        with_scan: Harrell's C of the model and of the oracle of scans, over those who have a scan.
        with_record: The same for records.
    """

    concordance: Mapping[str, float]
    with_scan: tuple[float, float]
    with_record: tuple[float, float]

    @property
    def fusions(self) -> Mapping[str, float]:
        """The strategies that use both modalities."""
        return {
            name: value
            for name, value in self.concordance.items()
            if not name.startswith(("unimodal", "oracle"))
        }


def run_demo(folder: Path, **signals: float) -> Demo:
    """Simulate a cohort, run the study that comes with it, and read its results."""
    options = SimulationOptions.model_validate({**SIZE, **signals})
    cohort = simulate(folder, options)
    try:
        run = run_study(read_study(cohort.study))
        rows = pl.read_parquet(run.results).filter(
            (pl.col("cohort") == "held_out") & (pl.col("metric") == "concordance_index")
        )
        return Demo(
            concordance=dict(rows.select("fusion", "value").rows()),
            with_scan=_model_and_oracle(run, cohort, "ct", SCAN),
            with_record=_model_and_oracle(run, cohort, "ehr", RECORD),
        )
    finally:
        shutil.rmtree(folder)


def _model_and_oracle(
    run: RunFolder, cohort: SimulatedCohort, modality: str, strategy: str
) -> tuple[float, float]:
    """Return Harrell's C of a unimodal model and of its oracle over the held-out subjects who
    have the modality.
    """
    (name,) = (
        member["folder"]
        for member in read_json(run.record)["strategies"]
        if member["fusion"] == strategy
    )
    model = read_predictions(run.strategy(name).predictions("held_out")).filter(
        pl.col("available").is_in(["both", modality])
    )
    oracle = read_predictions(cohort.oracle(modality)).table.select("sample_id", "risk")
    known = Predictions(
        model.table.drop("risk").join(oracle, on="sample_id", maintain_order="left")
    )
    return _concordance(model), _concordance(known)


def _concordance(predictions: Predictions) -> float:
    return concordance_index(
        predictions.target.time, predictions.target.event, predictions.risk
    ).estimate


# One test per cohort, so that each is simulated and fitted once, however many processes share the
# tests.


@pytest.mark.parametrize("seed", SEEDS)
def test_each_modality_comes_near_its_oracle_and_the_best_fusion_beats_both(tmp_path, seed):
    found = run_demo(tmp_path / "demo", seed=seed)
    best = max(found.fusions, key=found.fusions.__getitem__)
    joint = found.concordance["oracle(both)"]
    print(  # noqa: T201 # what the slow test is read for
        f"seed {seed}: {best} {found.fusions[best]:.3f}, {joint - found.fusions[best]:.3f} below "
        f"the joint oracle; {found}"
    )
    for model, oracle in (found.with_scan, found.with_record):
        assert model == pytest.approx(oracle, abs=NEAR)
    assert found.fusions[best] > max(found.concordance[SCAN], found.concordance[RECORD])


def test_a_record_that_tells_nothing_costs_little_but_for_the_naive_mean(tmp_path):
    demos = [
        run_demo(tmp_path / "demo", seed=seed, ehr_signal=0, shared_signal=0) for seed in SEEDS
    ]
    losses = {
        name: float(np.mean([one.fusions[name] - one.concordance[SCAN] for one in demos]))
        for name in demos[0].fusions
    }
    print({name: round(loss, 3) for name, loss in losses.items()})  # noqa: T201 - shown by -rP
    costly = {
        name: round(loss, 3) for name, loss in losses.items() if name != NAIVE and loss < -COST
    }
    assert costly == {}
    assert losses[NAIVE] < 0
