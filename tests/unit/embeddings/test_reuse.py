from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from datetime import datetime
from pathlib import Path

import nibabel as nib
import numpy as np
import polars as pl
import pytest

import concordant.encoders  # noqa: F401 - registers them
from concordant.core.embedding import TokenEmbedding
from concordant.core.errors import StoreError, VolumeError
from concordant.core.modality import Modality
from concordant.data.cohort import read_cohort
from concordant.embeddings.extract import embed
from concordant.embeddings.store import read_manifest
from concordant.encoders.base import ENCODERS, EncoderCard, VolumeEncoder
from concordant.engines import LocalEngine
from ct_weights_fixture import write_tiny_ct

N = 9
ENGINE_OF = {0: LocalEngine(), 1: LocalEngine(1, isolated=True), 2: LocalEngine(2)}


class Noting(VolumeEncoder):
    """An encoder that notes each scan that it encodes; it may be told to fail at all of them."""

    device = "cpu"

    def __init__(self, folder, dtype="float32", version=1):
        self.folder, self.dtype, self.version = folder, dtype, version

    @property
    def card(self):
        return EncoderCard(kind="tokens", token_dim=3, pooled_dim=2, max_tokens=4, dtype=self.dtype)

    def encode(self, volumes):
        if (self.folder / "fail").exists():
            raise VolumeError("no lung")
        if (self.folder / "no memory").exists():
            raise MemoryError
        if (self.folder / "die").exists():
            os._exit(1)
        with (self.folder / "encoded").open("a") as stream:
            stream.write("x" * len(volumes))
        return [self._of(volume.voxels / np.float32(3)) for volume in volumes]

    @staticmethod
    def _of(voxels):
        n = 1 + int(abs(voxels[0, 0, 0])) % 4
        return TokenEmbedding(voxels[0, :n, :3].copy(), voxels[1, 1, :2].copy())


def write_scan(folder, number):
    voxels = np.random.default_rng(number).integers(-1000, 1000, (9, 8, 7)).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, np.diag([2.0, 2.0, 2.0, 1.0])), folder / f"{number}.nii.gz")


def cohort_of(folder, *numbers):
    """A cohort of these scans; None has no scan."""
    paths = [None if number is None else f"{number}.nii.gz" for number in numbers]
    pl.DataFrame(
        {
            "sample_id": [
                f"s{row}" if number is None else f"n{number}" for row, number in enumerate(numbers)
            ],
            "subject_id": range(len(numbers)),
            "prediction_time": [datetime(2020, 1, 1)] * len(numbers),
            "time_days": [1.0] * len(numbers),
            "event": [1] * len(numbers),
            "ct_path": paths,
        },
        schema_overrides={"ct_path": pl.String},
    ).write_parquet(folder / "cohort.parquet")
    return read_cohort(folder / "cohort.parquet", label="A", splits_required=False)


@pytest.fixture
def scans(tmp_path):
    """Scans 0 to 11; number 4 is truncated."""
    for number in range(N + 3):
        write_scan(tmp_path, number)
    broken = tmp_path / "4.nii.gz"
    broken.write_bytes(broken.read_bytes()[:-100])
    return tmp_path


def embed_noting(cohort, root, *, encoder=None, **options):
    source = Noting(cohort.path.parent) if encoder is None else encoder
    return embed(
        cohort,
        Modality.CT,
        source,
        root,
        name="noting",
        options={},
        **{"max_quarantined": 0.5, "shard_size": 4} | options,
    )


def encoded(folder):
    """How many scans were encoded since this was last asked."""
    notes = folder / "encoded"
    count = len(notes.read_text()) if notes.exists() else 0
    notes.unlink(missing_ok=True)
    return count


def content(store):
    return {path.name: path.read_bytes() for path in store.folder.iterdir()}


def as_from_nothing(store, cohort, scans, **options):
    """Whether a store has the bytes of one that is made where there is none beside it."""
    made = embed_noting(cohort, scans / f"afresh-{len(list(scans.iterdir()))}", **options)
    assert made.folder.name == store.folder.name
    assert (made.folder.parent / made.folder.name) != store.folder
    return content(made) == content(store)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("workers", [0, 2])
def test_only_scans_that_are_new_are_encoded_and_the_bytes_are_the_same(
    scans, caplog, dtype, workers
):
    options = {"encoder": Noting(scans, dtype), "engine": ENGINE_OF[workers]}
    embed_noting(cohort_of(scans, *range(N), None), scans / "e", **options)
    assert encoded(scans) == N - 1
    write_scan(scans, 2)
    (scans / "3.nii.gz").write_bytes((scans / "11.nii.gz").read_bytes())
    grown = cohort_of(scans, 10, 0, 1, 2, None, 9, 3, 4, 5, 7, 8, 6)
    with caplog.at_level("INFO"):
        store = embed_noting(grown, scans / "e", **options)
    assert "A: noting: 8 of 12 samples lie in stores made before, to be taken over" in caplog.text
    assert encoded(scans) == 3
    assert store.quarantine.rows() == [("n4", "truncated file")]
    assert as_from_nothing(store, grown, scans, **options)


def test_the_environment_changes_in_the_main_thread_alone(scans, monkeypatch):
    changing = []
    for name in ("putenv", "unsetenv"):
        change = getattr(os, name)
        monkeypatch.setattr(
            os,
            name,
            lambda *given, change=change: (
                changing.append(threading.current_thread()) or change(*given)
            ),
        )
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    before = dict(os.environ)
    embed_noting(cohort_of(scans, 0, 1, 2), scans / "e", engine=LocalEngine(2))
    assert dict(os.environ) == before
    assert len(changing) > 1
    assert set(changing) == {threading.main_thread()}


def test_what_another_kind_of_device_made_is_made_again(scans, caplog):
    encoder = Noting(scans)
    embed_noting(cohort_of(scans, 0, 1), scans / "e", encoder=encoder)
    encoded(scans)
    encoder.device = "cuda"  # as an encoder says that finds a GPU; its digits are others
    store = embed_noting(cohort_of(scans, 0, 1, 2), scans / "e", encoder=encoder)
    assert encoded(scans) == 3
    assert "was encoded on cpu, the encoder is on cuda; what it held is encoded" in caplog.text
    assert pl.read_parquet(store.folder / "index-00000.parquet")["device"].to_list() == ["cuda"] * 3
    embed_noting(cohort_of(scans, 0, 1, 2, 3), scans / "e", encoder=encoder)
    assert encoded(scans) == 1


def test_a_scan_is_known_by_its_bytes_not_by_its_name(scans):
    embed_noting(cohort_of(scans, 0, 1), scans / "e")
    encoded(scans)
    shutil.move(scans / "0.nii.gz", scans / "77.nii.gz")
    embed_noting(cohort_of(scans, 77, 1), scans / "e")
    assert encoded(scans) == 0


def test_another_encoder_takes_nothing_over(scans):
    cohort = cohort_of(scans, 0, 1)
    embed_noting(cohort, scans / "e")
    assert encoded(scans) == 2
    embed_noting(cohort, scans / "e", encoder=Noting(scans, version=2))
    assert encoded(scans) == 2
    embed(cohort, Modality.CT, Noting(scans), scans / "e", name="noting", options={"window": 3})
    assert encoded(scans) == 2
    embed(cohort, Modality.CT, Noting(scans), scans / "e", name="noting-more", options={})
    assert encoded(scans) == 2


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda store: flip(store / "00000.npy"),
        lambda store: flip(store / "pooled-00000.npy"),
        lambda store: (store / "00000.npy").write_bytes((store / "00000.npy").read_bytes()[:-8]),
        lambda store: (store / "pooled-00000.npy").unlink(),
        lambda store: np.save(store / "00000.npy", np.load(store / "00000.npy").astype(np.float64)),
    ],
)
def test_what_is_damaged_is_encoded_again(scans, caplog, damage):
    before = embed_noting(cohort_of(scans, 0, 1, 2, 3, 5), scans / "e")
    encoded(scans)
    damage(before.folder)
    grown = cohort_of(scans, 0, 1, 2, 3, 5, 6)
    store = embed_noting(grown, scans / "e")
    assert "shard 00000 is missing or damaged" in caplog.text
    assert 2 <= encoded(scans) <= 5
    assert as_from_nothing(store, grown, scans)


@pytest.mark.parametrize("index", [b"half of a", None])
def test_a_shard_without_its_index_is_no_shard(scans, index):
    before = embed_noting(cohort_of(scans, 0, 1, 2, 3, 5), scans / "e")
    encoded(scans)
    path = before.folder / "index-00000.parquet"
    path.unlink() if index is None else path.write_bytes(index)
    grown = cohort_of(scans, 0, 1, 2, 3, 5, 6)
    store = embed_noting(grown, scans / "e")
    assert encoded(scans) == 5
    assert as_from_nothing(store, grown, scans)


def test_whole_shards_of_a_store_that_was_never_finished_are_taken_over(scans):
    """Mending the scans that too many of are damaged makes a new store.

    Of the old one, all others are kept.
    """
    with pytest.raises(StoreError, match="cannot be encoded"):
        embed_noting(cohort_of(scans, *range(N)), scans / "e", max_quarantined=0.0)
    (before,) = (scans / "e" / "A").iterdir()
    assert read_manifest(before) is None
    assert encoded(scans) == N - 1
    write_scan(scans, 4)
    store = embed_noting(cohort_of(scans, *range(N)), scans / "e", max_quarantined=0.0)
    assert encoded(scans) == 1
    assert as_from_nothing(store, cohort_of(scans, *range(N)), scans, max_quarantined=0.0)


def test_a_quarantined_scan_is_taken_over_unless_it_is_to_be_tried_again(scans):
    (scans / "fail").touch()
    embed_noting(cohort_of(scans, 0, 1), scans / "e", max_quarantined=1.0)
    (scans / "fail").unlink()
    grown = cohort_of(scans, 0, 1, 2)
    store = embed_noting(grown, scans / "e", max_quarantined=1.0)
    assert store.quarantine.rows() == [("n0", "no lung"), ("n1", "no lung")]
    assert encoded(scans) == 1
    store = embed_noting(grown, scans / "e", retry_quarantined=True)
    assert store.quarantine.is_empty()
    assert encoded(scans) == 3
    assert as_from_nothing(store, grown, scans)


@pytest.mark.parametrize(
    ("trouble", "workers", "reason"),
    [("no memory", 0, "unexpected MemoryError"), ("die", 1, "died twice")],
)
def test_a_reason_that_is_of_the_machine_is_not_taken_over(scans, trouble, workers, reason):
    (scans / trouble).touch()
    before = embed_noting(
        cohort_of(scans, 0, 1),
        scans / "e",
        max_quarantined=1.0,
        engine=ENGINE_OF[workers],
    )
    assert before.quarantine["reason"].str.contains(reason).to_list() == [True, True]
    (scans / trouble).unlink()
    grown = cohort_of(scans, 0, 1, 2)
    store = embed_noting(grown, scans / "e")
    assert store.quarantine.is_empty()
    assert as_from_nothing(store, grown, scans)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = {paths!r}
from test_reuse import cohort_of, embed_noting
folder = Path({folder!r})
def die(stage, done, total):
    if done == 6 and "digests" not in stage:
        os.kill(os.getpid(), signal.SIGKILL)
embed_noting(cohort_of(folder, 9, *range(9), 10), folder / "e", progress=die)
"""


def test_a_run_that_is_killed_while_it_takes_over_comes_to_the_same_bytes(scans):
    embed_noting(cohort_of(scans, *range(N)), scans / "e")
    tests = Path(__file__).parent
    script = KILLED.format(paths=[str(tests), str(tests.parents[1])], folder=str(scans))
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    encoded(scans)
    grown = cohort_of(scans, 9, *range(9), 10)
    store = embed_noting(grown, scans / "e")
    assert encoded(scans) == 1
    assert as_from_nothing(store, grown, scans)


@pytest.mark.parametrize(("batch_size", "taken"), [(1, 7), (2, 6), (4, 4)])
def test_a_network_takes_over_whole_batches_so_that_the_bytes_are_those_of_the_same_company(
    scans, caplog, batch_size, taken
):
    options = {"weights": write_tiny_ct(scans / "weights"), "batch_size": batch_size}

    def embedded(cohort, root):
        encoder = ENCODERS.create("tiny_ct", **options)
        return embed(
            cohort,
            Modality.CT,
            encoder,
            root,
            name="tiny_ct",
            options=options,
            shard_size=4,
            max_quarantined=0.5,
        )

    embedded(cohort_of(scans, *range(N)), scans / "e")
    flipped = cohort_of(scans, 0, 1, 2, 3, 4, 5, 7, 10)
    with caplog.at_level("INFO"):
        store = embedded(flipped, scans / "e")
    assert f"{taken} of 8 samples lie in stores made before" in caplog.text
    assert content(embedded(flipped, scans / "afresh")) == content(store)
