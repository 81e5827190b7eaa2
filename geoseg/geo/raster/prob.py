"""Probability rasters and class masks: bands, classes, thresholds and tags."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import BaseModel, ValidationError, model_validator

from geoseg.errors import ConfigError, SceneReadError
from geoseg.geo.raster.opening import files_of, is_raster, open_raster
from geoseg.geo.raster.scene import SceneInfo, describe_source, read_tags
from geoseg.geo.raster.scene_vrt import has_palette
from geoseg.options import Thresholds
from geoseg.options.headers import ClassNames, Name, first_problem

# Name of the band that holds the uncertainty of the probabilities.
SPREAD = "uncertainty"

# Tag of a mask that names the class of one pixel value.
CLASS_TAG = "CLASS_{}"
_VALUE = re.compile("[0-9]{1,3}")

# Tags of a probability raster: thresholds, and the exclusive classes of its bands, as JSON.
THRESHOLDS_TAG = "GEOSEG_THRESHOLDS"
CLASSES_TAG = "GEOSEG_CLASSES"

# Tag with the area in which the models were trained, in longitude and latitude, as WKT.
TRAINING_AREA_TAG = "GEOSEG_TRAINING_AREA"
_COLOUR = re.compile("#[0-9a-f]{6}")


class _ClassesTag(BaseModel):
    """Contents of the tag of exclusive classes."""

    names: ClassNames
    background: Name | None
    colours: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.names)) < len(self.names):
            raise ValueError("two classes have the same name")
        return self


@dataclass(frozen=True)
class ExclusiveClasses:
    """Exclusive classes whose probabilities are the bands of a raster.

    Attributes:
        names: One per band, in the order of the bands.
        background: Name of the class of which no polygons are made, or None.
        colours: #rrggbb of each, for styles; empty if they have none.
    """

    names: tuple[str, ...]
    background: str | None
    colours: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ProbInfo(SceneInfo):
    """Description of a probability raster, read once and passed to every task that opens it.

    Pixels are uint8 (255 = probability 1) or float from 0 to 1, see `dequantise`.

    Attributes:
        tags: Dataset tags.
        thresholds: From the tags; defaults where they have none.
        classes: Exclusive classes from the tags; None for probabilities of buildings.
        files: Files that the raster consists of.
        is_mask: Whether the raster is a mask: every value but 0 is building, with certainty.
    """

    tags: Mapping[str, str]
    thresholds: Thresholds
    classes: ExclusiveClasses | None
    files: tuple[str, ...]
    is_mask: bool = False


def read_prob(path: str | Path, *, mask: bool = False) -> ProbInfo:
    """Read the description of a probability raster, without its pixels.

    Args:
        path: The raster.
        mask: Whether it is a mask, of one band and any data type; a palette is ignored.

    Raises:
        SceneReadError: If the file cannot be read or is not a probability raster.
        MissingCRSError: If it has no georeferencing.
        ConfigError: If the tag with thresholds or classes is damaged.
    """
    with open_raster(path) as source:
        info = describe_source(source, path, palette=not mask)
        tags, files = dict(source.tags()), files_of(source, path)
        is_coloured = not mask and len(info.bands) == 3 and has_palette(source, 1)
    if mask:
        return _describe_mask(info, tags, tuple(files))
    if info.dtype != "uint8" and not info.dtype.startswith("float"):
        raise SceneReadError(
            f"{path}: has {info.dtype} pixels; a probability raster is uint8 (255 = probability "
            "1) or float from 0 to 1; vectorize a mask with --mask"
        )
    if _class_names(tags):
        raise SceneReadError(
            f"{path}: is a class mask, not a probability raster; pass the prob.tif that predict "
            "wrote with it, or --mask"
        )
    if is_coloured:
        raise SceneReadError(
            f"{path}: has a colour table, so its values are classes, not probabilities; vectorize "
            "all values but 0 with --mask"
        )
    return ProbInfo(
        **vars(info), tags=tags, thresholds=_parse_thresholds(path, tags),
        classes=_parse_classes(path, tags), files=tuple(files),
    )  # fmt: skip


def _describe_mask(info: SceneInfo, tags: Mapping[str, str], files: tuple[str, ...]) -> ProbInfo:
    if len(info.bands) != 1:
        raise SceneReadError(
            f"{info.path}: has {len(info.bands)} bands, but a mask has one; leave --mask out"
        )
    return ProbInfo(
        **vars(info), tags=tags, thresholds=Thresholds(), classes=None, files=files, is_mask=True
    )


def describe_classes(
    names: tuple[str, ...], background: str | None, colours: tuple[str, ...] = ()
) -> str:
    """Return the value of `CLASSES_TAG` for a raster of exclusive classes."""
    return json.dumps({"names": names, "background": background, "colours": colours})


def make_prob_tags(
    thresholds: Thresholds, classes: ExclusiveClasses | None = None
) -> dict[str, str]:
    """Return the tags of a probability raster that `read_prob` reads.

    Args:
        thresholds: Thresholds of its footprints.
        classes: Exclusive classes; None for buildings.
    """
    tags = {THRESHOLDS_TAG: thresholds.model_dump_json()}
    if classes is not None:
        tags[CLASSES_TAG] = describe_classes(classes.names, classes.background, classes.colours)
    return tags


def likeliest_class(prob: np.ndarray) -> np.ndarray:
    """Return the most probable class of each pixel; the first one in a tie.

    Args:
        prob: (classes, H, W).

    Returns:
        uint8 (H, W), from 0.
    """
    best: np.ndarray = prob.argmax(axis=0).astype(np.uint8)
    return best


def is_mask(path: str | Path) -> bool:
    """Whether a file is a raster with class names in its tags, as predict writes them."""
    return is_raster(path) and bool(_class_names(read_tags(path)))


def check_is_image(path: str | Path) -> None:
    """Check that a raster is not a result of a prediction, by its tags.

    Raises:
        SceneReadError: If it cannot be read, or is a class mask or a raster of probabilities.
    """
    tags = read_tags(path)
    if _class_names(tags):
        raise SceneReadError(
            f"{path}: is a class mask, not an image; give the scene that it was predicted from"
        )
    if THRESHOLDS_TAG in tags or CLASSES_TAG in tags:
        raise SceneReadError(
            f"{path}: these are probabilities of geoseg, not an image; give the scene that they "
            "were predicted from, or make footprints of them with geoseg vectorize"
        )


def read_mask_classes(path: str | Path) -> tuple[str, ...]:
    """Read the class names of a mask; the name at index i belongs to pixel value i.

    Raises:
        SceneReadError: If the file cannot be read or is not a mask that geoseg wrote.
    """
    names = _class_names(read_tags(path))
    if not names or sorted(names) != list(range(len(names))):
        raise SceneReadError(
            f"{path}: has no class names for its values (tags {CLASS_TAG.format(0)}, "
            f"{CLASS_TAG.format(1)} ...); pass the mask.tif that predict wrote"
        )
    return tuple(names[value] for value in range(len(names)))


def _class_names(tags: Mapping[str, str]) -> dict[int, str]:
    """Class names of a mask by pixel value."""
    prefix = CLASS_TAG.format("")
    named = {key.removeprefix(prefix): name for key, name in tags.items() if key.startswith(prefix)}
    return {int(value): name for value, name in named.items() if _VALUE.fullmatch(value)}


def _parse_thresholds(path: str | Path, tags: Mapping[str, str]) -> Thresholds:
    try:
        return Thresholds.model_validate_json(tags.get(THRESHOLDS_TAG, "{}"))
    except ValidationError as error:
        raise ConfigError(
            f"{path}: the tag {THRESHOLDS_TAG} is damaged ({first_problem(error)}); predict the "
            "scene again"
        ) from error


def _parse_classes(path: str | Path, tags: Mapping[str, str]) -> ExclusiveClasses | None:
    text = tags.get(CLASSES_TAG)
    if text is None:
        return None
    try:
        found = _ClassesTag.model_validate_json(text)
    except ValidationError as error:
        raise ConfigError(
            f"{path}: the tag {CLASSES_TAG} is damaged ({first_problem(error)}); predict the scene "
            "again"
        ) from error
    colours = found.colours
    if len(colours) != len(found.names) or not all(map(_COLOUR.fullmatch, colours)):
        colours = ()  # of an older version, or another program
    return ExclusiveClasses(found.names, found.background, colours)
