"""Atomic writes, fingerprints and digests."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from concordant.core.errors import DiskFullError
from concordant.core.files import (
    DigestCache,
    atomic_folder,
    atomic_path,
    differing_keys,
    file_digest,
    fingerprint,
    read_json,
    write_json,
    write_text,
)

facts = st.dictionaries(
    st.text(max_size=5),
    st.one_of(st.integers(), st.text(max_size=5), st.booleans(), st.lists(st.integers())),
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_half_a_file(path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("killed")


def write_half_a_folder(folder: Path) -> None:
    with atomic_folder(folder) as temporary:
        (temporary / "half").touch()
        raise RuntimeError("killed")


def test_a_write_replaces_the_file_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "new" / "file.txt"
    write_text(path, "one")
    write_text(path, "two µ")
    assert path.read_text(encoding="utf-8") == "two µ"
    assert names(path.parent) == ["file.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError, match="killed"):
        write_half_a_file(path)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent
    assert path.read_text() == "new"


def test_a_folder_takes_its_place_whole(tmp_path):
    folder = tmp_path / "store"
    for text in ("old", "new"):
        with atomic_folder(folder) as temporary:
            (temporary / "deep").mkdir()
            (temporary / "deep" / text).write_text(text)
    assert names(folder / "deep") == ["new"]
    assert names(tmp_path) == ["store"]


def test_a_failed_folder_keeps_the_old_one(tmp_path):
    folder = tmp_path / "store"
    with atomic_folder(folder) as temporary:
        (temporary / "old").touch()
    with pytest.raises(RuntimeError, match="killed"):
        write_half_a_folder(folder)
    assert names(folder) == ["old"]
    assert names(tmp_path) == ["store"]


def test_the_old_folder_stands_whole_until_the_new_one_is(tmp_path, monkeypatch):
    folder = tmp_path / "store"
    with atomic_folder(folder) as temporary:
        (temporary / "old").touch()
    seen = []
    monkeypatch.setattr("shutil.rmtree", lambda path, **_: seen.append((path.name, names(folder))))
    with atomic_folder(folder) as temporary:
        (temporary / "new").touch()
    ((removed, content),) = (
        # what is removed lies aside, when the new one is in its place: a kill leaves nothing by
        # halves
        seen
    )
    assert removed.startswith(".store.")
    assert content == ["new"]


@pytest.fixture
def synced(monkeypatch) -> list[Path]:
    """What was synced, and when it was, which is why it is a list."""
    seen: list[Path] = []
    sync = os.fsync

    def note(descriptor: int) -> None:
        seen.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    return seen


def write_fit(folder: Path, **options: Any) -> None:
    with atomic_folder(folder, **options) as temporary:
        write_json(temporary / "history.json", [1, 2])
        (temporary / "model").write_text("weights")
        write_json(temporary / "fit.json", {"files": ["model"]})


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc")


@needs_proc
def test_a_file_is_synced_and_then_its_folder(tmp_path, synced):
    write_text(tmp_path / "file", "text")
    assert len(synced) == 2
    assert synced[0].name.startswith(".file.")
    assert synced[1] == tmp_path


@needs_proc
def test_a_folder_with_a_marker_takes_three_syncs(tmp_path, synced):
    write_fit(tmp_path / "fit", fsync=("fit.json",))
    assert [path.name for path in synced] == ["fit.json", "new", tmp_path.name]
    assert names(tmp_path / "fit") == ["fit.json", "history.json", "model"]


@needs_proc
def test_a_folder_is_synced_whole_unless_told_otherwise_and_not_at_all_if_nobody_misses_it(
    tmp_path, synced
):
    write_fit(tmp_path / "fit")
    assert sorted(path.name for path in synced[:3]) == ["fit.json", "history.json", "model"]
    assert [path.name for path in synced[3:]] == ["new", tmp_path.name]
    synced.clear()
    write_fit(tmp_path / "scratch", fsync=())
    assert synced == []
    assert names(tmp_path) == ["fit", "scratch"]


def short(stream) -> None:
    raise OSError("1000 requested and 96 written")  # numpy's


def in_rust(stream) -> None:
    raise RuntimeError("I/O error: No space left on device (os error 28)")


def by_quota(stream) -> None:
    raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


def really(stream) -> None:
    with Path("/dev/full").open("w") as full:
        full.write("x" * 100_000)


@pytest.mark.parametrize("fill", [really, short, in_rust, by_quota])
@pytest.mark.parametrize("write", [atomic_path, atomic_folder])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, write, fill):
    with (
        pytest.raises(DiskFullError, match=r"no room left on its disk.*Make room") as caught,
        write(tmp_path / "new") as temporary,
    ):
        fill(temporary)
    assert str(caught.value).startswith(f"{tmp_path}: ")
    assert names(tmp_path) == []


def test_a_disk_without_room_for_a_temporary_file_says_so(tmp_path, monkeypatch):
    def refuse(**_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")

    for name, write in (("mkstemp", atomic_path), ("mkdtemp", atomic_folder)):
        monkeypatch.setattr(tempfile, name, refuse)
        with pytest.raises(DiskFullError), write(tmp_path / "new"):
            pytest.fail("nothing can be written")


def test_another_fault_stays_what_it_is(tmp_path):
    with pytest.raises(PermissionError), atomic_path(tmp_path / "new"):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


class Options(BaseModel):
    path: Path
    sizes: tuple[int, ...]


def test_json_takes_paths_arrays_and_models(tmp_path):
    path = tmp_path / "facts.json"
    write_json(
        path,
        {
            "path": Path("a/b"),
            "array": np.arange(3),
            "number": np.float64(0.5),
            "model": Options(path=Path("c"), sizes=(1, 2)),
        },
    )
    assert read_json(path) == {
        "path": "a/b",
        "array": [0, 1, 2],
        "number": 0.5,
        "model": {"path": "c", "sizes": [1, 2]},
    }


def test_json_refuses_what_it_does_not_know(tmp_path):
    with pytest.raises(TypeError, match="object is not JSON"):
        write_json(tmp_path / "facts.json", {"what": object()})
    assert names(tmp_path) == []


@settings(deadline=None, max_examples=50)
@given(facts)
def test_a_fingerprint_does_not_depend_on_the_order_of_the_facts(given_facts):
    backwards = dict(reversed(list(given_facts.items())))
    assert fingerprint(given_facts) == fingerprint(backwards)
    assert len(fingerprint(given_facts)) == 16


@settings(deadline=None, max_examples=100)
@given(facts, facts)
def test_fingerprints_differ_exactly_where_keys_differ(before, now):
    assert (fingerprint(before) == fingerprint(now)) == (differing_keys(before, now) == [])


def test_differing_keys_names_them():
    assert differing_keys({"a": 1, "b": (1, 2), "c": 3}, {"a": 2, "b": [1, 2], "d": 4}) == [
        "a",
        "c",
        "d",
    ]


@settings(deadline=None, max_examples=20)
@given(st.binary(max_size=200))
def test_a_digest_is_the_sha256_of_the_bytes(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("digest") / "file"
    path.write_bytes(content)
    assert file_digest(path) == hashlib.sha256(content).hexdigest()


def test_a_digest_is_remembered_until_size_or_time_changes(tmp_path):
    file, memory = tmp_path / "scan", tmp_path / "digests.json"
    file.write_bytes(b"aaaa")
    os.utime(file, ns=(1, 1))
    cache = DigestCache(memory)
    first = cache.digest(file)
    cache.save()
    file.write_bytes(b"bbbb")
    os.utime(file, ns=(1, 1))  # the same size and time: the memory answers, here from disk
    assert DigestCache(memory).digest(file) == first
    os.utime(file, ns=(2, 2))
    assert DigestCache(memory).digest(file) == hashlib.sha256(b"bbbb").hexdigest()


@pytest.mark.parametrize(
    "text", ["", "{", '{"a": 1}', '{"a": [1, 2, 3]}', "\x00", "[1]", "3", "null"]
)
def test_a_damaged_memory_of_digests_is_an_empty_one(tmp_path, text):
    file, memory = tmp_path / "scan", tmp_path / "digests.json"
    file.write_bytes(b"a")
    memory.write_text(text)
    assert DigestCache(memory).digest(file) == file_digest(file)


def test_a_series_is_remembered_as_one(tmp_path):
    folder, memory = tmp_path / "series", tmp_path / "digests.json"
    folder.mkdir()
    files = {f"{number}": folder / f"{number}" for number in range(3)}
    for name, file in files.items():
        file.write_text(name)
        os.utime(file, ns=(1, 1))
    cache = DigestCache(memory)
    first = cache.digest_together(folder, files)
    assert first == fingerprint({name: file_digest(file) for name, file in files.items()})
    cache.save()
    assert list(read_json(memory)) == [str(folder.resolve())]
    files["1"].write_text("b")
    os.utime(files["1"], ns=(1, 1))  # the same size and time: the memory answers, here from disk
    assert DigestCache(memory).digest_together(folder, files) == first
    os.utime(files["1"], ns=(2, 2))
    changed = DigestCache(memory).digest_together(folder, files)
    assert (
        changed == fingerprint({name: file_digest(file) for name, file in files.items()}) != first
    )
    assert DigestCache(memory).digest_together(
        folder, {name: files[name] for name in ("0", "1")}
    ) not in (first, changed)


def test_a_memory_without_a_place_is_not_written(tmp_path):
    file = tmp_path / "scan"
    file.write_bytes(b"a")
    cache = DigestCache()
    cache.digest(file)
    cache.save()
    assert names(tmp_path) == ["scan"]


def test_a_key_that_is_none_differs_from_one_that_is_absent():
    assert fingerprint({"window": None}) != fingerprint({})
    assert differing_keys({"window": None}, {}) == ["window"]
    assert differing_keys({}, {"window": None}) == ["window"]
