"""Measures how busy extraction keeps the encoder, and the processors.

Writes extraction.csv beside this file.

Scans of 192 x 192 x 96 voxels (`.nii.gz`) are embedded by two reading processes, once with a
network that costs more than reading (its forward pass is repeated) and once with one that costs
less. A first shard of 8 scans is not counted. `encoder_busy` is the time in the network over the
whole time; `processors_busy` the processor time of all processes over the time of two processors.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from safetensors.torch import save_file

from concordant.core.embedding import TokenEmbedding
from concordant.data.volumes import open_volume
from concordant.embeddings.encoding import ShardTask
from concordant.embeddings.scans import encode_scans
from concordant.encoders.network import Prepared
from concordant.encoders.tiny_ct import TinyCT, TinyCTNetwork, TinyCTSizes

COLUMNS = [
    "case",
    "scans",
    "reading_processes",
    "seconds",
    "scans_per_second",
    "encode_ms",
    "read_ms",
    "encoder_busy",
    "processors_busy",
    "date",
    "python",
    "torch",
    "processor",
]
N = 48
SHAPE = (192, 192, 96)
PROCESSES = 2


class Timed(TinyCT):
    """The small network, its forward pass repeated, with the time it takes."""

    def __init__(self, weights: Path, repeats: int) -> None:
        super().__init__(weights=weights, device="cpu", batch_size=4)
        self.repeats = repeats
        self.seconds = 0.0

    def encode_prepared(self, prepared: Sequence[Prepared]) -> list[TokenEmbedding]:
        """Encode as often as was asked for."""
        start = time.perf_counter()
        for _ in range(self.repeats):
            encoded = super().encode_prepared(prepared)
        self.seconds += time.perf_counter() - start
        return encoded


def write_scans(folder: Path) -> list[Path]:
    """Write scans with noise, whose inflating costs what that of a real one does."""
    generator = np.random.default_rng(0)
    paths = [folder / f"{number:03d}.nii.gz" for number in range(N)]
    for path in paths:
        voxels = generator.normal(-200, 300, SHAPE).astype(np.int16)
        nib.save(nib.Nifti1Image(voxels, np.diag([1.0, 1.0, 1.5, 1.0])), path)
    return paths


def processor_seconds() -> float:
    """Return the processor time of this process and of the reading processes that it has now."""
    children = [
        child
        for file in Path("/proc/self/task").glob("*/children")
        for child in file.read_text().split()
    ]
    stats = [
        Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        for child in ("self", *children)
    ]
    return sum(int(fields[11]) + int(fields[12]) for fields in stats) / os.sysconf(
        "SC_CLK_TCK"
    )  # utime and stime, proc(5)


def shard_of(paths: list[Path]) -> ShardTask:
    """Return a shard of scans that no other store holds."""
    nothing = [None] * len(paths)
    return ShardTask(Path(), 0, tuple(map(str, paths)), paths, nothing, nothing)


def measure(case: str, encoder: Timed, paths: list[Path], read_ms: float) -> dict[str, object]:
    """Embed all scans and return a row."""
    tasks = [shard_of(paths[:8]), shard_of(paths[8:])]
    shards = encode_scans(encoder, tasks, PROCESSES, lambda n: None)
    next(shards)  # processes start, the network is loaded
    encoder.seconds, before, start = 0.0, processor_seconds(), time.perf_counter()
    next(shards)
    seconds, used = time.perf_counter() - start, processor_seconds() - before
    shards.close()
    return {
        "case": case,
        "scans": len(paths) - 8,
        "reading_processes": PROCESSES,
        "seconds": round(seconds, 2),
        "scans_per_second": round((len(paths) - 8) / seconds, 1),
        "encode_ms": round(1000 * encoder.seconds / (len(paths) - 8), 1),
        "read_ms": round(read_ms, 1),
        "encoder_busy": round(encoder.seconds / seconds, 3),
        "processors_busy": round(used / seconds / 2, 2),
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
    }


def main() -> None:
    """Measure both cases and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_scans(folder)
        weights = folder / "weights"
        weights.mkdir()
        torch.manual_seed(0)
        save_file(TinyCTNetwork(TinyCTSizes()).state_dict(), weights / "model.safetensors")
        once = Timed(weights, 1)
        once.prepare(open_volume(paths[0]))  # kernels are compiled, or loaded
        start = time.perf_counter()
        prepared = [once.prepare(open_volume(path)) for path in paths[:4]]
        read_ms = 1000 * (time.perf_counter() - start) / 4
        once.encode_prepared(prepared)
        once.seconds = 0.0
        once.encode_prepared(prepared)
        dear = max(1, round(2 * read_ms / (1000 * once.seconds / 4)))
        rows = [
            measure("the network costs more than reading", Timed(weights, dear), paths, read_ms),
            measure("reading costs more than the network", Timed(weights, 1), paths * 4, read_ms),
        ]
    with (Path(__file__).parent / "extraction.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(row)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
