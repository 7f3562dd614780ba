"""Measures models that share shapes trained as one batched model, against loop and pool.

Usage: stacked.py [--device cpu|cuda] [--steps N] [--output FILE]; writes stacked.csv beside this
file.

Each way trains the same models, which differ in their seed, on the same samples, with one thread a
process: one after the other in one process (loop), in two processes (pool), or in two processes as
one model whose parameters have one more dimension (stacked; `torch.func`). Counted are time and
processor time of a training step per model, after two that warm up. A process stacks as many as
`MEMORY_GIB` holds: attention keeps some forty numbers per token and channel for its gradient.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from concordant.core.modality import Modality
from concordant.core.tokens import Pair, Tokens
from concordant.fusion import Phase
from concordant.model import InputDims, ModelSpec, TTEModel
from concordant.training.batches import Batch
from concordant.training.gradients import backward, survival_loss

COLUMNS = [
    "strategy",
    "n",
    "way",
    "at_once",
    "processes",
    "ms_per_member_step",
    "processor_ms_per_member_step",
    "device",
    "date",
    "python",
    "torch",
    "processor",
]
STRATEGIES = ("concat", "cross_attention")
SIZES = (300, 3000)
MEMBERS, WIDTH, DROPOUT, LEARNING_RATE, DECAY = 64, 64, 0.5, 1e-3, 1.0
TOKENS = {Modality.CT: (27, 512), Modality.EHR: (32, 768)}
PROCESSES = {"loop": 1, "pool": 2, "stacked": 2}
MEMORY_GIB = 2
KEPT = 40


@dataclass(frozen=True)
class Case:
    """A strategy at a number of samples."""

    strategy: str
    n: int
    device: str

    def batch(self) -> Batch:
        """Draw the samples."""
        rng = torch.Generator().manual_seed(0)
        ct, ehr = (self._tokens(rng, *TOKENS[modality]) for modality in Modality)
        time_days = torch.rand(self.n, generator=rng, dtype=torch.float64) * 1000 + 1
        event = torch.randint(0, 2, (self.n,), generator=rng)
        device = torch.device(self.device)
        return Batch(Pair(ct, ehr).to(device), time_days.to(device), event.to(device))

    def model(self, seed: int) -> TTEModel:
        """Build the member of a seed."""
        torch.manual_seed(seed)
        dims = {modality: InputDims("tokens", TOKENS[modality][1]) for modality in Modality}
        return TTEModel(ModelSpec(self.strategy, {}), dims, WIDTH, DROPOUT).to(self.device).train()

    @property
    def reads_tokens(self) -> bool:
        """Whether tokens are read."""
        return self.strategy != "concat"

    @property
    def at_once(self) -> int:
        """How many members fit into memory together."""
        tokens = sum(count for count, _ in TOKENS.values()) if self.reads_tokens else 1
        bytes_each = KEPT * 4 * self.n * tokens * WIDTH
        return max(1, min(MEMBERS, (MEMORY_GIB << 30) // bytes_each))

    def _tokens(self, rng: torch.Generator, count: int, dim: int) -> Tokens:
        values = torch.randn(self.n, count if self.reads_tokens else 1, dim, generator=rng)
        return Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool)).cleaned()


@dataclass(frozen=True)
class Measured:
    """Milliseconds of one member's step."""

    wall: float
    processor: float


def optimiser_of(parameters: list[Tensor], fixed: int) -> torch.optim.AdamW:
    """Decay matrices alone; `fixed` dimensions of a parameter are members."""
    groups = [
        {"params": [one for one in parameters if one.ndim > 1 + fixed], "weight_decay": DECAY},
        {"params": [one for one in parameters if one.ndim <= 1 + fixed], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE)


def loop_step(case: Case, batch: Batch, seed: int) -> Callable[[], None]:
    """Return a function that takes one step of one member."""
    model = case.model(seed)
    optimiser = optimiser_of(list(model.parameters()), 0)

    def step() -> None:
        optimiser.zero_grad()
        backward(model, batch, Phase(), None)
        optimiser.step()

    return step


def stacked_step(case: Case, batch: Batch, seeds: range) -> Callable[[], None]:
    """Return a function that takes one step of all members at once."""
    models = [case.model(seed) for seed in seeds]
    parameters, buffers = torch.func.stack_module_state(models)  # type: ignore[arg-type]
    optimiser = optimiser_of(list(parameters.values()), 1)

    def loss(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        output = torch.func.functional_call(models[0], (parameters, buffers), (batch.pair,))
        return survival_loss(models[0], output.log_hazard, output.view_valid, batch)

    together = torch.func.vmap(loss, randomness="different")

    def step() -> None:
        optimiser.zero_grad()
        together(parameters, buffers).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    return step


def timed(step: Callable[[], None], members: int, steps: int, device: str) -> Measured:
    """Measure a step per member."""
    for _ in range(2):
        step()
    wait(device)
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(steps):
        step()
    wait(device)
    scale = 1000 / (members * steps)
    return Measured((time.perf_counter() - wall) * scale, (time.process_time() - processor) * scale)


def wait(device: str) -> None:
    """Wait until a GPU has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def in_process(case: Case, way: str, steps: int) -> Measured:
    """Time one way on one thread, in this process."""
    torch.set_num_threads(1)
    batch = case.batch()
    if way == "stacked":
        step = stacked_step(case, batch, range(case.at_once))
        return timed(step, case.at_once, steps, case.device)
    return timed(loop_step(case, batch, 0), 1, steps * 4, case.device)


def measure(case: Case, way: str, steps: int) -> Measured:
    """Measure one way; two processes finish two members in the time that one of them takes."""
    with multiprocessing.get_context("spawn").Pool(PROCESSES[way]) as pool:
        found = pool.starmap(in_process, [(case, way, steps)] * PROCESSES[way])
    processor = sum(one.processor for one in found) / len(found)
    return Measured(max(one.wall for one in found) / len(found), processor)


def row(case: Case, way: str, steps: int) -> dict[str, Any]:
    """Measure one way, as a row of the table."""
    found = measure(case, way, steps)
    return {
        "strategy": case.strategy,
        "n": case.n,
        "way": way,
        "at_once": case.at_once if way == "stacked" else 1,
        "processes": PROCESSES[way],
        "ms_per_member_step": round(found.wall, 2),
        "processor_ms_per_member_step": round(found.processor, 2),
        "device": case.device,
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": platform.machine(),
    }


def main() -> None:
    """Measure every case and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".csv"))
    given = parser.parse_args()
    with given.output.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        for strategy in STRATEGIES:
            for n in SIZES:
                for way in PROCESSES:
                    found = row(Case(strategy, n, given.device), way, given.steps)
                    table.writerow(found)
                    file.flush()
                    print(*found.values())


if __name__ == "__main__":
    main()
