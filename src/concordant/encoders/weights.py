"""Weights of foundation models: plain tensors of known digest, in a folder or from the hub."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from concordant.core.errors import WeightsError

HUB = "hf:"
"""What a reference to the hub begins with: `hf:OWNER/NAME@REVISION`."""

_REFERENCE = re.compile(r"hf:(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
_BLOCK = 1 << 20
_LOG_IN = "give a token with `hf auth login` or HF_TOKEN"


def _kind(given: Any) -> Any:
    """Tell a reference to the hub, which stays text, from a path."""
    return given if not isinstance(given, str) or given.startswith(HUB) else Path(given)


WeightsOption = Annotated[Path | str, BeforeValidator(_kind)]
"""Option `weights`: a folder (relative to the study's file), or `hf:OWNER/NAME@REVISION`."""


@dataclass(frozen=True)
class WeightsFolder:
    """A folder that holds all of the files that an encoder needs.

    Attributes:
        folder: Where they lie.
        files: Their names.
        source: The weights as they were given.
        revision: The hub's commit, 40 hex digits; None for a folder.
    """

    folder: Path
    files: tuple[str, ...]
    source: str
    revision: str | None = None

    def path(self, name: str) -> Path:
        """Return where a file lies."""
        return self.folder / name

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the names and bytes of the files, as hex."""
        digest = hashlib.sha256()
        for name in self.files:
            digest.update(f"{name}\0{self.path(name).stat().st_size}\0".encode())
            with self.path(name).open("rb") as stream:
                while block := stream.read(_BLOCK):
                    digest.update(block)
        return digest.hexdigest()


def open_weights(weights: Path | str, *, files: Sequence[str]) -> WeightsFolder:
    """Find the files of an encoder, and fetch them where they are on the hub.

    Args:
        weights: A folder, or `hf:OWNER/NAME@REVISION` (a commit, tag or branch; main unless given).
            What is in the hub's cache is taken from there without asking whether a branch has
            moved: give a commit to be certain.
        files: Names that have to be there.

    Raises:
        WeightsError: A folder or file that is not there, a reference that is none, or the hub says
            no; the message says what to do.
    """
    if isinstance(weights, str) and weights.startswith(HUB):
        return _fetched(weights, tuple(files))
    folder = Path(weights)
    absent = [name for name in files if not (folder / name).is_file()]
    if absent:
        found = "no such folder"
        if folder.is_dir():
            names = sorted(path.name for path in folder.iterdir())
            found = ", ".join(names[:10]) or "nothing"
        needed = ", ".join(absent)
        raise WeightsError(f"{folder}: weights need the file(s) {needed} there (found: {found})")
    return WeightsFolder(folder, tuple(files), str(weights))


def _fetched(reference: str, files: tuple[str, ...]) -> WeightsFolder:
    parsed = _REFERENCE.fullmatch(reference)
    if parsed is None:
        raise WeightsError(
            f"weights {reference!r}: expected hf:OWNER/NAME@REVISION, such as "
            "hf:microsoft/colipri@main, or a folder"
        )
    try:
        import huggingface_hub
    except ImportError:
        raise WeightsError(
            f"weights {reference!r} need the package huggingface_hub: pip install 'concordant[hub]'"
        ) from None
    repository, revision = parsed["repository"], parsed["revision"] or "main"
    look = huggingface_hub.try_to_load_from_cache
    cached = [look(repository, name, revision=revision) for name in files]
    paths = [path for path in cached if isinstance(path, str)]
    if len(paths) < len(files):
        paths = _downloaded(huggingface_hub, reference, repository, revision, files)
    folder = Path(paths[0]).parent
    return WeightsFolder(folder, files, reference, folder.name)


def _downloaded(
    hub: Any, reference: str, repository: str, revision: str, files: Sequence[str]
) -> list[str]:
    """Fetch files into the cache, all of one commit, and return where they lie there."""
    errors = hub.errors
    try:
        # without a network this fails at once; a download tries for long
        known = hub.HfApi().model_info(repository, revision=revision)
        present = {sibling.rfilename for sibling in known.siblings or ()}
        absent = sorted(set(files) - present)
        if not absent:
            fetch = hub.hf_hub_download
            # by its name, so the cache knows the revision
            first = fetch(repository, files[0], revision=revision)
            return [first, *(fetch(repository, one, revision=known.sha) for one in files[1:])]
        sentence = (
            f"the repository has no file {', '.join(absent)} at {revision!r}: check the name of "
            "the repository and the revision"
        )
    except errors.GatedRepoError:
        sentence = (
            f"the repository is gated: ask for access at {_page(hub, repository)}, then {_LOG_IN}"
        )
    except errors.RepositoryNotFoundError:
        sentence = f"there is no such repository, or it is private: check the name, or {_LOG_IN}"
    except errors.RevisionNotFoundError:
        sentence = (
            f"the repository has no revision {revision!r}: give a branch, a tag or a full commit"
        )
    except (errors.HfHubHTTPError, errors.HFValidationError) as error:
        sentence = f"the hub answered with {type(error).__name__}: {_first_line(error)}"
    # what a lost connection raises depends on the version of huggingface_hub
    except Exception as error:
        sentence = (
            f"not in the cache, and the hub cannot be reached ({type(error).__name__}: "
            f"{_first_line(error)}): fetch the files where there is a network, or give a folder"
        )
    raise WeightsError(f"weights {reference!r}: {sentence}") from None


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _page(hub: Any, repository: str) -> str:
    return f"{os.environ.get('HF_ENDPOINT', hub.constants.ENDPOINT)}/{repository}"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read named tensors from safetensors, else a torch file of tensors; nothing is executed.

    A torch file may hold the tensors under `state_dict`, as checkpoints of training do.

    Raises:
        WeightsError: The file is damaged, or holds anything but tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            # what is no torch file is refused below
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise WeightsError(
            f"{path}: no readable weights ({_first_line(error)}); fetch the file again"
        ) from None
    except pickle.UnpicklingError:
        raise WeightsError(
            f"{path}: holds Python objects, which could run code when they are loaded; only "
            "tensors are read: convert it to safetensors"
        ) from None
    tensors = content.get("state_dict", content) if isinstance(content, Mapping) else None
    tensors = tensors if isinstance(tensors, Mapping) else None
    if tensors is None or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise WeightsError(
            f"{path}: expected named tensors, found {type(content).__name__}; convert it to "
            "safetensors"
        )
    return dict(tensors)


def check_shapes(
    path: Path, expected: Mapping[str, Sequence[int]], found: Mapping[str, Tensor]
) -> None:
    """Refuse weights that are not those of a network.

    Args:
        path: The file, for the message.
        expected: Shape of every tensor of the network.
        found: The tensors of the file.

    Raises:
        WeightsError: Names that are missing, unexpected or of another shape; the message counts
            them and shows the first of each.
    """
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    others = [
        f"{name} is {list(found[name].shape)}, not {list(shape)}"
        for name, shape in expected.items()
        if name in found and tuple(found[name].shape) != tuple(shape)
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", others))
    wrong = [f"{len(names)} {kind} (first: {names[0]})" for kind, names in kinds if names]
    if wrong:
        raise WeightsError(
            f"{path}: not the weights of this network: {'; '.join(wrong)}. Check which model the "
            "folder holds"
        )
