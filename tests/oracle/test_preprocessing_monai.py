"""Preprocessing against MONAI's Orientation, Spacing, ScaleIntensityRange and ResizeWithPadOrCrop,
on files in several orientations.

Tolerance: 1e-6 of the target range for windows of at least 2000 HU (seen: 3e-7); MONAI resamples in
float64, we in float32.
"""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from concordant.data.volumes import open_volume
from concordant.encoders.preprocessing import Preprocessing, preprocess

monai = pytest.importorskip("monai", reason="MONAI is not installed")

DATA = (
    Path(os.environ.get("CONCORDANT_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
    / "ct_volumes"
    / "totalseg"
)
FILES = [
    "example_ct.nii.gz",
    "example_ct_sm.nii.gz",
    "chest_pulmonary_ct_cropped.nii.gz",
    "aorta_ct_cropped.nii.gz",
]
STEPS = {
    "merlin": Preprocessing(
        "RAS", (-1000.0, 1000.0), (0.0, 1.0), (1.5, 1.5, 3.0), (224, 224, 160), pad=0.0
    ),
    "ctfm": Preprocessing("SPL", (-1024.0, 2048.0), (0.0, 1.0), (3.0, 1.0, 1.0), pad=None),
    "small and off centre": Preprocessing(
        "LIA", (-1000.0, 1000.0), (-1.0, 1.0), (2.2, 1.7, 2.9), (47, 50, 33), pad="minimum"
    ),
    "as scanned": Preprocessing(
        "PRS", (-1000.0, 1000.0), (-1.0, 1.0), None, (90, 131, 60), pad=-1.0
    ),
}


def by_monai(path, steps):
    from monai.data import MetaTensor
    from monai.transforms import Orientation, ResizeWithPadOrCrop, ScaleIntensityRange, Spacing

    image = nib.load(path)
    tensor = MetaTensor(np.asarray(image.get_fdata(), np.float32)[None], affine=image.affine)
    tensor = Orientation(axcodes=steps.orientation, labels=(("L", "R"), ("P", "A"), ("I", "S")))(
        tensor
    )
    if steps.spacing_mm is not None:
        tensor = Spacing(pixdim=steps.spacing_mm, mode="bilinear")(tensor)
    tensor = ScaleIntensityRange(*steps.window_hu, *steps.target, clip=True)(tensor)
    if steps.size is not None:
        pad = float(tensor.min()) if steps.pad == "minimum" else steps.pad
        tensor = ResizeWithPadOrCrop(steps.size, mode="constant", constant_values=pad)(tensor)
    return tensor.numpy()[0]


def assert_equals_monai(path, steps):
    tensor, expected = preprocess(open_volume(path), steps), by_monai(path, steps)
    assert tensor.shape == expected.shape
    np.testing.assert_allclose(tensor, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("file", FILES)
def test_real_scans(file, name):
    if not (DATA / file).is_file():
        pytest.skip("no development data: set CONCORDANT_DATA to the folder that holds ct_volumes")
    assert_equals_monai(DATA / file, STEPS[name])


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("orientation", ["RAS", "LPS", "SPL", "AIL", "PSR"])
def test_generated_scans_in_any_orientation(tmp_path, orientation, name):
    voxels = np.random.default_rng(0).integers(-1200, 1800, (61, 45, 38)).astype(np.int16)
    turn = nib.orientations.ornt_transform(
        [[0, 1], [1, 1], [2, 1]], nib.orientations.axcodes2ornt(orientation)
    )
    image = nib.Nifti1Image(voxels, np.diag([1.3, 0.9, 2.6, 1.0])).as_reoriented(turn)
    image.header.set_xyzt_units("mm")
    assert nib.aff2axcodes(image.affine) == tuple(orientation)
    nib.save(image, tmp_path / "scan.nii.gz")
    assert_equals_monai(tmp_path / "scan.nii.gz", STEPS[name])
