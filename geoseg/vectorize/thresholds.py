"""The thresholds that a probability raster carries in its tags."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from geoseg.errors import ConfigError
from geoseg.options import Thresholds
from geoseg.raster import read_tags

THRESHOLDS_TAG = "GEOSEG_THRESHOLDS"


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
