"""Tells rasters of probabilities from others."""

from __future__ import annotations

from pathlib import Path

from geoseg.errors import SceneReadError
from geoseg.raster.reading import SceneInfo, read_info, read_tags


def read_prob_info(path: str | Path) -> SceneInfo:
    """Reads what a probability raster is, without its pixels.

    Raises:
        SceneReadError: If the file cannot be read or is no probability raster.
        MissingCRSError: If it does not say where it lies.
    """
    info = read_info(path)
    if info.dtype != "uint8" and not info.dtype.startswith("float"):
        raise SceneReadError(
            f"{info.path}: holds {info.dtype} pixels; a probability raster is uint8 (255 = "
            "certain) or float from 0 to 1"
        )
    if any(name.startswith("CLASS_") for name in read_tags(path)):
        raise SceneReadError(
            f"{path}: is a mask of classes, not of probabilities; give the prob.tif that "
            "predict wrote with it"
        )
    return info
