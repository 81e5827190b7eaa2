"""The command `geoseg doctor`."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable

import click

from geoseg.cli.environment import removed

_LEAST_MEMORY_GB = 2.0


@click.command()
def command() -> None:
    """Check this machine: versions, drivers, GPU, disk. Exit code 1 if something is wrong."""
    wrong = 0
    for name, check in _CHECKS.items():
        try:
            click.echo(f"ok    {name:<10} {check()}")
        except (ImportError, OSError, RuntimeError) as error:
            wrong += 1
            click.echo(f"wrong {name:<10} {' '.join(str(error).split())}")
    sys.exit(1 if wrong else 0)


def _python() -> str:
    return f"{sys.version.split()[0]}, {os.cpu_count()} cores"


def _raster() -> str:
    import rasterio
    from rasterio.drivers import raster_driver_extensions

    missing = {"GTiff", "VRT"} - set(raster_driver_extensions().values())
    if missing:
        raise RuntimeError(f"GDAL lacks {', '.join(missing)}; pip install --force rasterio")
    return f"rasterio {rasterio.__version__}, GDAL {rasterio.__gdal_version__}"


def _vector() -> str:
    import pyogrio

    wanted = {"GPKG", "GeoJSON", "ESRI Shapefile", "FlatGeobuf"}
    missing = wanted - set(pyogrio.list_drivers(write=True))
    if missing:
        raise RuntimeError(f"cannot write {', '.join(missing)}; pip install --force pyogrio")
    return f"pyogrio {pyogrio.__version__}"


def _environment() -> str:
    if removed:
        raise RuntimeError("; ".join(removed))
    return "no PROJ_LIB, PROJ_DATA or GDAL_DATA of another installation"


def _projections() -> str:
    import pyproj

    x, _ = pyproj.Transformer.from_crs(4326, 32633, always_xy=True).transform(15.0, 45.0)
    if abs(x - 500_000) > 1e-3:
        raise RuntimeError("PROJ computes wrong coordinates; unset PROJ_LIB and PROJ_DATA")
    return f"PROJ {pyproj.proj_version_str}"


def _torch() -> str:
    import torch
    import torchvision

    return f"torch {torch.__version__}, torchvision {torchvision.__version__}"


def _device() -> str:
    import torch

    from geoseg.networks.device import choose_device, computes_bf16

    device = choose_device("auto")
    bits = "bf16" if computes_bf16(device) else "32 bit"
    name = torch.cuda.get_device_name() if device.type == "cuda" else "no GPU, computing on the CPU"
    return f"{name} in {bits}"


def _weights() -> str:
    from geoseg.networks.models.encoder_weights import installed_packages

    return f"ImageNet weights installed for {', '.join(installed_packages())}"


def _codecs() -> str:
    import numpy as np
    from affine import Affine
    from rasterio.io import MemoryFile

    place = {"crs": "EPSG:32633", "transform": Affine(1.0, 0.0, 5e5, 0.0, -1.0, 5e6)}
    shape = {"driver": "GTiff", "height": 16, "width": 16, "count": 1, "dtype": "uint8", **place}
    for codec in ("deflate", "zstd"):
        try:
            with MemoryFile() as file, file.open(**shape, compress=codec) as sink:
                sink.write(np.zeros((1, 16, 16), np.uint8))
        except OSError as error:
            raise RuntimeError(
                f"GDAL cannot compress by {codec}; install rasterio from PyPI or conda-forge"
            ) from error
    return "GDAL compresses by deflate and zstd"


def _memory() -> str:
    import psutil

    free = psutil.virtual_memory().available / 1e9  # caches count as free
    if free < _LEAST_MEMORY_GB:
        raise RuntimeError(
            f"only {free:.1f} GB of memory free; close other programs, and predict with "
            "--max-memory 1GB"
        )
    return f"{free:.0f} GB of memory free"


def _hub() -> str:
    import torch

    folder = os.environ.get("HF_HOME") or torch.hub.get_dir()
    return f"downloaded weights are stored in {folder}"


def _disk() -> str:
    free = shutil.disk_usage(".").free / 1e9
    if free < 1:
        raise RuntimeError(f"only {free:.1f} GB free here; outputs need more")
    return f"{free:.0f} GB free here"


_CHECKS: dict[str, Callable[[], str]] = {
    "python": _python,
    "rasters": _raster,
    "codecs": _codecs,
    "vectors": _vector,
    "variables": _environment,
    "proj": _projections,
    "torch": _torch,
    "device": _device,
    "weights": _weights,
    "hub": _hub,
    "memory": _memory,
    "disk": _disk,
}
