"""Which files are a series, which series is the scan, and what an index file says."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from concordant.core.errors import ConcordantError
from concordant.core.files import DigestCache
from concordant.data.quality import find_scans
from concordant.data.volumes import VolumeError, read_volume, source_files
from concordant.data.volumes.dicom_series import SHARP, SOFT, UNKNOWN, kernel_sharpness
from concordant.embeddings.sources import path_digest
from dicom_fixture import Geometry, image, save, set_pixels, write_series

LONG = Geometry(heights=tuple(2.0 * k for k in range(20)))
THIN = Geometry(heights=tuple(1.0 * k for k in range(40)))
SHORT = Geometry(heights=tuple(0.5 * k for k in range(20)))


def reason(path: Path) -> str:
    with pytest.raises(VolumeError) as error:
        read_volume(path)
    return error.value.reason


def kernel(name: str):
    def edit(index, made):
        made.ConvolutionKernel = name

    return edit


def test_a_series_is_found_in_any_folder_layout_among_other_files(tmp_path):
    written = write_series(tmp_path, LONG)
    known = read_volume(tmp_path).voxels
    for number, file in enumerate(written.files):
        place = tmp_path / f"DISK{number % 3}" / f"A{number % 2}" / f"IM{number}"
        place.parent.mkdir(parents=True, exist_ok=True)
        file.rename(place)
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + bytes(100))
    (tmp_path / "readme.txt").write_text("not an image")
    np.testing.assert_array_equal(read_volume(tmp_path).voxels, known)


def test_an_empty_series_uid_falls_back_on_folder_frame_of_reference_and_orientation(tmp_path):
    for name in ("a", "b"):
        write_series(tmp_path / name, LONG, series="")
    assert reason(tmp_path).startswith("several series are equally good")
    scout = image(Geometry(along_column=(0, 0, -1)), 0, series="")
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    save(scout, tmp_path / "a" / "scout.dcm")
    assert read_volume(tmp_path / "a").voxels.shape[0] == 20


def test_the_smallest_distance_wins_and_the_log_says_so_without_identifiers(tmp_path, caplog):
    write_series(tmp_path / "thick", LONG, series="1.1")
    write_series(tmp_path / "thin", THIN, series="1.2")
    with caplog.at_level(logging.INFO, "concordant"):
        volume = read_volume(tmp_path)
    assert volume.spacing_mm[0] == pytest.approx(1.0)
    assert "2 usable series in one folder" in caplog.text
    assert "(40 slices)" in caplog.text
    assert "1.2 " not in caplog.text
    assert str(tmp_path) not in caplog.text


def test_a_soft_kernel_comes_before_a_small_distance(tmp_path):
    write_series(tmp_path / "soft", LONG, series="1.1", edit=kernel("B30f"))
    write_series(tmp_path / "lung", THIN, series="1.2", edit=kernel("B70f"))
    assert read_volume(tmp_path).spacing_mm[0] == pytest.approx(2.0)


def test_a_short_series_is_no_candidate(tmp_path):
    write_series(tmp_path / "scan", LONG, series="1.1")
    write_series(tmp_path / "bolus", SHORT, series="1.2")
    assert read_volume(tmp_path).spacing_mm[0] == pytest.approx(2.0)


def test_original_comes_before_lossy_copies(tmp_path):
    def lossy(index, made):
        made.ImageType = ["DERIVED", "PRIMARY", "AXIAL"]
        made.LossyImageCompression = "01"

    write_series(tmp_path / "lossy", THIN, series="1.2", edit=lossy)
    assert read_volume(tmp_path / "lossy").spacing_mm[0] == pytest.approx(1.0)
    write_series(tmp_path / "original", LONG, series="1.1")
    assert read_volume(tmp_path).spacing_mm[0] == pytest.approx(2.0)


def test_equally_good_series_and_several_studies_are_refused(tmp_path):
    write_series(tmp_path / "phases" / "a", LONG, series="1.1")
    write_series(tmp_path / "phases" / "b", LONG, series="1.2")
    assert (
        reason(tmp_path / "phases") == "several series are equally good to read; name one of them"
    )

    def other_patient(index, made):
        made.PatientID = "P2"

    write_series(tmp_path / "people" / "a", LONG, series="1.1")
    write_series(tmp_path / "people" / "b", THIN, series="1.2", edit=other_patient)
    assert reason(tmp_path / "people").startswith("series of several studies")


def test_where_no_series_can_be_read_the_commonest_reason_is_given(tmp_path):
    def mr(index, made):
        made.Modality = "MR"

    write_series(tmp_path / "mr", LONG, series="1.1", edit=mr)
    scout = image(Geometry(), 0, series="1.2")
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    save(scout, tmp_path / "scout.dcm")
    assert reason(tmp_path) == "wrong modality (MR), expected CT"


def test_an_unreadable_file_refuses_the_folder(tmp_path):
    folder = write_series(tmp_path, LONG).folder
    (folder / "extra.dcm").write_bytes(b"")
    assert reason(folder).startswith("truncated file")


@pytest.mark.parametrize(
    ("name", "sharpness"),
    [
        *[
            (name, SOFT)
            for name in ("STANDARD", "SOFT", "B30f", "Br38f", "I31f", "FC08", "B", "Qr40d")
        ],
        *[
            (name, SHARP)
            for name in ("LUNG", "BONEPLUS", "B70f", "Br64d", "I50f", "FC51", "YC", "Bl57d")
        ],
        *[(name, UNKNOWN) for name in ("", "11", "something else")],
    ],
)
def test_kernels_are_soft_sharp_or_unknown(name, sharpness):
    assert kernel_sharpness(name) == sharpness


# index files


def test_a_chosen_series_overrides_the_preference(tmp_path):
    thick = write_series(tmp_path / "thick", LONG, series="1.1")
    write_series(tmp_path / "thin", THIN, series="1.2")
    lines = "\n".join(str(file.relative_to(tmp_path)) for file in thick.files)
    (tmp_path / "chosen.series").write_text(f"# a comment\n\n{lines}\n")
    assert read_volume(tmp_path).spacing_mm[0] == pytest.approx(2.0)
    assert read_volume(tmp_path / "chosen.series").spacing_mm[0] == pytest.approx(2.0)
    assert len(source_files(tmp_path / "chosen.series")) == 21
    assert len(source_files(tmp_path)) == 61


def test_an_index_may_name_a_derived_series_but_no_map(tmp_path):
    def derived(index, made):
        made.ImageType = ["DERIVED", "SECONDARY", "MPR"]

    files = write_series(tmp_path, LONG, edit=derived).files
    assert reason(tmp_path).startswith("a derived image")
    index = tmp_path / "mine.series"
    index.write_text("\n".join(file.name for file in files))
    assert read_volume(index).voxels.shape[0] == 20

    def unit(index, made):
        derived(index, made)
        made.RescaleType = "MGML"

    write_series(tmp_path, LONG, edit=unit)
    assert reason(index).startswith("not HU")


def outside(tmp_path: Path) -> Path:
    """A slice in another folder."""
    return save(image(LONG, 0), tmp_path / "outside" / "slice.dcm")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("../outside/slice.dcm", "a path that leaves the folder"),
        ("{root}/outside/slice.dcm", "a path that leaves the folder"),
        ("link.dcm", "a path that leaves the folder"),
        ("/etc/passwd", "a path that leaves the folder"),
        ("absent.dcm", "index file lists a file that is not there"),
        ("0000.dcm\n0000.dcm", "index file lists no file, or one twice"),
        ("# nothing", "index file lists no file, or one twice"),
        ("notes.txt", "index file lists a file that is no DICOM image"),
        ("0000.dcm\n0001.dcm\nother.dcm", "index file lists several series"),
    ],
)
def test_bad_index_files_are_refused(tmp_path, lines, expected):
    folder = write_series(tmp_path / "scan", LONG).folder
    save(image(LONG, 0, series="1.7"), folder / "other.dcm")
    (folder / "notes.txt").write_text("notes")
    (folder / "link.dcm").symlink_to(outside(tmp_path))
    index = folder / "bad.series"
    index.write_text(lines.format(root=tmp_path))
    assert reason(index) == expected


def test_an_index_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "bad.series").write_bytes(b"\xff\xfe\x00")
    assert reason(tmp_path / "bad.series") == "unreadable index file"


def test_links_that_leave_the_folder_are_refused_others_are_read(tmp_path):
    folder = write_series(tmp_path / "scan", LONG).folder
    known = read_volume(folder).voxels
    moved = folder / "store"
    moved.mkdir()
    (folder / "0003.dcm").rename(moved / "blob")
    (folder / "0003.dcm").symlink_to(moved / "blob")
    np.testing.assert_array_equal(read_volume(folder).voxels, known)  # one copy of a slice more
    (folder / "far.dcm").symlink_to(outside(tmp_path))
    assert reason(folder) == "a path that leaves the folder"


def test_a_file_that_is_named_itself_may_be_a_link(tmp_path):
    far = write_series(tmp_path / "far", LONG).files[0]
    (tmp_path / "scan").mkdir()
    (tmp_path / "scan" / "one.dcm").symlink_to(far)
    np.testing.assert_array_equal(
        read_volume(tmp_path / "scan" / "one.dcm").voxels, read_volume(far).voxels
    )


def test_what_macos_leaves_beside_files_is_no_scan(tmp_path):
    folder = write_series(tmp_path, LONG).folder
    (folder / "._0000.dcm").write_bytes(b"\x00\x05\x16\x07" + bytes(200))
    assert len(read_volume(folder).voxels) == len(LONG.heights)


def test_a_link_to_a_folder_is_not_entered(tmp_path):
    folder = write_series(tmp_path / "scan", LONG).folder
    write_series(tmp_path / "elsewhere", THIN, series="1.9")
    (folder / "deeper").symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to(folder)
    assert read_volume(folder).spacing_mm[0] == pytest.approx(2.0)


def test_positions_are_checked_before_any_pixel_is_read(tmp_path):
    written = write_series(tmp_path, Geometry(heights=(0.0, 2.0, 30.0)))
    for file in written.files:
        file.write_bytes(file.read_bytes()[:-20])
    assert reason(written.folder).startswith("missing slices")


@pytest.mark.parametrize("what", ["folder", "index"])
def test_a_digest_covers_every_slice(tmp_path, what):
    files = sorted(write_series(tmp_path, LONG).files)
    path = tmp_path
    if what == "index":
        path = tmp_path / "mine.series"
        path.write_text("\n".join(file.name for file in files))
    before = path_digest(path, DigestCache())
    assert before == path_digest(path, DigestCache())
    files[3].write_bytes(files[3].read_bytes()[:-1] + b"\x07")
    assert path_digest(path, DigestCache()) not in (before, None)
    assert path_digest(tmp_path / "absent", DigestCache()) is None
    (tmp_path / "empty").mkdir()
    assert path_digest(tmp_path / "empty", DigestCache()) is None


def test_thousands_of_copies_of_a_position_do_not_ask_for_more_memory_than_one(tmp_path):
    written = write_series(tmp_path, LONG, keep=[*range(20), *[3] * 30])
    assert read_volume(written.folder).voxels.shape[0] == 20
    odd = image(LONG, 3)
    set_pixels(odd, np.zeros((8, 9), np.int16))
    save(odd, written.folder / "odd.dcm")
    assert reason(written.folder).startswith("different slices at one position")


def test_without_the_extra_dicom_says_what_to_install_and_nifti_is_read(tmp_path, monkeypatch):
    write_series(tmp_path / "dicom", LONG)
    (tmp_path / "nifti").mkdir()
    nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4)).to_filename(
        tmp_path / "nifti" / "scan.nii"
    )
    monkeypatch.setitem(sys.modules, "pydicom", None)  # as if it were not installed
    with pytest.raises(ConcordantError, match=r"pip install 'concordant\[dicom\]'"):
        read_volume(tmp_path / "dicom")
    assert read_volume(tmp_path / "nifti" / "scan.nii").voxels.shape == (5, 4, 3)
    assert [scan.ct_path for scan in find_scans(tmp_path / "nifti")] == ["scan.nii"]
