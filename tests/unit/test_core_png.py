from __future__ import annotations

import numpy as np
import pytest

from concordant.core.png import png_bytes
from png_fixture import read_png


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (1, 1)])
def test_pictures_are_written_as_they_are(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    np.testing.assert_array_equal(read_png(png_bytes(pixels)), pixels)


def test_simpleitk_reads_them(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    pixels = np.random.default_rng(0).integers(0, 256, (9, 4), np.uint8)
    (tmp_path / "one.png").write_bytes(png_bytes(pixels[:, ::-1]))
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "one.png"))), pixels[:, ::-1]
    )
