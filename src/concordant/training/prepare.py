"""What all fits of a fold share: inputs scaled and padded once, on train and without outcomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from concordant.core.embedding import EmbeddingTable, concatenate
from concordant.core.errors import ConcordantError, StoreError
from concordant.core.files import read_json, write_json
from concordant.core.modality import Modality
from concordant.core.survival import Outcomes
from concordant.core.tokens import CodeTokens, Pair, Tokens
from concordant.fusion import BOTH, Fusion
from concordant.training.batches import Batch, absent_table
from concordant.training.scaling import Scaling, fit_scaling
from concordant.training.scaling_files import PlainScaling, plain, restored


@dataclass(frozen=True, slots=True)
class PreparedModality:
    """One encoder's inputs on one fold.

    Attributes:
        scaling: Scaling or vocabulary, fitted on some parts (train), without outcomes.
        parts: Per part ("train", "tuning", "test", an external cohort's label) its samples as a
            model takes them: scaled, padded, zero wherever nothing is valid, on the CPU.
    """

    scaling: Scaling
    parts: Mapping[str, Tokens | CodeTokens]

    def write(self, folder: Path) -> None:
        """Write one file per array, so that who reads pooled vectors never touches a token."""
        folder.mkdir(parents=True, exist_ok=True)
        stored = plain(self.scaling)
        for name, values in stored.arrays.items():
            np.save(folder / f"scaling.{name}.npy", values)
        for place, tokens in enumerate(self.parts.values()):
            for name, tensor in _tensors(tokens).items():
                np.save(folder / f"{place}.{name}.npy", tensor.numpy())
        facts = {"parts": list(self.parts), "scaling": stored.facts, "arrays": [*stored.arrays]}
        write_json(folder / "prepared.json", facts)

    @classmethod
    def open(cls, folder: Path) -> PreparedModality:
        """Open what `write` wrote, over memory maps: processes share what they read of it.

        Raises:
            StoreError: A missing or damaged file.
        """
        try:
            facts = read_json(folder / "prepared.json")
            arrays = {name: np.load(folder / f"scaling.{name}.npy") for name in facts["arrays"]}
            scaling = restored(PlainScaling(facts["scaling"], arrays))
            kind = CodeTokens if facts["scaling"]["kind"] == "codes" else Tokens
            parts = {
                part: kind(*(_mapped(folder / f"{place}.{name}.npy") for name in _NAMES[kind]))
                for place, part in enumerate(facts["parts"])
            }
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise StoreError(
                f"{folder}: prepared inputs cannot be read ({error}); remove the folder, and they "
                "are made again"
            ) from None
        return cls(scaling, parts)


_NAMES: Mapping[type, tuple[str, ...]] = {
    Tokens: ("values", "valid", "pooled"),
    CodeTokens: ("index", "weight", "valid"),
}


def _tensors(tokens: Tokens | CodeTokens) -> dict[str, Tensor]:
    return {name: getattr(tokens, name) for name in _NAMES[type(tokens)]}


def _mapped(path: Path) -> Any:
    """Map a file into memory; nothing written to the tensor would reach it."""
    return torch.from_numpy(np.load(path, mmap_mode="c"))


def prepare_modality(
    tables: Mapping[str, EmbeddingTable],
    *,
    minimum_samples: int,
    fitted_on: Sequence[str] = ("train",),
) -> PreparedModality:
    """Fit one encoder's scaling on some parts, and scale and pad all of them.

    Args:
        tables: Unfitted embeddings of each part.
        minimum_samples: Samples that must carry a code before it enters the vocabulary.
        fitted_on: Parts that the scaling or vocabulary is fitted on.

    Raises:
        FeatureError: A part of another width or kind than those fitted on.
    """
    fitted = [tables[part] for part in fitted_on]
    whole = fitted[0] if len(fitted) == 1 else concatenate(fitted)
    scaling = fit_scaling(whole, minimum_samples=minimum_samples)
    return PreparedModality(scaling, {part: scaling.apply(one) for part, one in tables.items()})


@dataclass(frozen=True, slots=True)
class FoldData:
    """What all fits of an encoder pair on a fold share.

    Attributes:
        modalities: Inputs per modality; one that is left out is missing in everyone.
        targets: Outcomes per part, at least of train and tuning.
        subjects: Number of each sample's subject per part; a part left out has one sample each.
    """

    modalities: Mapping[Modality, PreparedModality]
    targets: Mapping[str, Outcomes]
    subjects: Mapping[str, Int[np.ndarray, " sample"]]

    @property
    def scaling(self) -> dict[Modality, Scaling]:
        """Scaling of both modalities."""
        return {
            modality: self.modalities[modality].scaling if modality in self.modalities else _NOBODY
            for modality in BOTH
        }

    def pair(self, part: str, *, tokens: bool = True) -> Pair:
        """Return a part's inputs; without `tokens` the pooled vectors alone."""
        given = {modality: one.parts[part] for modality, one in self.modalities.items()}
        sizes = [len(one.valid) for one in given.values()]
        size = sizes[0] if sizes else len(self.targets[part])
        ct, ehr = (given.get(modality) or _NOBODY.apply(absent_table(size)) for modality in BOTH)
        if not tokens:
            ct, ehr = ct.without_tokens(), ehr.without_tokens()
        subject = self.subjects.get(part)
        numbers = None if subject is None else torch.from_numpy(np.array(subject, np.int64))
        return Pair(ct, ehr, numbers)

    def batch(self, part: str, fusion: Fusion, device: torch.device) -> Batch:
        """Return the samples of a part that have a modality the fusion uses, with their outcome.

        Raises:
            ConcordantError: No observed event among them.
        """
        pair, target = self.pair(part, tokens=fusion.reads_tokens), self.targets[part]
        known = torch.stack([pair.of(modality).present for modality in fusion.uses]).any(0)
        if not known.all():  # a copy of the tokens is made only where it has to be
            rows = known.nonzero()[:, 0]
            pair, target = pair.rows(rows), target.take(rows.numpy())
        if not target.observed.any():
            raise ConcordantError(
                f"{part} has no observed event (event = 1) among its {len(target)} samples with "
                f"{' or '.join(fusion.uses)}; a model cannot be fitted. Check the event column and "
                "the split"
            )
        time = torch.tensor(target.time, dtype=torch.float64, device=device)
        event = torch.tensor(target.event, dtype=torch.int64, device=device)
        return Batch(pair.to(device), time, event)


_NOBODY = fit_scaling(absent_table(0))
"""Scaling of a modality that the study does not have."""
