from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image
from typer.testing import CliRunner

from concordant.cli import app
from concordant.cli.scans import _qualities
from concordant.core.errors import ConcordantError
from concordant.data.quality import ScanQuality, find_scans
from concordant.engines import Failure, Outcome
from dicom_fixture import Geometry, set_pixels, write_series

DATA = (
    Path(os.environ.get("CONCORDANT_DATA", Path(__file__).parents[3] / ".." / "shared" / "data"))
    / "ct_volumes"
)
GEOMETRY = Geometry(
    rows=16, columns=16, spacing=(5.0, 5.0), heights=tuple(5.0 * k for k in range(12))
)


def body(index, made):
    plane = np.random.default_rng(index).normal(-1000, 8, (16, 16))
    plane[4:12, 4:12] = 40 + index
    set_pixels(made, np.rint(plane + 1024).astype(np.int16))


def run(*arguments):
    return CliRunner().invoke(app, ["scans", *map(str, arguments)])


def test_a_folder_becomes_a_table_and_pictures_and_the_screen_names_nobody(tmp_path):
    folder = tmp_path / "Secret_Name"
    write_series(folder / "good", GEOMETRY, edit=body, series="1.1")
    write_series(folder / "copy", GEOMETRY, edit=body, series="1.2")
    write_series(folder / "few", GEOMETRY, keep=[0, 1], edit=body, series="1.3")
    out, pictures = tmp_path / "scans.parquet", tmp_path / "pictures"
    result = run(folder, "--out", out, "--montage", pictures, "--workers", 2)
    assert result.exit_code == 0, result.output
    assert "3 scans: 2 usable, 1 quarantined, 1 with the voxels of another" in result.stdout
    assert "fewer than 5 slices" in result.stdout
    shown = result.output.replace(str(out), "")
    assert "Secret" not in shown
    table = pl.read_parquet(out)
    assert table["ct_path"].to_list() == ["copy", "few", "good"]
    assert table.filter(status="quarantined")["reason"].to_list() == ["fewer than 5 slices"]
    assert {file.name for file in pictures.iterdir()} == {f"{key}.png" for key in table["scan"]}
    with Image.open(pictures / f"{table['scan'][0]}.png") as picture:
        assert (picture.size, picture.mode) == ((768, 576), "L")


def test_a_folder_that_is_not_there_is_one_line_and_exit_code_2(tmp_path):
    result = run(tmp_path / "absent", "--out", tmp_path / "scans.parquet")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert "not a folder" in result.stderr
    assert not (tmp_path / "scans.parquet").exists()


def test_a_reader_that_brings_its_process_down_costs_one_scan(tmp_path):
    write_series(tmp_path, GEOMETRY, edit=body)
    found = find_scans(tmp_path) * 2
    crash = Outcome(0, failure=Failure("WorkerCrash", "the worker process was ended by SIGSEGV"))
    qualities = _qualities(found, [crash, Outcome(1, ScanQuality(found[0].key, None))])
    assert [quality.reason for quality in qualities] == ["the reader failed (WorkerCrash)", None]
    with pytest.raises(ConcordantError, match="install"):
        _qualities(
            found[:1], [Outcome(0, failure=Failure("ConcordantError", "install it", expected=True))]
        )


@pytest.mark.skipif(
    not DATA.is_dir(),
    reason="no development data: set CONCORDANT_DATA to the folder that holds ct_volumes",
)
def test_every_real_file_is_usable_or_has_its_reason(tmp_path):
    out = tmp_path / "scans.parquet"
    assert run(DATA, "--out", out).exit_code == 0
    found = {
        path: reason
        for path, reason in pl.read_parquet(out).select("ct_path", "reason").iter_rows()
        if path is not None
    }
    mask = "implausible values: no air, lung or fat (a mask, or not Hounsfield units)"
    assert found == {
        "pydicom/J2K_pixelrep_mismatch.dcm": "fewer than 5 slices",
        "pydicom/bad_sequence.dcm": "fewer than 5 slices",
        "pydicom/eCT_Supplemental.dcm": "not HU: perfusion map",
        "pydicom/explicit_VR-UN.dcm": "fewer than 5 slices",
        "totalseg/aorta_ct_cropped.nii.gz": None,
        "totalseg/chest_heart_mask.nii.gz": mask,
        "totalseg/chest_pulmonary_artery_mask.nii.gz": mask,
        "totalseg/chest_pulmonary_ct_cropped.nii.gz": None,
        "totalseg/dicom_j2k_series": None,
        "totalseg/example_ct.nii.gz": None,
        "totalseg/example_ct_sm.nii.gz": None,
        "totalseg/example_seg.nii.gz": mask,
    }
