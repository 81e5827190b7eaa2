"""Tells rasters of probabilities, and masks of classes, from others."""

from __future__ import annotations

from pathlib import Path

from geoseg.errors import SceneReadError
from geoseg.geo.raster.opening import is_raster
from geoseg.geo.raster.scene import SceneInfo, read_info, read_tags

# The name of the band that says how sure the probabilities beside it are.
SPREAD = "uncertainty"

# What the tags of a mask call its values.
CLASS_TAG = "CLASS_{}"


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
    if _class_names(path):
        raise SceneReadError(
            f"{path}: is a mask of classes, not of probabilities; give the prob.tif that "
            "predict wrote with it"
        )
    return info


def is_mask(path: str | Path) -> bool:
    """Whether a file is a raster whose tags name classes, as those that predict writes do."""
    return is_raster(path) and bool(_class_names(path))


def read_mask_classes(path: str | Path) -> tuple[str, ...]:
    """Reads which class each value of a mask stands for, from 0.

    Raises:
        SceneReadError: If the file cannot be read or is no mask that geoseg wrote.
    """
    found = _class_names(path)
    if not found or sorted(found) != list(range(len(found))):
        raise SceneReadError(
            f"{path}: does not say which value is which class (tags {CLASS_TAG.format(0)}, "
            f"{CLASS_TAG.format(1)} ...); give the mask.tif that predict wrote"
        )
    return tuple(found[value] for value in range(len(found)))


def _class_names(path: str | Path) -> dict[int, str]:
    prefix = CLASS_TAG.format("")
    named = {
        key.removeprefix(prefix): name
        for key, name in read_tags(path).items()
        if key.startswith(prefix)
    }
    return {int(value): name for value, name in named.items() if value.isdecimal()}
