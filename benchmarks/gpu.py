"""Checks all that needs a GPU in one run of under eight minutes, and small on a CPU.

Usage: gpu.py [--small] [--only NAME ...] [--budget-s SECONDS] [--output FILE]. Run it on a machine
with an NVIDIA GPU; without one it takes small networks (`--small`), which tells whether the script
itself and the code that it drives still work.

* `colipri`, `ctfm`, `merlin`, `clmbr`, `motor`: the encoder at its full size, random weights in its
  released format. Fails where bfloat16 and float32 pooled vectors differ by more than
  `BF16_TOLERANCE`. Told are scans or events per second and the share of the roofline: floating
  point operations per second over those of a large matrix product in the same run.
* `fit`: `fit_many` on the GPU and on the CPU give the same risks, within `RISK_TOLERANCE` of their
  standard deviation. Without a GPU the other fit holds a part of the samples at a time instead.
* `stacked`: members trained as one batched model end with the risks of the loop, in the same way.
* `halved`: a batch that does not fit into memory is halved until it does. `quarantined`: a scan
  that does not fit alone is quarantined. On a GPU the memory is capped; on a CPU the
  network raises.

Prints a line per check, ends with code 1 where one failed, and with a GPU writes gpu.csv.
"""

from __future__ import annotations

import argparse
import csv
import gc
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import nibabel as nib
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import clmbr_fixture  # noqa: E402 - after the path to it
import ct_weights_fixture as ct_weights  # noqa: E402
import training_fixture  # noqa: E402
from concordant.core.events import Events  # noqa: E402
from concordant.embeddings.encoding import ShardTask  # noqa: E402
from concordant.embeddings.scans import TOO_LARGE, encode_scans  # noqa: E402
from concordant.embeddings.shards import Encoded  # noqa: E402
from concordant.encoders.clmbr.batching import padded  # noqa: E402
from concordant.encoders.clmbr.checkpoint import load_clmbr  # noqa: E402
from concordant.encoders.clmbr.encoder import Clmbr, RecordTransformer  # noqa: E402
from concordant.encoders.clmbr.tokenizer import TokenSequence  # noqa: E402
from concordant.encoders.colipri import Colipri, ColipriSizes  # noqa: E402
from concordant.encoders.ctfm import CTFM, CTFMSizes  # noqa: E402
from concordant.encoders.merlin import Merlin, MerlinSizes  # noqa: E402
from concordant.encoders.motor import Motor  # noqa: E402
from concordant.encoders.network import Prepared, VolumeNetwork  # noqa: E402
from concordant.model import ModelSpec, TTEModel  # noqa: E402
from concordant.training.batches import Batch  # noqa: E402
from concordant.training.fit import FitFailed, FitRequest, fit_many  # noqa: E402
from concordant.training.gradients import survival_loss  # noqa: E402

BF16_TOLERANCE = 0.05  # length of the difference over length of the float32 vector
RISK_TOLERANCE = 0.02  # greatest difference over the risks' standard deviation
COLUMNS = ["check", "outcome", "figures", "seconds", "device", "torch", "cuda", "python", "date"]
VOCABULARY = 65_536


@dataclass(frozen=True)
class Setting:
    """Where and how large.

    Attributes:
        device: "cuda" or "cpu".
        small: Whether networks and cohorts are small.
        folder: For weights and scans.
        peak: Floating point operations per second of a large matrix product.
    """

    device: str
    small: bool
    folder: Path
    peak: float


@dataclass(frozen=True)
class Outcome:
    """What a check found."""

    passed: bool
    figures: str


def wait(device: str) -> None:
    """Wait until a GPU has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_of(call: Callable[[], object], device: str, repeats: int) -> float:
    """Return the mean seconds of a call, after one that warms up."""
    call()
    wait(device)
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    wait(device)
    return (time.perf_counter() - start) / repeats


def measured_peak(device: str) -> float:
    """Return the operations per second of a large product, in the precision encoders run in."""
    side, dtype = (8192, torch.bfloat16) if device == "cuda" else (512, torch.float32)
    matrix = torch.randn(side, side, device=device, dtype=dtype)
    return 2 * side**3 / seconds_of(lambda: matrix @ matrix, device, 20)


def operations_of(call: Callable[[], object]) -> int:
    """Count the floating point operations of products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def difference(found: Tensor, expected: Tensor) -> float:
    """Return the greatest relative difference of vectors, (row, dim); NaN where one is not
    finite.
    """
    found, expected = found.double().cpu(), expected.double().cpu()
    return float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max())


def judged(apart: float, rate: str, operations: int, seconds: float, setting: Setting) -> Outcome:
    """Judge an encoder by how far bfloat16 is from float32; NaN fails."""
    share = operations / seconds / setting.peak
    figures = (
        f"{rate}, {operations / seconds / 1e12:.3g} TFLOP/s, {share:.1%} of "
        f"{setting.peak / 1e12:.3g}, bf16 from float32 {apart:.2e} (at most {BF16_TOLERANCE})"
    )
    return Outcome(apart <= BF16_TOLERANCE, figures)


# --- encoders of scans


@dataclass(frozen=True)
class ScanCase:
    """An encoder of scans: its class, who writes its weights, and its sizes, small and full."""

    kind: type[VolumeNetwork]
    write: Callable[..., Path]
    small: Any
    full: Any
    batch: int

    def sizes(self, setting: Setting) -> Any:
        """Return the sizes of the setting."""
        return self.small if setting.small else self.full

    def weights(self, setting: Setting, name: str) -> Path:
        """Write the weights."""
        return self.write(setting.folder / name, sizes=self.sizes(setting))


SCAN_CASES = {
    "colipri": ScanCase(
        Colipri, ct_weights.write_colipri, ct_weights.COLIPRI, ColipriSizes(), batch=4
    ),
    "ctfm": ScanCase(CTFM, ct_weights.write_ctfm, ct_weights.CTFM, CTFMSizes(), batch=1),
    "merlin": ScanCase(Merlin, ct_weights.write_merlin, ct_weights.MERLIN, MerlinSizes(), batch=2),
}


def inputs_of(encoder: VolumeNetwork, n: int) -> list[Prepared]:
    """Draw prepared scans of the network's own size: smooth, so that pooling does not average all
    of them to the same vector, and within the values it is trained on.
    """
    generator, (low, high) = torch.Generator().manual_seed(0), encoder.steps.target
    size = encoder.sizes.input_size
    shape = (size,) * 3 if isinstance(size, int) else tuple(size)
    coarse = torch.rand(n, 1, 6, 6, 6, generator=generator)
    fine = nn.functional.interpolate(coarse, shape, mode="trilinear")[:, 0]
    return [Prepared((low + (high - low) * scan).contiguous().numpy()) for scan in fine]


def check_scans(name: str, setting: Setting) -> Outcome:
    """Check an encoder of scans."""
    case = SCAN_CASES[name]
    options: dict[str, Any] = {"weights": case.weights(setting, name), "batch_size": case.batch}
    encoder = case.kind(**options, device=setting.device)
    prepared = inputs_of(encoder, case.batch)
    batch = torch.from_numpy(np.stack([one.voxels for one in prepared])).to(setting.device)
    network = case.kind.load(encoder.folder, encoder.sizes).eval().to(setting.device)
    exact, operations = scans_in(encoder, network, batch, torch.float32)
    if setting.device == "cpu":
        rounded, _ = scans_in(encoder, network, batch, torch.bfloat16)
    del network
    call = partial(encoder.encode_prepared, prepared)
    if setting.device == "cuda":  # as a study runs it
        rounded = torch.from_numpy(
            np.stack([one.pooled for one in call() if one.pooled is not None])
        )
    seconds = seconds_of(call, setting.device, 1 if setting.small else 5)
    rate = f"{case.batch / seconds:.3g} scans/s"
    return judged(difference(rounded, exact), rate, operations, seconds, setting)


def scans_in(
    encoder: VolumeNetwork, network: nn.Module, batch: Tensor, dtype: torch.dtype
) -> tuple[Tensor, int]:
    """Return pooled vectors computed in a precision, and the operations that it took."""
    found: list[Tensor] = []
    with torch.no_grad(), precision(batch.device.type, dtype):
        operations = operations_of(lambda: found.append(encoder.features(network, batch).pooled))
    return found[0].float(), operations


@contextmanager
def precision(device: str, dtype: torch.dtype) -> Iterator[None]:
    """Compute in bfloat16 where it is safe, or in float32 without shortcuts."""
    kept = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.autocast(device, torch.bfloat16, enabled=dtype == torch.bfloat16):
            yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = kept


# --- encoders of records

FULL_RECORDS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "n_heads": 12,
    "n_layers": 12,
    "attention_width": 496,
}
RECORD_CASES: dict[str, tuple[type[RecordTransformer], dict[str, Any]]] = {
    "clmbr": (Clmbr, {}),
    "motor": (
        Motor,
        {"task": "motor", "hidden_act": "swiglu", "use_bias": False, "use_normed_ages": True},
    ),
}


def record_weights(name: str, setting: Setting) -> Path:
    """Write the weights, with a vocabulary of the full size where the network has it."""
    n_codes, sizes = (64, {}) if setting.small else (VOCABULARY, FULL_RECORDS)
    birth: dict[str, Any] = {"type": "code", "code_string": "MEDS_BIRTH", "weight": -1.0}
    entries = [birth, *({**birth, "code_string": f"C//{code}"} for code in range(1, n_codes))]
    extra = RECORD_CASES[name][1]
    return Path(clmbr_fixture.write_clmbr(setting.folder / name, entries=entries, **extra, **sizes))


def drawn_records(n: int, length: int, n_codes: int) -> list[Events]:
    """Draw records of random codes over eleven years, each after a birth."""
    generator, records = np.random.default_rng(0), []
    for _ in range(n):
        days = np.sort(generator.uniform(0, 4000, length - 1))[::-1]
        codes = (f"C//{code}" for code in generator.integers(1, n_codes, length - 1))
        values = np.full(length, np.nan)
        records.append(Events(np.concatenate([[15_000.0], days]), ("MEDS_BIRTH", *codes), values))
    return records


def check_records(name: str, setting: Setting) -> Outcome:
    """Check an encoder of records."""
    encoder = RECORD_CASES[name][0](
        weights=record_weights(name, setting), device="cuda" if setting.device == "cuda" else "cpu"
    )
    n, length, n_codes = (4, 40, 64) if setting.small else (64, 1024, VOCABULARY)
    records = drawn_records(n, length, n_codes)
    sequences = tokens_of(encoder, records)
    network = load_clmbr(encoder.folder.folder).eval().to(setting.device)
    exact, operations = states_in(network, sequences[:4], torch.float32, setting.device)
    if setting.device == "cpu":
        rounded, _ = states_in(network, sequences[:4], torch.bfloat16, setting.device)
    else:  # as a study runs it
        rounded = torch.from_numpy(np.stack([one[-1] for one in encoder.states(sequences[:4])]))
    del network
    seconds = seconds_of(partial(encoder.states, sequences), setting.device, 3)
    rate = f"{sum(map(len, sequences)) / seconds:.4g} events/s"
    operations = operations * len(sequences) // 4  # records of one length cost the same
    return judged(difference(rounded, exact), rate, operations, seconds, setting)


def tokens_of(encoder: RecordTransformer, records: Sequence[Events]) -> list[TokenSequence]:
    """Tokenise records with the vocabulary beside the weights."""
    from concordant.encoders.clmbr.config import DICTIONARY
    from concordant.encoders.clmbr.tokenizer import tokenize
    from concordant.encoders.clmbr.vocabulary import Flat, read_dictionary

    vocabulary = Flat(read_dictionary(encoder.folder.path(DICTIONARY)))
    return [tokenize(record, vocabulary) for record in records]


def states_in(
    network: nn.Module, sequences: Sequence[TokenSequence], dtype: torch.dtype, device: str
) -> tuple[Tensor, int]:
    """Return the last hidden states computed in a precision, and the operations that it took."""
    batch, found = padded(sequences, bags=False).to(device), list[Tensor]()
    with torch.no_grad(), precision(device, dtype):
        operations = operations_of(
            lambda: found.append(network(batch.tokens, batch.age_days, batch.valid))
        )
    last = [states[len(one) - 1] for states, one in zip(found[0], sequences, strict=True)]
    return torch.stack(last).float(), operations


# --- fits


def apart_in_sd(found: Any, expected: Any) -> float:
    """Return the greatest difference of risks in standard deviations; NaN is kept."""
    found, expected = np.asarray(found), np.asarray(expected)
    return float(np.abs(found - expected).max() / expected.std())


def check_fit(setting: Setting) -> Outcome:
    """Compare fits on the GPU with the same on the CPU; dropout, whose draws differ, is off."""
    n = 150 if setting.small else 3000
    samples = training_fixture.make_samples(2 * n, ehr="tokens", pooled=True)
    train, tuning = training_fixture.split(samples, n, n)
    data = training_fixture.prepared(train=train, tuning=tuning)
    # contrastive fusion aligns within chunks, so in chunks its fit is meant to be another
    names: tuple[str, ...] = ("concat", "cross_attention")
    chunk: dict[str, Any] = {"chunk_size": n // 4}
    if setting.device == "cuda":
        names, chunk = (*names, "contrastive"), {}
    ways: tuple[dict[str, Any], ...] = ({"device": "cpu"}, {"device": setting.device, **chunk})
    seconds, risks = [], []
    for way in ways:
        options = training_fixture.quick(dropout=0.0, **way)
        requests = [
            FitRequest(ModelSpec(name, {}), options, seed) for name in names for seed in (0, 1)
        ]
        start = time.perf_counter()
        fits = fit_many(data, requests)
        seconds.append(time.perf_counter() - start)
        failed = [one for one in fits if isinstance(one, FitFailed)]
        if failed:
            return Outcome(False, f"{way}: {failed[0].reason}")
        risks.append([one.predict_part(data, "tuning").risk for one in fits])  # type: ignore[union-attr]
    worst = max(apart_in_sd(*both) for both in zip(*risks, strict=True))
    figures = (
        f"{len(risks[0])} fits of {n}, risks apart {worst:.2e} SD (at most {RISK_TOLERANCE}), "
        f"cpu {seconds[0]:.2f} s, {ways[1]} {seconds[1]:.2f} s"
    )
    return Outcome(worst <= RISK_TOLERANCE, figures)


def check_stacked(setting: Setting) -> Outcome:
    """Compare members trained as one batched model with the same trained one by one."""
    from stacked import Case

    n, members, steps = (60, 3, 3) if setting.small else (1000, 16, 10)
    case = Case("cross_attention", n, setting.device)
    batch = case.batch()
    start = time.perf_counter()
    alone = [trained_alone(case.model(seed).eval(), batch, steps) for seed in range(members)]
    wait(setting.device)
    middle = time.perf_counter()
    together = trained_together([case.model(seed).eval() for seed in range(members)], batch, steps)
    wait(setting.device)
    end = time.perf_counter()
    found = zip(together.cpu().numpy(), (one.cpu().numpy() for one in alone), strict=True)
    worst = max(apart_in_sd(*both) for both in found)
    scale = 1000 / (members * steps)
    figures = (
        f"{members} members, {n} samples, risks apart {worst:.2e} SD (at most {RISK_TOLERANCE}), "
        f"loop {(middle - start) * scale:.2f} ms a step, stacked {(end - middle) * scale:.2f}"
    )
    return Outcome(worst <= RISK_TOLERANCE, figures)


def trained_alone(model: TTEModel, batch: Batch, steps: int) -> Tensor:
    """Take steps of plain descent; Adam would turn rounding of tiny gradients into whole steps."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimiser.zero_grad()
        output = model(batch.pair)
        loss = survival_loss(model, output.log_hazard, output.view_valid, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    with torch.no_grad():
        return torch.as_tensor(model(batch.pair).log_hazard).flatten()


def trained_together(models: list[TTEModel], batch: Batch, steps: int) -> Tensor:
    """Take the same steps with all members at once; return log hazards, (member, sample)."""
    parameters, buffers = torch.func.stack_module_state(models)  # type: ignore[arg-type]
    optimiser = torch.optim.SGD(list(parameters.values()), lr=0.1)

    def output(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Any:
        return torch.func.functional_call(models[0], (parameters, buffers), (batch.pair,))

    def loss(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        made = output(parameters, buffers)
        return survival_loss(models[0], made.log_hazard, made.view_valid, batch)

    def hazards(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        return torch.as_tensor(output(parameters, buffers).log_hazard)

    for _ in range(steps):
        optimiser.zero_grad()
        torch.func.vmap(loss)(parameters, buffers).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    with torch.no_grad():
        return torch.func.vmap(hazards)(parameters, buffers).flatten(1)


# --- memory

MANY = 8


class Watched(Colipri):
    """COLIPRI that notes the size of each batch and, on a CPU, has room for so many scans."""

    room: ClassVar[float] = float("inf")
    attempts: ClassVar[list[int]] = []

    def features(self, network: nn.Module, batch: Tensor) -> Any:
        """Run the network, or be out of memory."""
        self.attempts.append(len(batch))
        if self.device == "cpu" and len(batch) > self.room:
            raise torch.OutOfMemoryError("injected: the batch is larger than the room")
        return super().features(network, batch)


@contextmanager
def room_for(scans: float, encoder: Watched, prepared: Sequence[Prepared]) -> Iterator[None]:
    """Leave memory for so many scans at a time, at most `MANY`: half of it for half a scan."""
    fit = partial(encoder.encode_prepared, prepared)
    fit()  # the network is loaded, and stays
    encoder.attempts.clear()
    if encoder.device == "cpu":
        Watched.room = scans
    else:
        cap_memory(scans, fit)
    try:
        yield
    finally:
        Watched.room = float("inf")
        if encoder.device == "cuda":
            torch.cuda.set_per_process_memory_fraction(1.0)


def cap_memory(scans: float, fit: Callable[[], object]) -> None:
    """Cap the memory of this process at what it holds now and a share of what all scans take."""
    gc.collect()
    torch.cuda.empty_cache()
    held = torch.cuda.memory_reserved()
    torch.cuda.reset_peak_memory_stats()
    fit()
    most = torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((held + most * scans / MANY) / total)


def out_of_memory(scans: float, setting: Setting) -> tuple[list[Encoded], list[Encoded], list[int]]:
    """Encode scans with enough memory and with too little.

    Returns what became of them, and the sizes of the batches that were tried with too little.
    """
    weights = SCAN_CASES["colipri"].weights(setting, "memory")
    encoder = Watched(weights=weights, device=setting.device, batch_size=MANY)  # type: ignore[arg-type]
    paths = written_scans(setting.folder / "scans", MANY)
    plenty = encoded(encoder, paths)
    prepared = inputs_of(encoder, MANY)
    with room_for(scans, encoder, prepared):
        encoder.attempts.clear()
        little = encoded(encoder, paths)
    return plenty, little, list(encoder.attempts)


def written_scans(folder: Path, n: int) -> list[Path]:
    """Write small scans of noise, each around another value in Hounsfield units."""
    folder.mkdir(exist_ok=True)
    generator, paths = np.random.default_rng(0), []
    for number in range(n):
        voxels = generator.normal(-600 + 120 * number, 50, (20, 20, 20)).astype(np.int16)
        paths.append(folder / f"{number}.nii")
        nib.save(nib.Nifti1Image(voxels, np.diag([15.0, 15.0, 15.0, 1.0])), paths[-1])  # type: ignore[no-untyped-call,attr-defined]
    return paths


def encoded(encoder: Watched, paths: Sequence[Path]) -> list[Encoded]:
    """Encode scans as a study does."""
    names, nothing = tuple(map(str, range(len(paths)))), [None] * len(paths)
    task = ShardTask(Path(), 0, names, paths, nothing, nothing)
    ((_, shard),) = encode_scans(encoder, [task], 0, lambda n: None)
    reasons = shard.quarantine or nothing
    return [Encoded(*both) for both in zip(shard.embeddings, reasons, strict=True)]  # type: ignore[arg-type]


def check_halved(setting: Setting) -> Outcome:
    """A batch that does not fit is halved; the embeddings are those of the whole batch."""
    plenty, little, attempts = out_of_memory(0.7 * MANY, setting)
    kept = [one.embedding for one in little]
    if any(one is None for one in kept):
        return Outcome(False, f"batches {attempts}, {kept.count(None)} of {MANY} quarantined")
    found, expected = (
        torch.from_numpy(np.stack([one.embedding.pooled for one in made]))  # type: ignore[union-attr]
        for made in (little, plenty)
    )
    apart = difference(found, expected)
    passed = attempts[0] == MANY and max(attempts[1:], default=MANY) < MANY
    figures = f"batches {attempts}, pooled apart {apart:.2e} (at most {BF16_TOLERANCE})"
    return Outcome(passed and apart <= BF16_TOLERANCE, figures)


def check_quarantined(setting: Setting) -> Outcome:
    """Scans that do not fit alone are quarantined with the reason."""
    _, little, attempts = out_of_memory(0.3, setting)
    n = sum(one.quarantine == TOO_LARGE for one in little)
    figures = f"batches {attempts}, {n} of {MANY} quarantined: {TOO_LARGE}"
    return Outcome(n == MANY and attempts.count(1) == MANY, figures)


CHECKS: dict[str, Callable[[Setting], Outcome]] = {
    "halved": check_halved,
    "quarantined": check_quarantined,
    "fit": check_fit,
    "stacked": check_stacked,
    **{name: partial(check_records, name) for name in RECORD_CASES},
    **{name: partial(check_scans, name) for name in SCAN_CASES},
}


def attempt(name: str, setting: Setting) -> Outcome:
    """Run a check; one that raises has failed, and the others go on."""
    try:
        return CHECKS[name](setting)
    except Exception as error:
        traceback.print_exc()
        return Outcome(False, f"{type(error).__name__}: {error}".splitlines()[0])
    finally:
        gc.collect()
        if setting.device == "cuda":
            torch.cuda.empty_cache()


def run(names: Sequence[str], setting: Setting, budget_s: float) -> list[dict[str, Any]]:
    """Run checks in order until the budget is spent; return the rows of those that ran."""
    start, rows = time.perf_counter(), []
    for number, name in enumerate(names):
        began = time.perf_counter()
        if began - start >= budget_s:
            print(f"skipped for want of time ({budget_s:g} s): {', '.join(names[number:])}")
            break
        found = attempt(name, setting)
        word = "passed" if found.passed else "failed"
        print(f"{name}: {word}, {found.figures}", flush=True)
        taken = round(time.perf_counter() - began, 1)
        rows.append({"check": name, "outcome": word, "figures": found.figures, "seconds": taken})
    return rows


def write(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the table with the versions."""
    about = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
    }
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows({**row, **about} for row in rows)


def main() -> None:
    """Run all checks, or those that are named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="small networks; always without a GPU")
    parser.add_argument("--only", nargs="+", choices=list(CHECKS), default=list(CHECKS))
    parser.add_argument("--budget-s", type=float, default=480.0, help="seconds; then skip the rest")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".csv"))
    given = parser.parse_args()
    if not given.budget_s > 0:
        parser.error(f"--budget-s: {given.budget_s:g} given, expected seconds above 0")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        small = given.small or device == "cpu"
        setting = Setting(device, small, Path(folder), measured_peak(device))
        rows = run(given.only, setting, given.budget_s)
    if device == "cuda":
        write(rows, given.output)
    failed = sum(row["outcome"] == "failed" for row in rows)
    print(f"{len(rows) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
