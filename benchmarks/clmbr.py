"""Times CLMBR at its full size (12 layers, 141 M parameters, random weights) on the processor.

Writes clmbr.csv beside this file.

Records of log-normal length, tokenised, then encoded by the same model in batches of like length
and one subject at a time, in turns. Then windowed attention of one layer beside attention under a
full mask, by length. Seconds are those of the processor, which tell more where the machine has
other work.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from concordant.core.events import Events
from concordant.encoders.clmbr.attention import local_attention
from concordant.encoders.clmbr.batching import batches_by_length, padded
from concordant.encoders.clmbr.config import TransformerConfig
from concordant.encoders.clmbr.network import ClmbrNetwork
from concordant.encoders.clmbr.tokenizer import TokenSequence, tokenize
from concordant.encoders.clmbr.vocabulary import Dictionary, Flat

COLUMNS = [
    "task",
    "setting",
    "n_subjects",
    "n_tokens",
    "cpu_seconds",
    "tokens_per_cpu_second",
    "ratio_to_concordant",
    "padding",
]
FULL = TransformerConfig(
    hidden_size=768, intermediate_size=3072, n_heads=12, n_layers=12, vocab_size=65_536
)
SPAN = 496


def vocabulary() -> Flat:
    """Return a vocabulary of the full size."""
    codes = ["MEDS_BIRTH", *(f"CODE//{number}" for number in range(FULL.vocab_size - 1))]
    return Flat(Dictionary([{"type": "code", "code_string": code} for code in codes], False, None))


def records(n: int, median: int, generator: np.random.Generator) -> list[Events]:
    """Draw records whose lengths are log-normal, one standard deviation a factor of e."""
    made = []
    for length in np.clip(np.exp(generator.normal(np.log(median), 1.0, n)), 2, 3000).astype(int):
        days = np.concatenate([[12_000.0], np.sort(generator.uniform(0, 4_000, length - 1))[::-1]])
        codes = [
            "MEDS_BIRTH",
            *(
                f"CODE//{number}"
                for number in generator.integers(0, FULL.vocab_size - 1, length - 1)
            ),
        ]
        made.append(Events(days, tuple(codes), np.full(length, np.nan)))
    return made


def run(network: ClmbrNetwork, batches: Sequence[Sequence[TokenSequence]]) -> None:
    """Encode batches."""
    with torch.inference_mode():
        for batch in batches:
            made = padded(batch, bags=False)
            network(made.tokens, made.age_days, made.valid)


def seconds(call: Callable[[], object]) -> float:
    """Time a call by the processor, whatever else the machine does."""
    start = time.process_time()
    call()
    return time.process_time() - start


def encoding(n: int, median: int, batch_tokens: int, repeats: int) -> list[dict[str, object]]:
    """Time the tokeniser, and the network in batches and one subject at a time."""
    generator = np.random.default_rng(0)
    torch.manual_seed(0)
    network = ClmbrNetwork(FULL).eval()
    subjects, words = records(n, median, generator), vocabulary()
    tokenising = seconds(lambda: [tokenize(subject, words) for subject in subjects])
    sequences = [tokenize(subject, words) for subject in subjects]
    lengths = [len(sequence) for sequence in sequences]
    grouped = [
        [sequences[number] for number in batch]
        for batch in batches_by_length(lengths, batch_tokens)
    ]
    single = [[sequence] for sequence in sequences]
    run(network, grouped[-1:])
    times: dict[str, list[float]] = {"batched": [], "one subject at a time": []}
    for _ in range(repeats):
        times["batched"].append(seconds(lambda: run(network, grouped)))
        times["one subject at a time"].append(seconds(lambda: run(network, single)))
    best = {name: min(values) for name, values in times.items()}
    places = sum(len(batch) * max(map(len, batch)) for batch in grouped)
    total = sum(lengths)
    rows = [
        row(
            "encode",
            name,
            n,
            total,
            best[name],
            ratio=best[name] / best["batched"],
            padding=1 - total / places if name == "batched" else 0.0,
        )
        for name in best
    ]
    return [row("tokenise", "python", n, total, tokenising), *rows]


def row(
    task: str,
    setting: str,
    n: int,
    tokens: int,
    taken: float,
    *,
    ratio: float | None = None,
    padding: float | None = None,
) -> dict[str, object]:
    """Return a row of the table, and print it."""
    values = (
        task,
        setting,
        n,
        tokens,
        round(taken, 4),
        round(tokens / taken, 1),
        ratio and round(ratio, 3),
        padding and round(padding, 4),
    )
    made: dict[str, object] = dict(zip(COLUMNS, values, strict=False))
    print(made, flush=True)
    return made


def attention(lengths: Sequence[int], widest_full: int) -> list[dict[str, object]]:
    """Time one layer's attention, windowed and under a full mask, by length."""
    rows = []
    for length in lengths:
        parts = [torch.randn(1, length, FULL.n_heads, FULL.head_dim) for _ in range(3)]
        windowed = min(seconds(partial(local_attention, *parts, span=SPAN)) for _ in range(3))
        rows.append(
            row("attention of one layer", f"window of {SPAN}", 1, length, windowed, ratio=1.0)
        )
        if length <= widest_full:
            taken = min(seconds(partial(full, parts)) for _ in range(3))
            rows.append(
                row("attention of one layer", "full mask", 1, length, taken, ratio=taken / windowed)
            )
    return rows


def full(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Attend under a mask of every pair of events."""
    place = torch.arange(parts[0].shape[1])
    distance = place[:, None] - place
    heads = [part.transpose(1, 2) for part in parts]
    return functional.scaled_dot_product_attention(
        heads[0], heads[1], heads[2], attn_mask=(distance >= 0) & (distance < SPAN)
    )


def main() -> None:
    """Run and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", type=int, default=32)
    parser.add_argument(
        "--median", type=int, default=60, help="median number of events of a record"
    )
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = attention((1024, 4096, 16_384), 4096) + encoding(
        options.subjects, options.median, options.batch_tokens, options.repeats
    )
    about = {
        "threads": options.threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
        "processor": f"{platform.machine()}, {os.cpu_count()} processors",
    }
    with (Path(__file__).with_suffix(".csv")).open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [*COLUMNS, *about])
        writer.writeheader()
        writer.writerows({key: one.get(key) for key in COLUMNS} | about for one in rows)


if __name__ == "__main__":
    main()
