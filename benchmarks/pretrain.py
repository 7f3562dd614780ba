"""Shows what pretraining is worth for survival on a real record (NAFLD, death after the index).

Writes pretrain.csv beside this file.

Matched sets are divided at random: 60 % train, 20 % tuning, 20 % held out. CLMBR and MOTOR of a
small size are pretrained on the whole records of train subjects (what came after the index, deaths
included, is theirs to learn from), with early stopping on those of tuning. Then each encodes every
record up to the index; a ridge Cox model on its pooled vector, alone and with age and sex beside
it, is fitted on train, its penalty chosen on tuning. Held-out risks are compared, subject by
subject, with those of the same network and vocabulary under random weights, three times drawn, and
with age and sex alone.

Usage: python benchmarks/pretrain.py --data ../shared/data
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import torch
from safetensors.torch import save_file

from concordant.data.meds import read_events
from concordant.encoders.base import ENCODERS
from concordant.encoders.clmbr import ClmbrNetwork, read_checkpoint
from concordant.estimator import FusionSurvivalAnalysis
from concordant.metrics import compare_concordance, concordance_index
from concordant.pretrain import PretrainOptions, pretrain

ROOT = Path(__file__).parents[1]
COLUMNS = [
    "features",
    "objective",
    "reference",
    "concordance",
    "reference_concordance",
    "difference",
    "standard_error",
    "ci_low",
    "ci_high",
]
DRAWS = 3


def make_cohort(data: Path, work: Path) -> tuple[Path, pl.DataFrame]:
    """Write the MEDS dataset and the cohort, and draw the splits by matched set."""
    run = [sys.executable, ROOT / "examples/nafld/prepare.py", "--data", data, "--out", work]
    subprocess.run(run, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - the project's own script
    meds, out = work / "meds", work / "cohort.parquet"
    command = [
        sys.executable,
        "-c",
        "from concordant.cli import main; main()",
        "cohort",
        work / "death.yaml",
        "--meds",
        meds,
        "--out",
        out,
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603 - and command
    cohort = pl.read_parquet(out)
    sets = cohort["matched_set"].unique().sort()
    drawn = np.random.default_rng(0).choice(
        ["train", "tuning", "held_out"], len(sets), p=[0.6, 0.2, 0.2]
    )
    cohort = cohort.join(
        pl.DataFrame({"matched_set": sets, "split": drawn}), on="matched_set", maintain_order="left"
    )
    cohort.write_parquet(work / "splits.parquet")
    return meds, cohort


def demographics(meds: Path, cohort: pl.DataFrame) -> np.ndarray:
    """Return age at the index in years, and sex."""
    records = read_events(meds, cohort)
    ages = []
    for sample in cohort["sample_id"]:
        record = records.events(sample)
        ages.append(
            max(
                days
                for days, code in zip(record.days_before, record.code, strict=True)
                if code == "MEDS_BIRTH"
            )
            / 365.25
        )
    return np.stack([np.array(ages), (cohort["gender"] == "male").cast(pl.Float64).to_numpy()], 1)


def pooled(weights: Path, objective: str, meds: Path, cohort: pl.DataFrame) -> np.ndarray:
    """Return the pooled vector of every record up to its index."""
    records = read_events(meds, cohort, text=True)
    encoder = ENCODERS.create(objective, weights=str(weights), max_tokens=1)
    return np.stack([one.pooled for one in encoder.encode(records.packed(0, len(records)))])


def with_random_weights(trained: Path, seed: int) -> Path:
    """Return a copy of a checkpoint whose network is drawn instead of trained."""
    folder = trained.with_name(f"{trained.name}-random-{seed}")
    shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("resume"))
    torch.manual_seed(1000 + seed)
    network = ClmbrNetwork(read_checkpoint(trained).config.transformer)
    save_file(
        {f"transformer.{name}": value for name, value in network.state_dict().items()},
        folder / "model.safetensors",
    )
    return folder


def held_out_risk(features: np.ndarray, cohort: pl.DataFrame) -> np.ndarray:
    """Fit a ridge Cox model on train, its penalty chosen on tuning, and return the risks of
    held-out subjects.
    """
    time_days, event = cohort["time_days"].to_numpy(), cohort["event"].to_numpy()
    train, tuning, held_out = (
        (cohort["split"] == name).to_numpy() for name in ("train", "tuning", "held_out")
    )
    model = FusionSurvivalAnalysis({"name": "linear", "modality": "ehr"})
    model.fit(
        None,
        features[train],
        time_days[train],
        event[train],
        tuning=(None, features[tuning], time_days[tuning], event[tuning]),
    )
    return model.predict(None, features[held_out])


def compared(
    named: tuple[str, str, str], risk: np.ndarray, reference: np.ndarray, held_out: pl.DataFrame
) -> dict[str, object]:
    """Return a row: Harrell's C of both, and the paired difference with its interval of 95 %."""
    time_days, event = held_out["time_days"].to_numpy(), held_out["event"].to_numpy()
    difference = compare_concordance(time_days, event, risk, reference)
    own, other = (concordance_index(time_days, event, one).estimate for one in (risk, reference))
    interval = difference.interval()
    values = [
        own,
        other,
        difference.difference,
        difference.standard_error,
        interval.low,
        interval.high,
    ]
    row = dict(zip(COLUMNS, [*named, *(round(float(value), 4) for value in values)], strict=True))
    print(row, flush=True)
    return row


def study(
    objective: str,
    meds: Path,
    cohort: pl.DataFrame,
    about: np.ndarray,
    options: dict[str, int],
    work: Path,
) -> list[dict[str, object]]:
    """Pretrain, encode, fit and compare."""
    start = time.perf_counter()
    out = work / objective
    done = pretrain(
        meds,
        out,
        PretrainOptions(objective=objective, min_subjects=20, patience=3, **options),
        splits=work / "splits.parquet",
    )
    print(
        f"{objective}: {done.n_tokens} tokens, {done.epochs} epochs, {done.tuning_loss:.4f} nats, "
        f"{time.perf_counter() - start:.0f} s",
        flush=True,
    )
    trained = pooled(out, objective, meds, cohort)
    drawn = [
        pooled(with_random_weights(out, seed), objective, meds, cohort) for seed in range(DRAWS)
    ]
    held_out = cohort.filter(pl.col("split") == "held_out")
    rows = []
    for name, beside in (("pooled", np.zeros((len(cohort), 0))), ("pooled, age and sex", about)):
        risk = held_out_risk(np.hstack([trained, beside]), cohort)
        for seed, random in enumerate(drawn):
            reference = held_out_risk(np.hstack([random, beside]), cohort)
            rows.append(
                compared((name, objective, f"random weights {seed}"), risk, reference, held_out)
            )
        rows.append(
            compared((name, objective, "age and sex"), risk, held_out_risk(about, cohort), held_out)
        )
    return rows


def main() -> None:
    """Run and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(os.environ.get("CONCORDANT_DATA", ROOT.parent / "shared" / "data")),
    )
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--max-epochs", type=int, default=12)
    given = parser.parse_args()
    if not given.data.is_dir():
        print(f"left out: no folder {given.data}; give --data, or set CONCORDANT_DATA")
        return
    torch.set_num_threads(1)
    options = {name: getattr(given, name) for name in ("hidden", "layers", "heads", "max_epochs")}
    with tempfile.TemporaryDirectory(prefix="concordant-pretrain-") as name:
        work = Path(name)
        meds, cohort = make_cohort(given.data.resolve(), work)
        about = demographics(meds, cohort)
        rows = [
            row
            for objective in ("clmbr", "motor")
            for row in study(objective, meds, cohort, about, options, work)
        ]
        held_out = cohort.filter(pl.col("split") == "held_out")
    facts = {
        "n": len(held_out),
        "n_events": int((held_out["event"] == 1).sum()),
        **options,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
        "processor": f"{platform.machine()}, {os.cpu_count()} processors",
    }
    with Path(__file__).with_suffix(".csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [*COLUMNS, *facts])
        writer.writeheader()
        writer.writerows(row | facts for row in rows)


if __name__ == "__main__":
    main()
