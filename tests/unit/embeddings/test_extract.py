from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import nibabel as nib
import numpy as np
import polars as pl
import pytest
import torch

import concordant.encoders  # noqa: F401 - registers them
from concordant.core import files
from concordant.core.embedding import TokenEmbedding
from concordant.core.errors import (
    CohortError,
    DiskFullError,
    FeatureError,
    RecordError,
    StoreError,
    VolumeError,
    WeightsError,
)
from concordant.core.files import DigestCache, file_digest
from concordant.core.modality import Modality
from concordant.data.cohort import read_cohort
from concordant.data.features import FeatureOptions
from concordant.data.meds import read_events
from concordant.data.volumes import read_volume
from concordant.embeddings import sources
from concordant.embeddings.encoding import NOT_FINITE
from concordant.embeddings.extract import embed
from concordant.encoders.base import ENCODERS, EncoderCard, VolumeEncoder
from concordant.encoders.code_counts import OneHot
from concordant.encoders.tiny_ct import TinyCT
from concordant.engines import LocalEngine
from ct_weights_fixture import write_tiny_ct

INDEX = datetime(2020, 1, 10)
N = 7
GRID = {"grid": 2}
ENGINE_OF = {0: LocalEngine(), 1: LocalEngine(1, isolated=True), 2: LocalEngine(2)}


@pytest.fixture
def cohort(tmp_path):
    """Seven samples: scan 3 is null, scan 5 truncated; subject 2 has no record."""
    generator = np.random.default_rng(0)
    (tmp_path / "ct").mkdir()
    paths = [None if row == 3 else f"ct/{row}.nii.gz" for row in range(N)]
    for path in filter(None, paths):
        image = nib.Nifti1Image(
            generator.integers(-1000, 500, (8, 9, 10)).astype(np.int16),
            np.diag([2.0, 2.0, 2.0, 1.0]),
        )
        nib.save(image, tmp_path / path)
    broken = tmp_path / "ct" / "5.nii.gz"
    broken.write_bytes(broken.read_bytes()[:-200])
    events = [
        (row, INDEX + timedelta(days=day), code, 1.5)
        for row in range(N)
        if row != 2
        for day, code in ((-9000, "MEDS_BIRTH"), (-row, f"DX//{row % 3}"), (1, "LATE"))
    ]
    (tmp_path / "meds" / "data").mkdir(parents=True)
    pl.DataFrame(
        events, schema=["subject_id", "time", "code", "numeric_value"], orient="row"
    ).write_parquet(tmp_path / "meds/data/0.parquet")
    pl.DataFrame(
        {
            "sample_id": [f"s{row}" for row in range(N)],
            "subject_id": range(N),
            "prediction_time": [INDEX] * N,
            "time_days": [1.0] * N,
            "event": [1] * N,
            "ct_path": paths,
        }
    ).write_parquet(tmp_path / "cohort.parquet")
    return read_cohort(
        tmp_path / "cohort.parquet", label="site A", meds=tmp_path / "meds", splits_required=False
    )


def embed_scans(cohort, root, **options):
    encoder = ENCODERS.create("volume_features", **GRID)
    given = {"max_quarantined": 0.5, "shard_size": 2} | options
    return embed(cohort, Modality.CT, encoder, root, name="volume_features", options=GRID, **given)


def embed_records(cohort, root, *, values="last", **options):
    encoder = ENCODERS.create("one_hot", values=values)
    return embed(
        cohort,
        Modality.EHR,
        encoder,
        root,
        name="one_hot",
        options={"values": values},
        **{"shard_size": 2} | options,
    )


def states(folder):
    """Every file of a folder with its inode and time: unchanged where nothing was written."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_scans_are_read_encoded_and_quarantined(cohort, tmp_path):
    store = embed_scans(cohort, tmp_path / "embeddings")
    assert store.folder.parent == tmp_path / "embeddings" / "site-A"
    assert store.folder.name.startswith("volume_features-")
    table = store.read(cohort.sample_ids)
    encoder = ENCODERS.create("volume_features", **GRID)
    np.testing.assert_array_equal(table.lengths, [8, 8, 8, 0, 8, 0, 8])
    for row in (0, 4, 6):
        (expected,) = encoder.encode([read_volume(cohort.ct_path(row))])
        np.testing.assert_array_equal(table.take(np.array([row])).values, expected.tokens)
        np.testing.assert_array_equal(table.pooled[row], expected.pooled)
    assert np.isnan(table.pooled[[3, 5]]).all()
    assert store.quarantine["sample_id"].to_list() == ["s5"]
    with pytest.raises(VolumeError) as caught:
        read_volume(cohort.ct_path(5))
    assert store.quarantine["reason"].to_list() == [caught.value.reason]


def test_the_manifest_tells_how_the_store_was_made(cohort, tmp_path):
    manifest = json.loads((embed_records(cohort, tmp_path).folder / "manifest.json").read_text())
    assert (manifest["kind"], manifest["encoder"], manifest["options"], manifest["max_tokens"]) == (
        "codes",
        "one_hot",
        {"values": "last"},
        3,
    )
    assert (manifest["n_samples"], manifest["n_missing"], manifest["n_inputs"]) == (N, 1, N - 1)
    assert manifest["card"]["licence"] == "Apache-2.0"
    assert set(manifest["versions"]) >= {"concordant", "numpy", "polars"}
    assert manifest["facts"]["version"] == ENCODERS.get("one_hot").version


def test_records_are_cut_and_encoded(cohort, tmp_path):
    store = embed_records(cohort, tmp_path)
    records = read_events(cohort.meds, cohort.table)
    table = store.read(cohort.sample_ids)
    for row, sample_id in enumerate(cohort.sample_ids):
        (expected,) = ENCODERS.create("one_hot", values="last").encode([records.events(sample_id)])
        one = table.take(np.array([row]))
        assert tuple(one.codes[place] for place in one.index) == expected.codes
        np.testing.assert_array_equal(one.weight, expected.weights)
    assert "LATE" not in table.codes
    assert store.record_counts == records.counts
    assert store.record_counts.n_after_prediction == N - 1


class Listed(OneHot):
    """Returns codes one by one."""

    def encode(self, records):
        return list(super().encode(records))


class Weighing(OneHot):
    """Weighs the code of samples 1 and 4 by a number, or refuses it.

    Counts what it knows of a record.
    """

    has_vocabulary = True

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def encode(self, records):
        if self.weight == "refuse" and any("DX//1" in record.code for record in records):
            raise RecordError("a code that is refused")
        table = super().encode(records)
        own = table.index == (table.codes.index("DX//1") if "DX//1" in table.codes else -1)
        return (
            table
            if self.weight == "refuse"
            else replace(table, weight=np.where(own, np.float32(self.weight), table.weight))
        )

    def known_events(self, record):
        return sum(code.startswith("DX") for code in record.code)


def embed_by(encoder, cohort, root, **options):
    given = {"max_quarantined": 0.5, "shard_size": 4} | options
    return embed(cohort, Modality.EHR, encoder, root, name="by", options={}, **given)


def test_codes_that_come_packed_are_stored_as_those_that_come_one_by_one(cohort, tmp_path):
    packed, listed = (
        embed_by(kind(), cohort, tmp_path / kind.__name__) for kind in (OneHot, Listed)
    )
    written = [
        {path.name: path.read_bytes() for path in store.folder.iterdir()}
        for store in (packed, listed)
    ]
    assert len(written[0]) == 2 * 3 + 3
    assert written[0] == written[1]
    assert packed.present(cohort.sample_ids).tolist() == [row != 2 for row in range(N)]


@pytest.mark.parametrize("workers", [0, 2])
def test_records_that_lie_on_disk_are_stored_as_those_in_memory(
    cohort, tmp_path, monkeypatch, workers
):
    expected = embed_records(cohort, tmp_path / "memory")
    monkeypatch.setattr("concordant.data.meds.records.IN_MEMORY", 1)
    store = embed_records(cohort, tmp_path / "disk", engine=ENGINE_OF[workers])
    assert {path.name: path.read_bytes() for path in store.folder.iterdir()} == {
        path.name: path.read_bytes() for path in expected.folder.iterdir()
    }


@pytest.mark.parametrize(
    ("weight", "reason"),
    [("nan", NOT_FINITE), ("-inf", NOT_FINITE), ("refuse", "a code that is refused")],
)
def test_records_among_packed_ones_are_quarantined_alone(cohort, tmp_path, weight, reason):
    store = embed_by(Weighing(weight), cohort, tmp_path / "e")
    assert store.quarantine.rows() == [("s1", reason), ("s4", reason)]
    table = store.read(cohort.sample_ids)
    assert "DX//1" not in table.codes
    sound = embed_by(Weighing(1), cohort, tmp_path / "sound", shard_size=3)
    expected = sound.read(cohort.sample_ids)
    assert table.lengths.tolist() == [
        0 if row in (1, 4) else length for row, length in enumerate(expected.lengths)
    ]
    for row in {*range(N)} - {1, 4}:
        assert table[row].codes == expected[row].codes
    assert sound.index["n_known"].to_list() == [None if row == 2 else 1 for row in range(N)]


def test_features_stand_in_for_an_encoder_of_either_modality(cohort, tmp_path):
    path = tmp_path / "features.parquet"
    pl.DataFrame(
        {
            "sample_id": ["s6", "s0", "s1", "elsewhere"],
            "x": [6.0, 0.0, None, 1.0],
            "y": [1.0, None, None, 1.0],
        }
    ).write_parquet(path)
    options = FeatureOptions(path=path, missing="median")
    for modality in Modality:
        store = embed(
            cohort,
            modality,
            options,
            tmp_path,
            name="features",
            options=options.model_dump(),
            engine=LocalEngine(2),
        )
        table = store.read(cohort.sample_ids)
        np.testing.assert_array_equal(table.lengths, [1, 0, 0, 0, 0, 0, 1])
        np.testing.assert_array_equal(table.values, [[0, np.nan], [6, 1]])
        assert (table.missing, table.pooled, store.max_tokens) == ("median", None, 1)
    with pytest.raises(FeatureError, match="missing: median"):
        embed(cohort, Modality.CT, FeatureOptions(path=path), tmp_path, name="features", options={})


def test_a_store_that_holds_the_same_is_opened_and_not_touched(cohort, tmp_path):
    digests = DigestCache(tmp_path / "digests.json")
    before = embed_scans(cohort, tmp_path / "e", digests=digests)
    known = states(before.folder)
    assert (tmp_path / "digests.json").is_file()
    after = embed_scans(cohort, tmp_path / "e", digests=DigestCache(tmp_path / "digests.json"))
    assert after.folder == before.folder
    assert states(after.folder) == known


def test_anything_that_matters_makes_a_new_store_and_leaves_the_old_one(cohort, tmp_path):
    first = embed_records(cohort, tmp_path / "e").folder
    known, folders = states(first), {first}

    def is_new(changed_cohort, **options):
        folder = embed_records(changed_cohort, tmp_path / "e", **options).folder
        new = folder not in folders
        folders.add(folder)
        return new

    def changed(**columns):
        cohort.table.with_columns(**columns).write_parquet(cohort.path)
        return read_cohort(cohort.path, label=cohort.label, meds=cohort.meds, splits_required=False)

    assert is_new(cohort, values="none")
    assert is_new(changed(prediction_time=pl.col("prediction_time") + timedelta(days=2)))
    assert is_new(changed(sample_id=pl.col("sample_id") + "x"))
    assert not is_new(changed(time_days=pl.lit(5.0)))
    shard = cohort.meds / "data" / "0.parquet"
    pl.read_parquet(shard).with_columns(code=pl.col("code") + "!").write_parquet(shard)
    assert is_new(cohort)
    assert states(first) == known


def test_what_changed_is_logged(cohort, tmp_path, caplog):
    embed_records(cohort, tmp_path)
    with caplog.at_level("INFO"):
        embed_records(cohort, tmp_path, values="none")
    assert "is a store of its own: options differ from one_hot-" in caplog.text


def test_a_changed_scan_makes_a_new_store(cohort, tmp_path):
    before = embed_scans(cohort, tmp_path / "e")
    image = nib.Nifti1Image(np.arange(720, dtype=np.int16).reshape(8, 9, 10), np.eye(4))
    nib.save(image, cohort.ct_path(5))
    after = embed_scans(cohort, tmp_path / "e")
    assert after.folder != before.folder
    assert after.quarantine.is_empty()


def test_an_option_that_is_a_path_counts_by_its_bytes(cohort, tmp_path):
    folders = []
    for name, value in (("a.parquet", 1.0), ("b.parquet", 1.0), ("c.parquet", 2.0)):
        pl.DataFrame({"sample_id": ["s0"], "x": [value]}).write_parquet(tmp_path / name)
        options = FeatureOptions(path=tmp_path / name)
        folders.append(
            embed(
                cohort,
                Modality.CT,
                options,
                tmp_path / "e",
                name="features",
                options=options.model_dump(),
            ).folder
        )
    assert folders[0] == folders[1] != folders[2]


def test_weights_count_once_by_the_files_that_are_needed_wherever_they_lie(cohort, tmp_path):
    def embedded(folder, digests=None):
        options = {"weights": folder, "batch_size": 2}
        encoder = ENCODERS.create("tiny_ct", **options)
        return embed(
            cohort,
            Modality.CT,
            encoder,
            tmp_path / "e",
            name="tiny_ct",
            options=options,
            max_quarantined=0.5,
            digests=digests,
        ).folder

    digests = DigestCache(tmp_path / "digests.json")
    first = embedded(write_tiny_ct(tmp_path / "weights"), digests)
    assert {
        Path(path).parent.name for path in json.loads((tmp_path / "digests.json").read_text())
    } == {"ct"}
    (tmp_path / "weights" / "README.md").write_text("beside the weights")
    assert embedded((tmp_path / "weights").rename(tmp_path / "moved")) == first
    assert embedded(write_tiny_ct(tmp_path / "others", seed=1)) != first


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = {tests!r}
from test_extract import embed_records
from concordant.data.cohort import read_cohort
folder = Path({folder!r})
cohort = read_cohort(
    folder / "cohort.parquet", label="site A", meds=folder / "meds", splits_required=False
)
def die(stage, done, total):
    if done == 6:
        os.kill(os.getpid(), signal.SIGKILL)
embed_records(cohort, folder / "e", progress=die)
"""


def test_a_killed_run_goes_on_with_the_shards_that_are_missing(cohort, tmp_path):
    script = KILLED.format(
        tests=[str(Path(__file__).parent), str(Path(__file__).parents[2])], folder=str(tmp_path)
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    (folder,) = (tmp_path / "e" / "site-A").iterdir()
    assert not (folder / "manifest.json").exists()
    known = states(folder)
    assert {"index-00000.parquet", "index-00001.parquet"} <= known.keys()
    assert "index-00002.parquet" not in known
    (folder / ".codes-00002.parquet.abc.tmp").write_bytes(b"half")
    seen = []
    store = embed_records(
        cohort,
        tmp_path / "e",
        progress=lambda stage, done, total: "digests" in stage or seen.append(done),
    )
    assert store.folder == folder
    assert seen == [6, 7, 7]
    assert {name: state for name, state in states(folder).items() if name in known} == known
    assert not list(folder.glob(".*.tmp"))
    whole = embed_records(cohort, tmp_path / "other")
    np.testing.assert_array_equal(
        store.read(cohort.sample_ids).weight, whole.read(cohort.sample_ids).weight
    )


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [flip, Path.unlink, lambda path: os.truncate(path, 9)])
@pytest.mark.parametrize("embed_it", [embed_scans, embed_records])
def test_a_damaged_file_of_a_store_is_noticed_named_and_made_again(
    cohort, tmp_path, caplog, embed_it, damage
):
    digests = DigestCache(tmp_path / "digests.json")
    store = embed_it(cohort, tmp_path / "e", digests=digests)
    written = {path.name: path.read_bytes() for path in store.folder.iterdir()}
    for name in written:
        damage(store.folder / name)
        again = embed_it(cohort, tmp_path / "e", digests=digests)
        assert {path.name: path.read_bytes() for path in again.folder.iterdir()} == written, name
        if name.endswith("json") and damage is Path.unlink:
            continue  # a store without a manifest was never finished
        assert "missing or damaged, it is made again" in caplog.text
        caplog.clear()


def test_a_store_made_before_there_were_digests_serves_as_it_is(cohort, tmp_path):
    store = embed_records(cohort, tmp_path)
    for path in store.folder.glob("index-*.parquet"):
        pl.read_parquet(path).drop("files").write_parquet(path)
    manifest = json.loads((store.folder / "manifest.json").read_text())
    without = {key: value for key, value in manifest.items() if key not in ("tables", "digest")}
    (store.folder / "manifest.json").write_text(json.dumps(without))
    known = states(store.folder)
    assert embed_records(cohort, tmp_path).read(cohort.sample_ids).lengths.tolist()
    assert states(store.folder) == known
    (store.folder / "index-00001.parquet").unlink()
    again = embed_records(cohort, tmp_path)
    assert again.read(cohort.sample_ids).lengths.tolist()


def test_a_full_disk_is_one_sentence_and_the_next_run_goes_on(cohort, tmp_path, monkeypatch):
    save, calls = np.save, []

    def fill_up(stream, values, **options):
        calls.append(values)
        if len(calls) == 4:
            stream.write(b"half")
            raise OSError("1000 requested and 96 written")  # numpy's word for a full disk
        save(stream, values, **options)

    monkeypatch.setattr(np, "save", fill_up)
    with pytest.raises(DiskFullError, match="no room left on its disk"):
        embed_scans(cohort, tmp_path / "e")
    (folder,) = (tmp_path / "e" / "site-A").iterdir()
    assert {path.name for path in folder.iterdir()} == {
        "00000.npy",
        "pooled-00000.npy",
        "index-00000.parquet",
        "00001.npy",
    }
    store = embed_scans(cohort, tmp_path / "e")
    assert len(calls) == 4 + 3 * 2
    whole = embed_scans(cohort, tmp_path / "whole")
    assert {path.name: path.read_bytes() for path in store.folder.iterdir()} == {
        path.name: path.read_bytes() for path in whole.folder.iterdir()
    }


def test_several_workers_write_the_same_bytes(cohort, tmp_path):
    alone, seen = embed_scans(cohort, tmp_path / "alone"), []
    together = embed_scans(
        cohort,
        tmp_path / "together",
        engine=LocalEngine(2),
        progress=lambda stage, done, total: seen.append((stage, done, total)),
    )
    for path in alone.folder.glob("*.npy"):
        assert path.read_bytes() == (together.folder / path.name).read_bytes()
    assert together.index.equals(alone.index)
    done = [done for stage, done, total in seen if "digests" not in stage]
    assert done == sorted(done)
    assert seen[-1] == ("site A: volume_features", N, N)
    assert ("site A: volume_features, digests of inputs", N, N) in seen


def test_too_many_quarantined_leave_no_complete_store(cohort, tmp_path):
    reason = "1 of 6 samples cannot be encoded, more than max_quarantined = 0.05 allows: 1 x "
    with pytest.raises(StoreError, match=reason) as caught:
        embed_scans(cohort, tmp_path / "e", max_quarantined=0.05)
    assert "raise max_quarantined" in str(caught.value)
    (folder,) = (tmp_path / "e" / "site-A").iterdir()
    assert not (folder / "manifest.json").exists()
    assert pl.read_parquet(folder / "quarantine.parquet")["sample_id"].to_list() == ["s5"]
    shards = {name: state for name, state in states(folder).items() if name.endswith(".npy")}
    store = embed_scans(cohort, tmp_path / "e", max_quarantined=0.2, engine=LocalEngine(2))
    assert shards.items() <= states(store.folder).items()
    with pytest.raises(StoreError, match=reason):
        embed_scans(cohort, tmp_path / "e", max_quarantined=0.05)


class Moody(VolumeEncoder):
    """An encoder that fails, dies, or returns what it should not, as long as a file is there."""

    def __init__(self, folder):
        self.folder = folder

    @property
    def card(self):
        return EncoderCard(kind="tokens", token_dim=1, max_tokens=1, dtype="float16")

    def encode(self, volumes):
        if (self.folder / "fail").exists():
            raise VolumeError("out of memory")
        if (self.folder / "die").exists():
            os._exit(1)
        with suppress(FileNotFoundError):
            (self.folder / "die once").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        value = next((text for text in ("nan", "inf", "7e4") if (self.folder / text).exists()), "1")
        return [TokenEmbedding(np.array([[float(value)]], np.float32)) for _ in volumes]


def embed_moody(cohort, tmp_path, **options):
    given = {"max_quarantined": 1.0, "shard_size": 4} | options
    return embed(
        cohort, Modality.CT, Moody(tmp_path), tmp_path / "e", name="moody", options={}, **given
    )


def test_quarantined_samples_are_tried_again_only_when_asked(cohort, tmp_path):
    (tmp_path / "fail").touch()
    assert embed_moody(cohort, tmp_path).quarantine.height == 6
    (tmp_path / "fail").unlink()
    assert embed_moody(cohort, tmp_path).quarantine.height == 6
    store = embed_moody(cohort, tmp_path, retry_quarantined=True)
    assert store.quarantine["sample_id"].to_list() == ["s5"]
    assert store.read(cohort.sample_ids).lengths.tolist() == [1, 1, 1, 0, 1, 0, 1]


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_what_is_not_finite_is_quarantined(cohort, tmp_path, value):
    (tmp_path / value).touch()
    assert (
        embed_moody(cohort, tmp_path)
        .quarantine["reason"]
        .value_counts(name="n")
        .filter(pl.col("reason") == NOT_FINITE)["n"]
        .item()
        == 5
    )


class Narrow(TinyCT):
    """A network on a device that holds a few scans at a time, and no scan whose mean is above a
    limit.
    """

    room, greatest, attempts = 2, np.inf, ()

    def features(self, network, batch):
        type(self).attempts = (*self.attempts, len(batch))
        if len(batch) > self.room or any(float(scan.mean()) > self.greatest for scan in batch):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return super().features(network, batch)


def embed_with(cohort, tmp_path, kind, root, batch_size):
    encoder = kind(weights=write_tiny_ct(tmp_path / "weights"), batch_size=batch_size)
    return embed(
        cohort,
        Modality.CT,
        encoder,
        tmp_path / root,
        name="tiny_ct",
        options={"b": batch_size},
        max_quarantined=0.5,
    )


def test_a_batch_that_does_not_fit_is_halved_until_it_does(cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(Narrow, "attempts", ())
    emptied = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(len(Narrow.attempts)))
    store = embed_with(cohort, tmp_path, Narrow, "narrow", 7)
    assert Narrow.attempts == (5, 2, 3, 1, 2)
    assert emptied == [1, 3]  # after each attempt that failed, before the next
    assert store.quarantine["sample_id"].to_list() == ["s5"]
    whole = embed_with(cohort, tmp_path, TinyCT, "whole", 1)
    np.testing.assert_allclose(
        store.read(cohort.sample_ids).values,
        whole.read(cohort.sample_ids).values,
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_scan_that_does_not_fit_alone_is_quarantined(cohort, tmp_path, monkeypatch, batch_size):
    image = nib.Nifti1Image(
        np.arange(200, 920, dtype=np.int16).reshape(8, 9, 10), np.diag([40.0, 40.0, 40.0, 1.0])
    )
    nib.save(image, cohort.ct_path(1))
    monkeypatch.setattr(Narrow, "greatest", -0.5)
    store = embed_with(cohort, tmp_path, Narrow, "narrow", batch_size)
    assert store.quarantine.filter(sample_id="s1")["reason"].to_list() == [
        "does not fit into the memory of the GPU, not even alone"
    ]
    assert store.quarantine.height == 2
    assert store.read(cohort.sample_ids).lengths.astype(bool).tolist() == [
        True,
        False,
        True,
        False,
        True,
        False,
        True,
    ]


def test_a_network_that_does_not_fit_ends_the_run(cohort, tmp_path, monkeypatch):
    def full(network, device):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(WeightsError, match="the network does not fit into the memory of the GPU"):
        embed_with(cohort, tmp_path, TinyCT, "e", 1)


def test_an_overflow_names_cohort_and_encoder(cohort, tmp_path):
    (tmp_path / "7e4").touch()
    with pytest.raises(StoreError, match=r"site A: moody: .*overflow float16"):
        embed_moody(cohort, tmp_path)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_scan_that_takes_its_process_down_is_quarantined(cohort, tmp_path, workers):
    (tmp_path / "die").touch()
    store = embed_moody(cohort, tmp_path, engine=ENGINE_OF[workers])
    reasons = store.quarantine["reason"].value_counts(name="n").sort("n")
    assert reasons["n"].to_list() == [1, 5]
    assert (
        reasons["reason"].to_list()[1]
        == "the process that read it died twice: the worker process exited with code 1"
    )
    (tmp_path / "die").unlink()
    assert embed_moody(cohort, tmp_path, retry_quarantined=True).quarantine.height == 1


def test_digests_are_kept_on_the_way(cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_SECONDS_BETWEEN_SAVES", 0.0)

    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sources.source_of(cohort, Modality.CT, Moody(tmp_path)).digests(
            DigestCache(tmp_path / "digests.json"), stop, 1
        )
    assert len(json.loads((tmp_path / "digests.json").read_text())) >= 3


def test_several_threads_give_the_same_digests_of_a_few_files_at_a_time(
    cohort, tmp_path, monkeypatch
):
    origin, meeting, lock = (
        sources.source_of(cohort, Modality.CT, Moody(tmp_path)),
        threading.Barrier(2),
        threading.Lock(),
    )
    begun, done, ahead = [], [], []

    def digest(file):
        with lock:
            begun.append(file)
            ahead.append(len(begun) - len(done))
        meeting.wait(60)  # nobody comes here alone: two files are read at once
        return file_digest(file)

    alone = origin.digests(DigestCache(), lambda *_: None, 1)
    monkeypatch.setattr(files, "file_digest", digest)
    assert origin.digests(DigestCache(), lambda *now: done.append(now), 2) == alone
    assert done == [(n, N) for n in range(1, N + 1)]
    assert (
        max(ahead) <= 5
    )  # two for each thread, and one that was waited for and is not yet reported


def test_a_path_that_cannot_be_looked_at_costs_one_scan(cohort, tmp_path):
    longer = replace(
        cohort,
        table=cohort.table.with_columns(
            ct_path=pl.col("ct_path").str.replace("ct/0.nii.gz", "x" * 300, literal=True)
        ),
    )
    store = embed_moody(longer, tmp_path)
    assert store.quarantine.filter(pl.col("sample_id") == "s0")["reason"].to_list() == [
        "unreadable file"
    ]


def test_weights_are_looked_at_before_the_scans(cohort, tmp_path):
    stages = []
    encoder = ENCODERS.create("tiny_ct", weights=tmp_path / "absent")
    with pytest.raises(WeightsError):
        embed(
            cohort,
            Modality.CT,
            encoder,
            tmp_path / "e",
            name="t",
            options={},
            progress=lambda stage, *_: stages.append(stage),
        )
    assert stages == []


def test_a_process_that_dies_once_costs_nothing(cohort, tmp_path):
    (tmp_path / "die once").touch()
    assert embed_moody(cohort, tmp_path, engine=LocalEngine(2)).quarantine.height == 1


def test_refuses_a_source_that_does_not_fit_the_cohort(cohort, tmp_path):
    one_hot = ENCODERS.create("one_hot")
    with pytest.raises(StoreError, match="encodes ehr, it was given for ct"):
        embed(cohort, Modality.CT, one_hot, tmp_path, name="one_hot", options={})
    without = read_cohort(cohort.path, splits_required=False)
    with pytest.raises(RecordError, match="no `meds`"):
        embed_records(without, tmp_path)
    cohort.table.drop("ct_path").write_parquet(cohort.path)
    with pytest.raises(CohortError, match="no column ct_path"):
        embed_scans(read_cohort(cohort.path, splits_required=False), tmp_path)
