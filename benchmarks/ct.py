"""Times a scan on its way from file to network input, beside MONAI and SimpleITK, on one thread.

Writes ct.csv beside this file.

The scan has 512 x 512 x 300 voxels of int16: as `.nii.gz`, as `.nii` (each in a folder of its own)
and as a DICOM series of 300 slices. Every package makes the same tensor, at the spacing, window and
size of COLIPRI and of Merlin, in a process of its own, so that its peak memory is its own (that of
the process, `VmHWM`, and what the imports alone took). `difference` is the greatest one from
MONAI's tensor, whose values span 2 (COLIPRI) or 1 (Merlin); SimpleITK leaves a last slice empty
that rounding puts beyond the scan's last one. Seconds are processor time, which other work on the
machine changes little; files are in the page cache. Medians of three, MONAI of two.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

COLUMNS = [
    "input",
    "network",
    "package",
    "version",
    "seconds",
    "ratio_to_concordant",
    "read_seconds",
    "prepare_seconds",
    "peak_mb",
    "import_mb",
    "difference",
    "file_mb",
    "python",
    "processor",
    "threads",
]
PACKAGES = {"concordant": ("concordant", 3), "simpleitk": ("SimpleITK", 3), "monai": ("monai", 2)}
INPUTS = ("nii.gz", "nii", "dicom")
NETWORKS = ("colipri", "merlin")
SHAPE = (300, 512, 512)
SPACING = (1.25, 0.78, 0.78)
ONE_THREAD = {
    name: "1"
    for name in (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
    )
}


def steps_of(network: str) -> Any:
    """Return what a network wants to see, with MONAI's sampling convention, so that all packages
    can make the same tensor.
    """
    from concordant.encoders.colipri import Colipri
    from concordant.encoders.merlin import Merlin

    encoder = {"colipri": Colipri, "merlin": Merlin}[network](weights=Path("absent"))
    return replace(encoder.steps, convention="monai")


def write_inputs(folder: Path) -> None:
    """Write a body with lungs, ribs and noise, whose compressed size is that of a noisy chest
    CT.
    """
    import nibabel as nib
    import numpy as np

    generator = np.random.default_rng(0)
    depth, height, width = (np.linspace(-1, 1, size, dtype=np.float32) for size in SHAPE)
    y, x = height[:, None], width[None, :]
    noise = generator.normal(0, 1, SHAPE[1:]).astype(np.float32)
    voxels = np.empty(SHAPE, np.int16)
    for at, z in enumerate(depth):
        body = x**2 + 1.6 * y**2 < 0.7
        lungs = ((np.abs(x) - 0.38) / 0.28) ** 2 + (y / 0.45) ** 2 + (z / 0.9) ** 2 < 1
        slice_ = np.where(lungs, -830, np.where(body, 40 + 25 * np.sin(12 * x + 9 * z), -1000))
        spread = np.where(body, 110, 40) * (1 + 0.3 * z)
        voxels[at] = np.clip(
            slice_ + spread * np.roll(noise, (37 * at, 91 * at), (0, 1)), -1024, 3071
        )
    affine = np.diag(
        [-SPACING[2], -SPACING[1], SPACING[0], 1.0]
    )  # stored to left and posterior, as scanners do
    stored = voxels[:, ::-1, ::-1].transpose(2, 1, 0)
    image = nib.Nifti1Image(stored, affine)
    image.header.set_xyzt_units("mm")
    for name in ("nii.gz", "nii"):
        (folder / name).mkdir()
        nib.save(image, folder / name / f"scan.{name}")
    write_series(folder / "dicom", voxels[:, ::-1, ::-1])


def write_series(folder: Path, voxels: Any) -> None:
    """Write slices (posterior and left growing) as an uncompressed series in file order that is
    not slice order.
    """
    import pydicom
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder.mkdir()
    series, study, frame = (
        generate_uid(entropy_srcs=[name]) for name in ("series", "study", "frame")
    )
    for at, pixels in enumerate(voxels):
        header = pydicom.Dataset()
        header.file_meta = pydicom.dataset.FileMetaDataset()
        header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID = CTImageStorage
        header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID = generate_uid(
            entropy_srcs=[f"slice {at}"]
        )
        header.SeriesInstanceUID, header.StudyInstanceUID, header.FrameOfReferenceUID = (
            series,
            study,
            frame,
        )
        header.Modality, header.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
        header.PatientID, header.InstanceNumber, header.SeriesNumber = "phantom", at + 1, 1
        header.ImagePositionPatient, header.ImageOrientationPatient = (
            [0.0, 0.0, at * SPACING[0]],
            [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        )
        header.PixelSpacing, header.SliceThickness = [SPACING[1], SPACING[2]], SPACING[0]
        header.Rows, header.Columns, header.SamplesPerPixel, header.PhotometricInterpretation = (
            *pixels.shape,
            1,
            "MONOCHROME2",
        )
        header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = (
            16,
            16,
            15,
            1,
        )
        header.RescaleSlope, header.RescaleIntercept, header.RescaleType = 1, 0, "HU"
        header.PixelData = pixels.astype("<i2").tobytes()
        header.save_as(folder / f"{(at * 7) % len(voxels):04d}.dcm", enforce_file_format=True)


def by_concordant(path: Path, steps: Any) -> Iterator[Any]:
    """Read, then prepare; each yields."""
    from concordant.data.volumes import open_volume
    from concordant.encoders.preprocessing import preprocess

    volume = open_volume(path)
    yield None
    yield preprocess(volume, steps)


def by_simpleitk(path: Path, steps: Any) -> Iterator[Any]:
    """Read, then resample straight to the cropped grid."""
    import numpy as np
    import SimpleITK as sitk  # noqa: N813 # the name it goes by

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    image = read_by_simpleitk(path)
    yield None
    directions = {"R": (-1, 0, 0), "A": (0, -1, 0), "S": (0, 0, 1)}  # of RAS in ITK's LPS
    axes = np.array(
        [directions[letter] for letter in steps.orientation]
    ).T  # columns: where each axis of the tensor runs to
    to_axes = np.linalg.inv(axes) @ np.array(image.GetDirection()).reshape(3, 3)
    source = np.abs(to_axes).argmax(1)
    n, step = np.array(image.GetSize())[source], np.array(image.GetSpacing())[source]
    corner = np.where(to_axes.sum(1) > 0, 0, n - 1)[np.argsort(source)]
    wanted, size = np.array(steps.spacing_mm), np.array(steps.size)
    resampled = np.round((n - 1) * step / wanted + 1).astype(int)
    start = np.where(resampled > size, resampled // 2 - size // 2, -((size - resampled) // 2))
    origin = np.array(image.TransformIndexToPhysicalPoint(corner.tolist())) + axes @ (
        start * wanted
    )
    low, high = steps.window_hu
    outside = (
        low
        if steps.pad == "minimum"
        else low
        + (steps.pad - steps.target[0]) / (steps.target[1] - steps.target[0]) * (high - low)
    )
    result = sitk.Resample(
        image,
        size.tolist(),
        sitk.Transform(),
        sitk.sitkLinear,
        origin.tolist(),
        wanted.tolist(),
        axes.ravel().tolist(),
        outside,
        sitk.sitkFloat32,
    )
    values = sitk.GetArrayViewFromImage(result).transpose(2, 1, 0)
    share = np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1)
    yield np.ascontiguousarray(
        share * np.float32(steps.target[1] - steps.target[0]) + np.float32(steps.target[0])
    )


def read_by_simpleitk(path: Path) -> Any:
    """Read a file, or a folder with a series."""
    import SimpleITK as sitk  # noqa: N813 # the name it goes by

    if not path.is_dir():
        return sitk.ReadImage(str(path))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(path)))
    return reader.Execute()


def by_monai(path: Path, steps: Any) -> Iterator[Any]:
    """Read (a series by SimpleITK), then the chain of transforms."""
    import numpy as np
    import torch
    from monai.data import MetaTensor
    from monai.transforms import (
        Compose,
        LoadImage,
        Orientation,
        ResizeWithPadOrCrop,
        ScaleIntensityRange,
        Spacing,
    )

    torch.set_num_threads(1)
    if path.is_dir():
        import SimpleITK as sitk  # noqa: N813 # the name it goes by

        image = read_by_simpleitk(path)
        to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
        affine = np.eye(4)
        affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
        affine[:3, 3] = image.GetOrigin()
        tensor = MetaTensor(
            sitk.GetArrayFromImage(image).transpose(2, 1, 0)[None].astype(np.float32),
            affine=to_ras @ affine,
        )
    else:
        tensor = LoadImage(ensure_channel_first=True)(path)
    yield None
    pad = steps.target[0] if steps.pad == "minimum" else steps.pad
    chain = Compose(
        [
            Orientation(axcodes=steps.orientation, labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            Spacing(steps.spacing_mm, mode="bilinear"),
            ScaleIntensityRange(*steps.window_hu, *steps.target, clip=True),
            ResizeWithPadOrCrop(steps.size, mode="constant", constant_values=pad),
        ]
    )
    yield chain(tensor)[0].numpy()


WAYS: dict[str, Callable[[Path, Any], Iterator[Any]]] = {
    "concordant": by_concordant,
    "simpleitk": by_simpleitk,
    "monai": by_monai,
}


def memory_mb(field: str) -> float:
    """Return what the kernel says of this process: VmRSS (now) or VmHWM (at most so far)."""
    line = next(
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith(field)
    )
    return int(line.split()[1]) / 1024


def measure(package: str, path: Path, network: str, result: Path) -> None:
    """Measure one way in this process; print what was found as JSON and keep the tensor."""
    import numpy as np

    warnings.simplefilter("ignore")  # of the peers
    steps = steps_of(network)
    warm_up(package, steps)
    imported = memory_mb("VmRSS")
    times = []
    for _ in range(PACKAGES[package][1]):
        tensor = None
        start = time.process_time()
        way = WAYS[package](path, steps)
        next(way)
        read = time.process_time()
        tensor = next(way)
        times.append((read - start, time.process_time() - read))
        way.close()
    peak = memory_mb("VmHWM")
    np.save(result, tensor)
    whole = statistics.median(sum(one) for one in times)
    read_seconds, prepare_seconds = (statistics.median(part) for part in zip(*times, strict=True))
    print(json.dumps([whole, read_seconds, prepare_seconds, peak, imported]))


def warm_up(package: str, steps: Any) -> None:
    """Import, and compile where something is compiled, on a scan of a few voxels."""
    import nibabel as nib
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        voxels = np.arange(20 * 21 * 22, dtype=np.int16).reshape(20, 21, 22)
        for suffix in ("nii", "nii.gz"):
            nib.save(
                nib.Nifti1Image(voxels, np.diag([-1.0, -1.0, 2.0, 1.0])),
                Path(folder) / f"scan.{suffix}",
            )
            list(WAYS[package](Path(folder) / f"scan.{suffix}", steps))


def resampling(path: Path) -> None:
    """Time ways to resample the whole scan from memory to COLIPRI's spacing and cube.

    Print rows as JSON.
    """
    import numpy as np
    import SimpleITK as sitk  # noqa: N813 # the name it goes by
    import torch

    from concordant.data.volumes import open_volume
    from concordant.encoders.preprocessing import preprocess, samples_along

    torch.set_num_threads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    steps = steps_of("colipri")
    volume = open_volume(path)
    along = sorted(samples_along(volume, steps), key=lambda one: one.axis)
    stored = np.ascontiguousarray(volume.stored)
    image = sitk.GetImageFromArray(stored)

    def separable() -> Any:
        values = stored
        for axis, one in enumerate(along):
            low = np.floor(one.place).astype(int)
            weight = np.expand_dims(
                (one.place - low).astype(np.float32), [other for other in range(3) if other != axis]
            )
            high = np.minimum(low + 1, values.shape[axis] - 1)
            values = values.take(low, axis) * (1 - weight) + values.take(high, axis) * weight
        return values

    def grid_sample() -> Any:
        places = [
            torch.from_numpy(one.place.astype(np.float32) * 2 / (n - 1) - 1)
            for one, n in zip(along, stored.shape, strict=True)
        ]
        grid = torch.stack(torch.meshgrid(*places, indexing="ij")[::-1], -1)
        return torch.nn.functional.grid_sample(
            torch.from_numpy(stored).float()[None, None], grid[None], align_corners=True
        )[0, 0].numpy()

    def simpleitk() -> Any:
        size, start, step = (
            [getattr_(one) for one in along[::-1]]
            for getattr_ in (lambda one: len(one.place), _first, _step)
        )
        return sitk.GetArrayFromImage(
            sitk.Resample(
                image,
                size,
                sitk.Transform(),
                sitk.sitkLinear,
                start,
                step,
                np.abs(np.eye(3)).ravel().tolist(),
                0.0,
                sitk.sitkFloat32,
            )
        )

    def concordant() -> Any:
        return preprocess(replace(volume, stored=stored), steps)

    rows = []
    for name, call in (
        ("concordant", concordant),
        ("numpy", separable),
        ("torch", grid_sample),
        ("SimpleITK", simpleitk),
    ):
        call()
        times = []
        for _ in range(3):
            start = time.process_time()
            call()
            times.append(time.process_time() - start)
        rows.append([name, statistics.median(times)])
    print(json.dumps(rows))


def _first(samples: Any) -> float:
    return float(samples.place.min())


def _step(samples: Any) -> float:
    return float(abs(samples.place[1] - samples.place[0]))


def in_process(*arguments: object) -> Any:
    """Run this script in a process of its own, on one thread, and return what it printed last."""
    done = subprocess.run(  # noqa: S603 # this script itself
        [sys.executable, __file__, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **ONE_THREAD},
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1]) if done.stdout.strip() else None


def difference(one: Path, other: Path) -> None:
    """Print the greatest difference of two tensors."""
    import numpy as np

    print(json.dumps(float(np.abs(np.load(one) - np.load(other)).max())))


def compare(folder: Path) -> Iterator[list[object]]:
    """Measure every package on every input for every network."""
    for input_ in INPUTS:
        path = folder / input_ if input_ == "dicom" else folder / input_ / f"scan.{input_}"
        size = sum(file.stat().st_size for file in (folder / input_).iterdir()) / 1e6
        for network in NETWORKS:
            results = {package: folder / f"{package}.npy" for package in PACKAGES}
            found = {
                package: in_process("measure", package, path, network, results[package])
                for package in PACKAGES
            }
            for package, (whole, read, prepare, peak, imported) in found.items():
                apart = in_process("difference", results[package], results["monai"])
                version = importlib.metadata.version(PACKAGES[package][0])
                ratio = whole / found["concordant"][0]
                print(
                    f"{input_:7} {network:8} {package:11} {whole:6.2f} s (read {read:5.2f}, "
                    f"prepare {prepare:5.2f}) x {ratio:4.1f} {peak:6.0f} MB (imports "
                    f"{imported:4.0f}) difference {apart:.1e}",
                    flush=True,
                )
                numbers = [f"{value:.3f}" for value in (whole, ratio, read, prepare)] + [
                    f"{peak:.0f}",
                    f"{imported:.0f}",
                    f"{apart:.1e}",
                ]
                yield [input_, network, package, version, *numbers, f"{size:.0f}"]


def resample(folder: Path) -> Iterator[list[object]]:
    """Compare ways to resample alone."""
    rows = in_process("resampling", folder / "nii" / "scan.nii")
    for package, seconds in rows:
        version = importlib.metadata.version(package)
        print(
            f"resampling alone, from memory: {package:11} {seconds:6.3f} s x "
            f"{seconds / rows[0][1]:4.1f}",
            flush=True,
        )
        yield [
            "memory",
            "colipri",
            package,
            version,
            f"{seconds:.3f}",
            f"{seconds / rows[0][1]:.3f}",
            "",
            f"{seconds:.3f}",
            "",
            "",
            "",
            "",
        ]


def main() -> None:
    """Measure all, or one part in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="*")
    part = parser.parse_args().part
    missing = [name for name in ("monai", "SimpleITK", "pydicom") if find_spec(name) is None]
    if missing:
        sys.exit(f"not here: {', '.join(missing)}; run: pip install -e '.[bench]'")
    if part:
        name, *given = part
        parts: dict[str, Callable[..., None]] = {
            "measure": measure,
            "difference": difference,
            "resampling": resampling,
            "write": write_inputs,
        }
        if name not in parts:
            parser.error(f"{name!r} given, expected {', '.join(parts)}, or nothing for all")
        parts[name](*[Path(one) if os.sep in one else one for one in given])
        return
    with tempfile.TemporaryDirectory() as folder:
        in_process("write", folder)
        rows = [*resample(Path(folder)), *compare(Path(folder))]
    common = [platform.python_version(), f"{platform.machine()}, {os.cpu_count()} processors", "1"]
    with Path(__file__).with_suffix(".csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([COLUMNS, *[[*row, *common] for row in rows]])


if __name__ == "__main__":
    main()
