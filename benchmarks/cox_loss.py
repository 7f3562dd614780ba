"""Times the Cox loss, forward and backward, beside other libraries, on one thread.

Writes cox_loss.csv beside this file.

Usage: python benchmarks/cox_loss.py [--peers DIR] [--out FILE] [--overwrite]

`--peers` is a folder filled by `pip install --no-deps --target DIR torchsurv pycox torchtuples h5py
feather-format torchmetrics lightning-utilities`; a peer that is not there gets a row that says so.
A table that has times of a peer is kept (its rows are of one run, and the new times are printed
only), unless a peer was timed again or `--overwrite` is given. pycox knows no ties and is timed
without; "prepared" is the loss with its outcomes sorted once, as a head prepares them for all
epochs. Microseconds of the processor, the least of several.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import importlib
import importlib.metadata
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from concordant.heads.cox import cox_negative_log_likelihood, cox_order

COLUMNS = ["n", "ties", "package", "version", "microseconds", "note", "date", "python", "torch"]
SIZES = (100, 1_000, 10_000, 100_000)
SECONDS = 0.5  # spent on each time at least, and five calls


def cohort(n: int, ties: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Draw log-hazards, times (whole days of a year, or all different) and events (half)."""
    rng = torch.Generator().manual_seed(n)
    days = torch.rand(n, generator=rng, dtype=torch.float64) * 365 + 1
    event = torch.rand(n, generator=rng) < 0.5
    hazard = torch.randn(n, generator=rng, dtype=torch.float64).requires_grad_()
    return hazard, days.ceil() if ties else days, event


def ours(hazard: Tensor, days: Tensor, event: Tensor) -> Callable[[], Tensor]:
    """Return our loss, which sorts the outcomes at every call."""
    code = event.long()
    return lambda: cox_negative_log_likelihood(hazard, days, code)


def prepared(hazard: Tensor, days: Tensor, event: Tensor) -> Callable[[], Tensor]:
    """Return our loss with its outcomes sorted once."""
    code = event.long()
    order = cox_order(days, code)
    return lambda: cox_negative_log_likelihood(hazard, days, code, order=order)


def torchsurv(hazard: Tensor, days: Tensor, event: Tensor) -> Callable[[], Tensor]:
    """Return torchsurv's loss, with Efron's ties."""
    loss = importlib.import_module("torchsurv.loss.cox").neg_partial_log_likelihood
    return lambda: loss(hazard, event, days, ties_method="efron", reduction="sum")


def pycox(hazard: Tensor, days: Tensor, event: Tensor) -> Callable[[], Tensor]:
    """Return pycox's loss, which ignores ties."""
    loss, code = importlib.import_module("pycox.models.loss").cox_ph_loss, event.double()
    return lambda: loss(hazard, days, code)


LOSSES = {"concordant": ours, "concordant, prepared": prepared}
PEERS = {"torchsurv": torchsurv, "pycox": pycox}


def microseconds(loss: Callable[[], Tensor], hazard: Tensor) -> float:
    """Return the least processor time of a forward and a backward pass."""
    least, calls, end = float("inf"), 0, time.perf_counter() + SECONDS
    while calls < 5 or time.perf_counter() < end:
        hazard.grad = None
        start = time.process_time()
        loss().backward()
        least, calls = min(least, time.process_time() - start), calls + 1
    return least * 1e6


def rows(peers: Path | None) -> Iterator[dict[str, object]]:
    """Yield a row per size, ties and package."""
    losses = LOSSES | (PEERS if peers else {})
    for n in SIZES:
        for ties in (False, True):
            for package, make in losses.items():
                if not (ties and package == "pycox"):
                    yield row(n, ties, package, make)


def row(n: int, ties: bool, package: str, make: Callable[..., Callable[[], Tensor]]) -> dict:
    """Time one loss."""
    hazard, days, event = cohort(n, ties)
    found: float | str = ""
    version, note = "", ""
    try:
        version = importlib.metadata.version(package.partition(",")[0])
        found = round(microseconds(make(hazard, days, event), hazard))
    except ImportError as error:  # a package that is not there, or lacks one of its own
        note = f"not run: {error}"
    now = datetime.datetime.now(datetime.UTC).date().isoformat()
    values = (n, ties, package, version, found, note, now, platform.python_version())
    return dict(zip(COLUMNS, (*values, torch.__version__), strict=True))


def of_peers(table: list[dict]) -> bool:
    """Return whether a table has times of a peer."""
    return any(one["package"] in PEERS and one["microseconds"] for one in table)


def written(table: Path) -> list[dict]:
    """Return the rows of a table, none where there is no such file."""
    if not table.is_file():
        return []
    with table.open(newline="") as lines:
        return list(csv.DictReader(lines))


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Times the Cox loss beside other libraries.")
    parser.add_argument("--peers", type=Path, help="folder of torchsurv, pycox and what they need")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    parser.add_argument("--overwrite", action="store_true", help="replace times of peers")
    given = parser.parse_args()
    if given.peers and not given.peers.is_dir():
        parser.error(f"--peers: {given.peers} is no folder; fill one as the top of this file says")
    return given


def main() -> None:
    """Time all losses and write the table."""
    given = arguments()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # what peers say of their own dependencies
    if given.peers:
        sys.path.append(str(given.peers))
    found = []
    for one in rows(given.peers):
        print(one["n"], one["ties"], one["package"], one["microseconds"] or one["note"], flush=True)
        found.append(one)
    if of_peers(written(given.out)) and not (of_peers(found) or given.overwrite):
        print(f"{given.out} keeps its times of peers; --peers or --overwrite replaces it")
        return
    with given.out.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)


if __name__ == "__main__":
    main()
