"""Atomic writes, fingerprints and cached digests: nothing is trusted because a file exists."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from concordant.core.errors import DiskFullError

_BLOCK = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)
_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")  # numpy's word for it


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder.

    On success it takes the place of `path`, on failure it is removed. A process that is killed
    leaves the old file or the new one, and so does a machine that fails: the file and its folder
    are synced. Within a folder that `atomic_folder` is writing nothing is: that one's word counts.

    Raises:
        DiskFullError: There is no room left on the disk.
    """
    with _told_of_full_disk(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        synced = not any(_is_unfinished(folder) for folder in path.parents)
        try:
            yield temporary
            temporary.chmod(0o644)
            if synced:
                _sync(temporary)
            temporary.replace(path)
            if synced:
                _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path, *, fsync: Sequence[str] | None = None) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`.

    On success it takes the folder's place whole, on failure it is removed. A process that is killed
    leaves the old folder or the new one. A machine that fails leaves the new one with those files
    whole that were synced; any other may be short, so name a marker file alone only where it holds
    the digests of the others and readers compare them.

    Args:
        folder: The place.
        fsync: Files in it to be synced, with the folder and the one it lies in: None for all,
            a marker file for three syncs in all, none for what nobody misses.

    Raises:
        DiskFullError: There is no room left on the disk.
    """
    with _told_of_full_disk(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp"))
        temporary = aside / "new"
        temporary.mkdir()
        try:
            yield temporary
            files = temporary.rglob("*") if fsync is None else [temporary / name for name in fsync]
            synced = [*files, temporary] if fsync is None or fsync else []
            for path in synced:
                _sync(path)
            if folder.exists():
                # moved before it is removed: a kill never leaves half of it in its place
                folder.replace(aside / "old")
            temporary.replace(folder)
            if synced:
                _sync(folder.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _is_unfinished(folder: Path) -> bool:
    return folder.name.startswith(".") and folder.name.endswith(".tmp")


@contextmanager
def _told_of_full_disk(folder: Path) -> Iterator[None]:
    """Turn every library's word for a full disk into one sentence."""
    try:
        yield
    except Exception as error:
        if not is_full_disk(error):
            raise
        raise DiskFullError(
            f"{folder}: no room left on its disk, or in your quota; nothing half-written is left. "
            "Make room and run again: what is done already is kept"
        ) from None


def is_full_disk(error: Exception) -> bool:
    """Say whether an exception means that the disk, or a quota, is full."""
    if isinstance(error, OSError):
        return error.errno in _FULL or _SHORT_WRITE.fullmatch(str(error)) is not None
    return any(os.strerror(number) in str(error) for number in _FULL)  # of a library in Rust


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_abandoned(folder: Path) -> None:
    """Remove what killed runs left in a folder and below; nothing else may be writing there."""
    for path in sorted(folder.rglob(".*.tmp")):  # a folder comes before what lies in it
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically, readable by a person."""
    write_text(path, json.dumps(value, indent=2, default=_plain, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON")


def fingerprint(facts: Mapping[str, Any]) -> str:
    """Return 16 hex digits that change when any fact changes."""
    text = json.dumps(facts, sort_keys=True, default=_plain, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differing_keys(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the keys whose values differ, for a message that names why work is done again."""
    plain = [json.loads(json.dumps(facts, default=_plain)) for facts in (before, now)]
    absent = object()  # None is a value
    return sorted(
        key
        for key in plain[0].keys() | plain[1].keys()
        if plain[0].get(key, absent) != plain[1].get(key, absent)
    )


class DigestCache:
    """SHA-256 digests of large files, remembered by path, size and time; safe among threads.

    Attributes:
        path: Where the memory is kept (JSON); None keeps it for this process only.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Read what was remembered; an unreadable memory is an empty one."""
        self.path = path
        self._known: dict[str, tuple[str, str]] = {}
        if path is not None and path.is_file():
            with suppress(ValueError, TypeError, AttributeError):
                self._known = {
                    name: (str(state), str(digest))
                    for name, (state, digest) in read_json(path).items()
                }

    def digest(self, file: Path) -> str:
        """Return the hex digest of a file's bytes."""
        return self._remembered(file, _state(file), partial(file_digest, file))

    def digest_together(self, place: Path, files: Mapping[str, Path]) -> str:
        """Return one hex digest of several files under their names, remembered under one place."""
        states = {name: _state(file) for name, file in files.items()}
        return self._remembered(
            place,
            fingerprint(states),
            lambda: fingerprint({name: file_digest(file) for name, file in files.items()}),
        )

    def _remembered(self, place: Path, state: str, make: Callable[[], str]) -> str:
        key = str(place.resolve())
        known = self._known.get(key)
        if known is not None and known[0] == state:
            return known[1]
        digest = make()
        self._known[key] = (state, digest)
        return digest

    def save(self) -> None:
        """Write the memory, if it has a place."""
        if self.path is not None:
            write_json(
                self.path, dict(self._known)
            )  # a copy: other threads may add to it meanwhile


def _state(file: Path) -> str:
    found = file.stat()
    return f"{found.st_size} bytes, modified {found.st_mtime_ns}"


def file_digest(file: Path) -> str:
    """Return the SHA-256 of a file's bytes as hex."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
