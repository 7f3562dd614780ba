"""The contract of every analysis, and what it takes to add a metric or an analysis: one file."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import yaml

from candidates_fixture import CT, EHR, candidates
from concordant.analysis import ANALYSES, Judged
from concordant.analysis.candidates import Candidate
from concordant.core.files import read_json
from concordant.evaluation import EvaluationProtocol
from study_fixture import FUSIONS, study_text, write_tables

PROTOCOL = EvaluationProtocol(
    metrics=("concordance_index", "brier_score"), horizons_days=(200.0,), test_train_ratio=0.5
)
STRATEGIES = [(CT, 0.6, 0.7), (EHR, 0.5, 0.6), ("late", 0.9, 0.72), ("concat", 1.0, 0.75)]


def models(**options):
    return candidates(STRATEGIES, **options)


def columns(table):
    return list(table.schema.items())


def declared(analysis):
    return list(pl.DataFrame(schema=analysis.schema).schema.items())


@pytest.mark.parametrize("name", list(ANALYSES))
def test_the_table_has_exactly_the_declared_columns(name):
    analysis = ANALYSES.create(name)
    judged = Judged({"as_is": models(folds=3), "recalibrated": models(folds=3)}, PROTOCOL)
    table = analysis.compute(judged)
    assert columns(table) == declared(analysis)
    assert table.height > 0
    empty = analysis.compute(Judged({"as_is": []}, PROTOCOL))
    assert columns(empty) == declared(analysis)
    assert empty.is_empty()


@pytest.mark.parametrize("name", list(ANALYSES))
def test_no_variant_is_read_that_is_not_declared_and_one_may_be_absent(name):
    analysis = ANALYSES.create(name)
    others = {"recalibrated": models()[1:], "without_ct": models()[:3]}
    declared = {variant: own for variant, own in others.items() if variant in analysis.variants}
    every = analysis.compute(Judged({"as_is": models(), **others}, PROTOCOL))
    assert every.equals(analysis.compute(Judged({"as_is": models(), **declared}, PROTOCOL)))
    alone = analysis.compute(Judged({"as_is": models()}, PROTOCOL))
    assert every.equals(alone) == (not declared)


@pytest.mark.parametrize("name", list(ANALYSES))
def test_what_cannot_be_computed_is_null_with_its_reason(name):
    eventless = [
        replace(
            one,
            predictions={
                cohort: replace(given, table=given.table.with_columns(event=pl.lit(0, pl.Int8)))
                for cohort, given in one.predictions.items()
            },
        )
        for one in models()
    ]
    table = ANALYSES.create(name).compute(Judged({"as_is": eventless}, PROTOCOL))
    if "value" in table.columns:
        lacking = table.filter(pl.col("value").is_null())
        assert lacking.height > 0
        assert lacking["note"].null_count() == 0


def test_seeds_stand_beside_their_mean_and_a_model_of_others_stands_alone():
    second = [
        replace(one, seed=1, predictions=other.predictions)
        for one, other in zip(models(), candidates(STRATEGIES[::-1])[::-1], strict=True)
    ]
    score = Candidate("score", None, None, None, None, models()[0].predictions, {})
    judged = Judged({"as_is": [*models(), *second, score]}, PROTOCOL)
    table = ANALYSES.create("results").compute(judged)
    own = table.filter(
        pl.col("fusion") == "late",
        pl.col("cohort") == "west",
        pl.col("metric") == "concordance_index",
    )
    assert own["seed"].to_list() == [0, 1, None]
    assert own["between_seeds"].to_list()[:2] == [None, None]
    assert own["between_seeds"][2] == pytest.approx(own["value"][:2].std())
    theirs = table.filter(pl.col("fusion") == "score", pl.col("cohort") == "west")
    assert theirs["seed"].to_list() == [None, None]


RUN = "from concordant.cli import main; main()"
METRIC = '''
from concordant.metrics import METRICS, Estimate, Metric
import numpy as np


@METRICS.register("mean_risk")
class MeanRisk(Metric):
    """The mean of the risk."""

    def compute(self, given):
        risk = given.predictions.risk
        return Estimate(
            estimate=float(risk.mean()),
            influence=(risk - risk.mean()) / len(risk),
            n=len(risk),
            n_events=given.outcomes.n_events,
            cluster=given.outcomes.cluster,
        )
'''
ANALYSIS = '''
import polars as pl
from concordant.analysis import ANALYSES, Analysis, Shown


@ANALYSES.register("head_count")
class HeadCount(Analysis):
    """How many samples each model predicts."""

    schema = {"fusion": pl.String, "cohort": pl.String, "n": pl.Int64}

    def compute(self, judged):
        rows = [
            {"fusion": model.fusion, "cohort": cohort, "n": one.table.height}
            for model in judged.models()
            for cohort, one in model.predictions.items()
        ]
        return pl.DataFrame(rows, schema=self.schema)

    def show(self, table):
        return Shown("Heads", "How many samples each model predicts.", table)
'''


HEAD = '''
import torch
from concordant.heads import HEADS, Head


@HEADS.register("exponential")
class Exponential(Head):
    """A constant baseline hazard."""

    def __init__(self, dim, views):
        super().__init__(dim, views)
        self.register_buffer("log_rate", torch.zeros((), dtype=torch.float64))

    def forward(self, views):
        return torch.cat([layer(views[:, k]) for k, layer in enumerate(self.layers)], 1)

    def loss(self, log_hazard, time, event, valid=None, *, order=None):
        there = torch.ones_like(event, dtype=torch.bool) if valid is None else valid
        hazard = torch.where(there, log_hazard.double(), 0.0)
        observed = ((event == 1) & there).double()
        total = (torch.exp(hazard) * time / time.mean() * there - observed * hazard).sum()
        return total / observed.sum().clamp(min=1)

    def fit_baseline(self, risk, time, event):
        self.log_rate.copy_(torch.log((event == 1).sum() / (torch.exp(risk) * time).sum()))

    def survival(self, risk, times):
        rate = torch.exp(risk.double() + self.log_rate)
        return torch.exp(-rate[:, None] * times.double()[None, :])
'''


def test_a_metric_an_analysis_and_a_head_are_one_file_and_one_import_each(tmp_path):
    folder = write_tables(tmp_path)
    plugins = {"my_metric": METRIC, "my_analysis": ANALYSIS, "my_head": HEAD}
    for name, text in plugins.items():
        (tmp_path / f"{name}.py").write_text(text)
    study = study_text(
        evaluate={"metrics": ["concordance_index", "mean_risk"]},
        grid={"fusion": FUSIONS[:2]},
        head="exponential",
    )
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    imports = [word for name in plugins for word in ("--import", name)]
    command = [sys.executable, "-c", RUN, "run", "study.yaml", *imports]
    path = ":".join([str(tmp_path), *sys.path])
    done = subprocess.run(  # our own command
        command, cwd=folder, env={"PYTHONPATH": path, "PATH": ""}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    run = folder / "runs" / "small"
    results = pl.read_parquet(run / "results.parquet").filter(pl.col("metric") == "mean_risk")
    assert results.height == 2 * 2  # models, cohorts
    assert results["value"].null_count() == results["standard_error"].null_count() == 0
    counted = pl.read_parquet(run / "head_count.parquet")
    assert sorted(counted["n"].to_list()) == [20, 20, 40, 40]
    assert "How many samples each model predicts." in (run / "report.html").read_text()
    assert {one["head"] for one in read_json(run / "run.json")["strategies"]} == {"exponential"}
    tables = {one.stem for one in Path(run).glob("*.parquet")}
    assert tables == {*ANALYSES, "head_count", "trials"}
