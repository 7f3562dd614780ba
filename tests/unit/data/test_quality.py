"""What a folder of scans holds, and what each is worth."""

from __future__ import annotations

import errno
import os
import signal
import socket
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from concordant.core.errors import CohortError
from concordant.core.volume import StoredVolume
from concordant.data.quality import find_scans, measure, montage, quality_table
from concordant.data.volumes import VolumeError, read_volume
from dicom_fixture import Geometry, image, save, set_pixels, tilted, write_series

LONG = Geometry(rows=24, columns=24, spacing=(4.0, 4.0), heights=tuple(3.0 * k for k in range(30)))
THIN = Geometry(rows=24, columns=24, spacing=(4.0, 4.0), heights=tuple(1.0 * k for k in range(90)))


def phantom(index: int) -> np.ndarray:
    """A plane of air around a body of soft tissue with lungs, HU; no two planes are equal."""
    random = np.random.default_rng(index)
    plane = random.normal(-1000, 8, (24, 24))
    plane[5:20, 3:21] = random.normal(45, 8, (15, 18))
    plane[8:14, 6:11] = random.normal(-850, 20, (6, 5))
    return np.rint(plane)


def body(index, made):
    set_pixels(made, (phantom(index) + 1024).astype(np.int16))


def with_body(**values):
    def edit(index, made):
        body(index, made)
        for name, value in values.items():
            setattr(made, name, value)

    return edit


def nifti(path: Path, voxels: np.ndarray, spacing=(4.0, 4.0, 3.0)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(voxels, np.diag([*spacing, 1.0])).to_filename(path)
    return path


def phantom_nifti(path: Path, n_slices: int = 30) -> Path:
    """The phantom with its planes as `write_series` lays them.

    Rows run to posterior, columns to left.
    """
    planes = np.stack([phantom(index) for index in range(n_slices)])
    return nifti(
        path, np.ascontiguousarray(planes[:, ::-1, ::-1].transpose(2, 1, 0)).astype(np.int16)
    )


def table_of(folder: Path, **options):
    scans = find_scans(folder, **options)
    return quality_table(scans, [measure(scan) for scan in scans])


def test_geometry_and_intensity_of_a_series(tmp_path):
    write_series(tmp_path / "scan", LONG, edit=with_body(ConvolutionKernel="B30f"), series="1.5")
    (row,) = table_of(tmp_path).to_dicts()
    assert row["ct_path"] == "scan"
    assert (row["format"], row["status"], row["reason"], row["doubts"]) == (
        "dicom",
        "usable",
        None,
        [],
    )
    assert (row["n_depth"], row["n_height"], row["n_width"]) == (30, 24, 24)
    assert row["spacing_depth_mm"] == pytest.approx(3.0)
    assert row["extent_depth_mm"] == pytest.approx(90.0)
    assert row["extent_width_mm"] == pytest.approx(96.0)
    assert (row["axes"], row["obliquity_degrees"], row["even"], row["n_slices"]) == (
        "LPS",
        0.0,
        True,
        30,
    )
    assert (row["kernel"], row["thickness_mm"]) == ("B30f", 2.0)
    assert row["air_peak_hu"] == pytest.approx(-1000, abs=10)
    assert row["soft_tissue_peak_hu"] == pytest.approx(45, abs=10)
    assert row["hu_min"] < -1000 < 60 < row["hu_max"]


def test_copies_are_found_across_formats_and_names(tmp_path):
    write_series(tmp_path / "a", LONG, edit=body, series="1.1")
    phantom_nifti(tmp_path / "b.nii.gz")
    phantom_nifti(tmp_path / "c" / "again.nii")
    phantom_nifti(tmp_path / "d.nii.gz", n_slices=29)
    table = table_of(tmp_path)
    assert table["ct_path"].to_list() == ["a", "b.nii.gz", "c/again.nii", "d.nii.gz"]
    first = table["scan"][0]
    assert table["duplicate_of"].to_list() == [None, first, first, None]
    np.testing.assert_array_equal(
        read_volume(tmp_path / "a").voxels, read_volume(tmp_path / "b.nii.gz").voxels
    )


def test_what_a_person_should_look_at(tmp_path):
    write_series(
        tmp_path / "gap", LONG, keep=[k for k in range(30) if k != 7] + [9], edit=body, series="1.1"
    )
    uneven = Geometry(
        rows=24,
        columns=24,
        spacing=(4.0, 4.0),
        heights=(*LONG.heights[:10], 28.6, *LONG.heights[11:]),
    )
    write_series(tmp_path / "uneven", uneven, edit=body, series="1.2")
    tilt = tilted(10.0, rows=24, columns=24, spacing=(4.0, 4.0), heights=LONG.heights)
    write_series(tmp_path / "tilt", tilt, edit=body, series="1.3")
    write_series(tmp_path / "short", LONG, keep=range(8), edit=body, series="1.4")
    rows = {row["ct_path"]: row for row in table_of(tmp_path).to_dicts()}
    assert rows["gap"]["doubts"] == ["missing slices, interpolated", "copies of slices, left out"]
    assert (rows["gap"]["n_missing"], rows["gap"]["n_copies"], rows["gap"]["n_depth"]) == (1, 1, 30)
    assert rows["uneven"]["doubts"] == ["slices at uneven distances, resampled"]
    assert rows["tilt"]["doubts"] == ["tilted or oblique"]
    assert rows["tilt"]["obliquity_degrees"] == pytest.approx(10.0, abs=0.01)
    assert rows["short"]["doubts"] == ["covers less than 50 mm of the body"]
    assert all(row["status"] == "usable" for row in rows.values())


def test_what_cannot_be_used_is_quarantined_with_its_reason(tmp_path):
    mask = np.zeros((20, 20, 20), np.uint8)
    mask[5:9, 5:9, 5:9] = 1
    nifti(tmp_path / "mask.nii.gz", mask)
    nifti(
        tmp_path / "raw.nii.gz",
        np.random.default_rng(0).integers(0, 4096, (20, 20, 20)).astype(np.uint16),
    )
    nifti(
        tmp_path / "air.nii.gz",
        np.random.default_rng(0).normal(-1000, 10, (20, 20, 20)).astype(np.int16),
    )
    nifti(
        tmp_path / "series.nii.gz",
        np.random.default_rng(0).normal(-1000, 10, (20, 20, 20, 4)).astype(np.int16),
    )
    phantom_nifti(tmp_path / "cut.nii.gz").write_bytes(
        phantom_nifti(tmp_path / "whole.nii.gz").read_bytes()[:-9]
    )
    write_series(tmp_path / "two", LONG, keep=range(2), edit=body, series="1.1")
    write_series(tmp_path / "mr", LONG, edit=with_body(Modality="MR"), series="1.2")
    (tmp_path / "broken.dcm").write_bytes(b"DIC")
    table = table_of(tmp_path)
    found = {row["ct_path"]: (row["status"], row["reason"]) for row in table.to_dicts()}
    assert found.pop("whole.nii.gz") == ("usable", None)
    assert {status for status, _ in found.values()} == {"quarantined"}
    assert {path: reason for path, (_, reason) in found.items()} == {
        "mask.nii.gz": "implausible values: no air, lung or fat (a mask, or not Hounsfield units)",
        "raw.nii.gz": "implausible values: no air, lung or fat (a mask, or not Hounsfield units)",
        "air.nii.gz": "implausible values: no soft tissue",
        "series.nii.gz": "4-D image, expected one 3-D volume",
        "cut.nii.gz": "truncated file",
        "two": "fewer than 5 slices",
        "mr": "wrong modality (MR), expected CT",
        "broken.dcm": "truncated file (named as DICOM, without its mark)",
    }
    assert table.height == 9


def test_no_column_but_the_path_names_anyone(tmp_path):
    write_series(tmp_path / "Secret_Name", LONG, edit=body, series="1.2.3.4")
    write_series(tmp_path / "Secret_Name_MR", LONG, edit=with_body(Modality="MR"), series="1.2.3.5")
    text = str(table_of(tmp_path).drop("ct_path").to_dicts())
    for private in ("Secret", "P1", "1.2.3", str(tmp_path)):
        assert private not in text


def test_series_that_share_a_folder_get_index_files_on_request(tmp_path):
    write_series(tmp_path / "study" / "x", LONG, edit=body, series="1.1")
    for number, file in enumerate(
        write_series(tmp_path / "new", THIN, edit=body, series="1.2").files
    ):
        file.rename(tmp_path / "study" / "x" / f"thin{number}.dcm")
    before = table_of(tmp_path)
    by_depth = dict(zip(before["n_depth"], before["ct_path"], strict=True))
    assert by_depth == {30: None, 90: "study/x"}  # the thin one is what reading the folder gives

    after = table_of(tmp_path, write_index=True)
    for row in after.to_dicts():
        assert read_volume(tmp_path / row["ct_path"]).voxels.shape[0] == row["n_depth"]
    again = table_of(tmp_path)
    assert again.equals(after)


def test_a_multi_frame_file_is_named_itself(tmp_path):
    from dicom_fixture import enhanced

    save(enhanced(LONG), tmp_path / "deep" / "one.dcm")
    assert [scan.ct_path for scan in find_scans(tmp_path)] == ["deep/one.dcm"]


def test_links_that_leave_the_folder_are_listed_with_their_reason(tmp_path):
    far = phantom_nifti(tmp_path / "outside" / "scan.nii.gz")
    slice_file = save(image(LONG, 0), tmp_path / "outside" / "slice.dcm")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "a.nii.gz").symlink_to(far)
    (inside / "b.dcm").symlink_to(slice_file)
    assert table_of(inside)["reason"].to_list() == ["a path that leaves the folder"] * 2


@contextmanager
def hurried():
    """Fail instead of waiting for a pipe that nobody writes to."""

    def complain(number, frame):
        raise TimeoutError("a reader waits")

    before = signal.signal(signal.SIGALRM, complain)
    signal.alarm(60)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_pipes_and_sockets_are_never_opened(tmp_path, monkeypatch):
    phantom_nifti(tmp_path / "good.nii.gz")
    write_series(tmp_path / "series", LONG, edit=body)
    for name in ("a.nii.gz", "b.dcm", "series/control"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "link.nii.gz").symlink_to("a.nii.gz")
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as listening, hurried():
        listening.bind("s.dcm")
        rows = table_of(tmp_path).select("ct_path", "format", "reason").rows()
        assert read_volume(tmp_path / "series").voxels.shape[0] == 30
        for name in ("a.nii.gz", "b.dcm", "s.dcm", "series/control"):
            with pytest.raises(VolumeError, match="not a file"):
                read_volume(tmp_path / name)
    assert rows == [
        ("a.nii.gz", "nifti", "not a file"),
        ("b.dcm", "dicom", "not a file"),
        ("good.nii.gz", "nifti", None),
        ("link.nii.gz", "nifti", "not a file"),
        ("s.dcm", "dicom", "not a file"),
        ("series", "dicom", None),
    ]


def test_a_folder_that_cannot_be_read_is_listed_and_refuses_the_scan_that_it_may_belong_to(
    tmp_path, monkeypatch
):
    folder = write_series(tmp_path / "series", LONG, edit=body).folder
    phantom_nifti(tmp_path / "other" / "good.nii.gz")
    (folder / "closed").mkdir()
    scandir = os.scandir

    def closed(path):
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)  # a superuser reads every folder
    rows = table_of(tmp_path).select("ct_path", "format", "status", "reason").rows()
    assert ("series/closed", None, "quarantined", "unreadable folder") in rows
    assert ("other/good.nii.gz", "nifti", "usable", None) in rows
    assert len(rows) == 3
    with pytest.raises(VolumeError, match="unreadable folder"):
        read_volume(folder)


def test_a_file_that_cannot_be_looked_at_is_listed(tmp_path, monkeypatch):
    phantom_nifti(tmp_path / "deep" / "a.nii.gz")
    save(image(LONG, 0), tmp_path / "deep" / "b.dcm")
    stat = os.stat

    def closed(path, *given, **options):
        if Path(path).parent.name == "deep":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, *given, **options)

    monkeypatch.setattr(os, "stat", closed)
    assert table_of(tmp_path)["reason"].to_list() == ["unreadable file"] * 2


def test_what_is_no_folder_is_an_error(tmp_path):
    with pytest.raises(CohortError, match="not a folder"):
        find_scans(tmp_path / "absent")
    assert find_scans(tmp_path) == ()
    assert quality_table((), ()).height == 0


# montage


def test_a_montage_shows_slices_as_a_radiologist_sees_them():
    voxels = np.full((40, 40, 40), -1000, np.int16)
    voxels[:, 20:, :] = -300  # anterior half
    voxels[:, :, 20:] += 200  # right half
    voxels[20:] += 400  # superior half
    picture = montage(StoredVolume(voxels, 1.0, 0.0, (1.0, 1.0, 1.0)))
    assert picture.shape == (3 * 192, 4 * 192)
    axial, coronal, sagittal = picture[:192, :192], picture[192:384, :192], picture[384:, :192]
    assert axial[10, 100].astype(int) > axial[180, 100]  # anterior is up
    assert axial[100, 10].astype(int) > axial[100, 180]  # the patient's right is on the left
    assert coronal[10, 100].astype(int) > coronal[180, 100]  # superior is up
    assert coronal[100, 10].astype(int) > coronal[100, 180]
    assert sagittal[10, 100].astype(int) > sagittal[180, 100]
    assert sagittal[100, 10].astype(int) > sagittal[100, 180]  # anterior is on the left


def test_a_montage_keeps_proportions():
    voxels = np.full((10, 40, 40), 400, np.int16)
    picture = montage(StoredVolume(voxels, 1.0, 0.0, (2.0, 1.0, 1.0)))
    coronal = picture[192:384, :192]
    assert (coronal > 0).any(1).sum() == 96  # 20 mm high, 40 mm wide
    assert (coronal > 0).any(0).sum() == 192
