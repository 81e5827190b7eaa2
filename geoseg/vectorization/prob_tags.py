"""What a probability raster says of itself in its tags: thresholds, exclusive classes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from geoseg.errors import ConfigError
from geoseg.geo.raster import read_tags
from geoseg.options import Thresholds, VectorizeOptions

THRESHOLDS_TAG = "GEOSEG_THRESHOLDS"
CLASSES_TAG = "GEOSEG_CLASSES"

# What says nothing of exclusive classes.
_OF_BUILDINGS = (
    *("body", "seed", "border", "contact", "split_m", "subpixel", "regularize", "min_hole_m2"),
    "temperature",
)


@dataclass(frozen=True)
class Classes:
    """Exclusive classes whose probabilities a raster holds.

    Attributes:
        names: Of its bands, in order.
        background: The one that is ground between the others, if there is one.
    """

    names: tuple[str, ...]
    background: str | None


def read_thresholds(path: str | Path) -> Thresholds:
    """Reads the thresholds from a probability raster's tags; defaults stand for what is absent.

    Raises:
        ConfigError: If the tag is no JSON object of known thresholds within their ranges.
        SceneReadError: If the raster cannot be opened.
    """
    text = read_tags(path).get(THRESHOLDS_TAG, "{}")
    try:
        return Thresholds.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".lstrip(": ")
        raise ConfigError(
            f"{path}: the tag {THRESHOLDS_TAG} is damaged ({problem}); pass thresholds explicitly"
        ) from error


def describe_classes(names: tuple[str, ...], background: str | None) -> str:
    """The tag `CLASSES_TAG` of a raster of exclusive classes, for `read_classes`."""
    return json.dumps({"names": names, "background": background})


def read_classes(path: str | Path) -> Classes | None:
    """Reads which exclusive classes a probability raster holds; None of buildings.

    Raises:
        ConfigError: If the tag is damaged.
        SceneReadError: If the raster cannot be opened.
    """
    text = read_tags(path).get(CLASSES_TAG)
    if text is None:
        return None
    try:
        said = json.loads(text)
        return Classes(tuple(map(str, said["names"])), said["background"])
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"{path}: the tag {CLASSES_TAG} is damaged; predict the scene again"
        ) from error


def refuse_thresholds(given: VectorizeOptions | Thresholds, own: Thresholds | None = None) -> None:
    """Refuses thresholds that say nothing of exclusive classes.

    Args:
        given: Of which those count that are set.
        own: Those of the raster, which may be set again.

    Raises:
        ConfigError: If one is set.
    """
    values = given.model_dump(exclude_unset=True, exclude_none=True)
    for name in _OF_BUILDINGS:
        if name in values and (own is None or values[name] != getattr(own, name)):
            raise ConfigError(
                f"vectorize.{name}: is of buildings; of exclusive classes the likeliest wins, and "
                "neighbours share their lines as they are; leave it out"
            )
