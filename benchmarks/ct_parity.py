"""Compares the CT encoders with the packages they were released with, at random weights.

Writes ct_parity.csv beside this file.

Of each encoder: the input tensor made of a NIfTI file, the pooled vector and the tokens. The
upstream network is drawn at random, saved in the released format and read back by our loader. Run
where the packages lie in folders of their own, none of them imported by concordant:

    pip install --target U --no-deps colipri lighter-zoo merlin-vlm torchvision "timm<1.0.23"
    dynamic-network-architectures torchio \
        einops humanize deprecated wrapt
    python benchmarks/ct_parity.py --upstream U

COLIPRI sees a cube of 96 voxels unless `--full` is given (192; minutes on a processor without an
accelerator).
"""

from __future__ import annotations

import argparse
import csv
import importlib
import importlib.metadata
import json
import platform
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from safetensors.torch import save_file

from concordant.data.volumes import read_volume
from concordant.encoders.colipri import Colipri
from concordant.encoders.ctfm import CTFM
from concordant.encoders.merlin import Merlin
from concordant.encoders.network import Prepared, VolumeNetwork

COLUMNS = [
    "encoder",
    "output",
    "shape",
    "upstream",
    "version",
    "relative_difference",
    "seconds",
    "upstream_seconds",
    "torch",
    "python",
]
Compare = Callable[[Path, bool], Iterator[tuple[str, Any, Any, float, float]]]


def use_upstream(folders: list[Path]) -> None:
    """Make the upstream modules importable without what their packages import on the way (hubs,
    text models, downloads).
    """
    sys.path += [str(folder) for folder in folders]
    library = torch.library.Library("torchvision", "DEF")
    for name in (
        "nms",
        "qnms",
    ):  # torchvision's wheel may be of another torch build; its compiled operators are not used
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    globals()["_KEPT"] = library
    for package in ("colipri", "colipri.model", "merlin", "merlin.models", "merlin.data"):
        module = types.ModuleType(package)
        module.__path__ = [str(folder / package.replace(".", "/")) for folder in folders]
        sys.modules[package] = module


def randomise(network: torch.nn.Module, generator: torch.Generator) -> torch.nn.Module:
    """Draw every tensor, those of normalisations too, so that nothing passes its input on
    unchanged.
    """
    state = {}
    for key, value in network.state_dict().items():
        drawn = torch.randn(value.shape, generator=generator)
        if not value.is_floating_point():
            state[key] = value
        elif key.endswith("running_var"):
            state[key] = drawn.square() + 0.5
        elif value.dim() > 1 and value.shape[0] > 1:
            state[key] = drawn / value[0].numel() ** 0.5
        else:
            state[key] = 0.2 * drawn + (1.0 if key.endswith("weight") else 0.0)
    network.load_state_dict(state)
    return network.eval().requires_grad_(requires_grad=False)


def write_scan(path: Path) -> None:
    """Write a CT-like scan that is flipped left to right in its file.

    A body with two lungs, and noise.
    """
    generator = np.random.default_rng(0)
    x, y, z = np.mgrid[-1:1:300j, -1:1:260j, -1:1:123j]
    body = x**2 + 1.3 * y**2 < 0.8
    lungs = ((np.abs(x) - 0.4) / 0.3) ** 2 + (y / 0.5) ** 2 + (z / 0.8) ** 2 < 1
    voxels = np.where(lungs, -820, np.where(body, 45, -1000)) + generator.normal(0, 30, body.shape)
    image = nib.Nifti1Image(
        voxels.astype(np.int16),
        np.array([[-1.2, 0, 0, 170], [0, 1.25, 0, -150], [0, 0, 3.1, 20], [0, 0, 0, 1]]),
    )
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a call returns and the seconds it took."""
    start = time.perf_counter()
    with torch.no_grad():
        result = call()
    return result, time.perf_counter() - start


def ours(encoder: VolumeNetwork, scan: Path) -> tuple[Prepared, float, Any, float]:
    """Prepare and encode the scan."""
    prepared, preparing = timed(lambda: encoder.prepare(read_volume(scan)))
    embedding, encoding = timed(lambda: encoder.encode_prepared([prepared])[0])
    return prepared, preparing, embedding, encoding


def colipri(scan: Path, full: bool) -> Iterator[tuple[str, Any, Any, float, float]]:
    """Compare with the package `colipri`; its transform is that of its configuration file."""
    import torchio
    from colipri.model.image import ImageEncoder
    from colipri.pooling import AttentionPool1D
    from dynamic_network_architectures.architectures.primus import Primus

    side = 192 if full else 96
    primus = Primus(
        input_channels=1,
        num_classes=1,
        eva_depth=16,
        eva_numheads=12,
        embed_dim=864,
        patch_embed_size=(8, 8, 8),
        input_shape=(side,) * 3,
        use_rot_pos_emb=True,
        use_abs_pos_embed=False,
        drop_path_rate=0.2,
        init_values=0.1,
        scale_attn_inner=True,
        num_register_tokens=0,
    )
    upstream = ImageEncoder(primus, torch.nn.Conv3d(864, 768, 1), AttentionPool1D(768, 12))
    randomise(upstream, torch.Generator().manual_seed(0))
    transform = torchio.Compose(
        [
            torchio.ToOrientation("RAS"),
            torchio.Resample(2, image_interpolation="linear"),
            torchio.Clamp(-1000, 1000),
            torchio.RescaleIntensity((-1, 1), in_min_max=(-1000, 1000)),
            torchio.CropOrPad(side, padding_mode="minimum"),
        ]
    )
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder)
        tensors = {f"image_encoder.{key}": value for key, value in upstream.state_dict().items()}
        save_file({**tensors, "softmax_temperature": torch.ones(())}, weights / "model.safetensors")
        (weights / "config.json").write_text(json.dumps({"input_size": side}))
        encoder = Colipri(weights=weights, token_grid=None)
        prepared, preparing, embedding, encoding = ours(encoder, scan)
    image = torchio.ScalarImage(scan)
    image.set_data(image.data.float())  # it would round the resampled values of an integer image
    theirs, seconds = timed(lambda: transform(image).data[0].numpy())
    yield "input", prepared.voxels, theirs, preparing, seconds
    batch = torch.from_numpy(prepared.voxels)[None, None]
    raw, seconds = timed(lambda: upstream(batch, project=False, pool=False, normalize=False))
    upstream.backbone = torch.nn.Identity()  # once is enough: what follows starts from its result
    pooled, _ = timed(lambda: upstream(raw, project=True, pool=True, normalize=False))
    yield "pooled", embedding.pooled, pooled[0].numpy(), encoding, seconds
    dense, _ = timed(lambda: upstream(raw, project=True, pool=False, normalize=False))
    yield "tokens (projected)", embedding.tokens, dense[0].flatten(1).T.numpy(), encoding, seconds


def ctfm(scan: Path, full: bool) -> Iterator[tuple[str, Any, Any, float, float]]:
    """Compare with the package `lighter-zoo`, which pools the last map.

    One patch is a whole scan to it.
    """
    from lighter_zoo import SegResEncoder
    from monai.transforms import Compose, LoadImage, Orientation, ScaleIntensityRange, Spacing

    upstream = randomise(
        SegResEncoder(spatial_dims=3, in_channels=1, init_filters=32, blocks_down=[1, 2, 2, 4, 4]),
        torch.Generator().manual_seed(0),
    )
    labels = (("L", "R"), ("P", "A"), ("I", "S"))
    load = [LoadImage(ensure_channel_first=True), Orientation(axcodes="SPL", labels=labels)]
    transform = Compose(
        [
            *load,
            Spacing((3.0, 1.0, 1.0), mode="bilinear"),
            ScaleIntensityRange(-1024, 2048, 0, 1, clip=True),
        ]
    )
    with tempfile.TemporaryDirectory() as folder:
        save_file(upstream.state_dict(), Path(folder) / "model.safetensors")
        encoder = CTFM(weights=Path(folder), token_grid=None)
        prepared, preparing = timed(lambda: encoder.prepare(read_volume(scan)))
        theirs, seconds = timed(lambda: transform(scan)[0].numpy())
        yield "input", prepared.voxels, theirs, preparing, seconds
        patch = np.ascontiguousarray(prepared.voxels[40:64, 100:228, 100:228])
        embedding, encoding = timed(lambda: encoder.encode_prepared([Prepared(patch)])[0])
    last, seconds = timed(lambda: upstream(torch.from_numpy(patch)[None, None])[-1])
    yield (
        "pooled",
        embedding.pooled,
        torch.nn.functional.adaptive_avg_pool3d(last, 1).flatten().numpy(),
        encoding,
        seconds,
    )
    yield "tokens", embedding.tokens, last[0].flatten(1).T.numpy(), encoding, seconds


def merlin(scan: Path, full: bool) -> Iterator[tuple[str, Any, Any, float, float]]:
    """Compare with the package `merlin-vlm`: its inflated network and its transforms."""
    import torchvision
    from merlin.data.monai_transforms import ImageTransforms
    from merlin.models.i3res import I3ResNet

    upstream = randomise(
        I3ResNet(torchvision.models.resnet152(), class_nb=1692, conv_class=True, return_skips=True),
        torch.Generator().manual_seed(0),
    )
    with tempfile.TemporaryDirectory() as folder:
        encoder = Merlin(weights=Path(folder))
        tensors = {
            f"encode_image.i3_resnet.{key}": value for key, value in upstream.state_dict().items()
        }
        torch.save({**tensors, "logit_scale": torch.ones(())}, Path(folder) / encoder.files[0])
        prepared, preparing, embedding, encoding = ours(encoder, scan)
    theirs, seconds = timed(lambda: ImageTransforms({"image": str(scan)})["image"][0].numpy())
    yield "input", prepared.voxels, theirs.transpose(2, 0, 1), preparing, seconds
    batch = torch.from_numpy(prepared.voxels)[None, None].permute(0, 1, 3, 4, 2)
    skips, seconds = timed(lambda: upstream(batch)[2])
    last = skips[-1][0].permute(0, 3, 1, 2)  # (dim, superior, right, anterior)
    yield (
        "pooled",
        embedding.pooled,
        upstream.avgpool(last[None]).flatten().numpy(),
        encoding,
        seconds,
    )
    yield "tokens", embedding.tokens, last.flatten(1).T.numpy(), encoding, seconds


ENCODERS: dict[str, tuple[str, Compare]] = {
    "colipri": ("colipri", colipri),
    "ctfm": ("lighter-zoo", ctfm),
    "merlin": ("merlin-vlm", merlin),
}


def check_given(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """Refuse unknown encoders and folders; leave off where there is nothing to compare with."""
    unknown = [name for name in given.encoders if name not in ENCODERS]
    if unknown:
        parser.error(f"{', '.join(unknown)} given, expected some of {', '.join(ENCODERS)}")
    absent = [str(folder) for folder in given.upstream if not folder.is_dir()]
    if absent:
        parser.error(f"--upstream: {', '.join(absent)} is no folder; see --help for how to fill it")
    if not given.upstream:
        print("left out: --upstream FOLDER is not given; see --help for how to fill it")
        sys.exit(2 if given.encoders else 0)


def main() -> None:
    """Compare all encoders, or those that are named, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("encoders", nargs="*", metavar="ENCODER")
    parser.add_argument("--upstream", type=Path, action="append", default=[])
    parser.add_argument("--full", action="store_true")
    arguments = parser.parse_args()
    check_given(parser, arguments)
    use_upstream(arguments.upstream)
    warnings.simplefilter("ignore")  # of the upstream packages
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_scan(Path(folder) / "scan.nii.gz")
        for name in arguments.encoders or ENCODERS:
            package, compare = ENCODERS[name]
            for output, own, theirs, seconds, upstream_seconds in compare(
                Path(folder) / "scan.nii.gz", arguments.full
            ):
                difference = (
                    float(np.abs(own - theirs).max() / np.abs(theirs).max())
                    if own.shape == theirs.shape
                    else float("nan")
                )
                shape = "x".join(map(str, own.shape))
                versions = (
                    importlib.metadata.version(package),
                    torch.__version__,
                    platform.python_version(),
                )
                rows.append(
                    [
                        name,
                        output,
                        shape,
                        package,
                        versions[0],
                        f"{difference:.2e}",
                        f"{seconds:.3f}",
                        f"{upstream_seconds:.3f}",
                    ]
                )
                rows[-1] += versions[1:]
                print(
                    f"{name:10} {output:20} {shape:16} {difference:.2e} {seconds:8.2f} s "
                    f"{upstream_seconds:8.2f} s",
                    flush=True,
                )
    with (Path(__file__).with_suffix(".csv")).open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([COLUMNS, *rows])


if __name__ == "__main__":
    main()
