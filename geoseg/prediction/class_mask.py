"""Class mask from probabilities, with a colour table."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from geoseg.geo.raster import CLASS_TAG, Scene, likeliest_class, open_for_writing, write_cog
from geoseg.networks.model_file import ModelSpec

MASK_NODATA = 255

_WINDOW = (512, 4096)
_TRANSPARENT = (0, 0, 0, 0)
_BUILDING_COLOURS = {0: _TRANSPARENT, 1: (227, 74, 51, 255)}


def write_mask(prob: Path, path: Path, spec: ModelSpec, threshold: float) -> None:
    """Write a mask: 1 where a building is at least `threshold`, or the most probable class.

    Args:
        prob: Probabilities that a model predicted.
        path: Output, a Cloud Optimized GeoTIFF with one uint8 band; `MASK_NODATA` where the scene
            is nodata. Its tags name the class of each value.
        spec: Header of the model.
        threshold: Smallest probability of a building; not used for exclusive classes.
    """
    names = spec.classes if spec.exclusive else ("background", *spec.classes)
    plain = path.with_name(f".{path.name}")
    bands = range(1, len(spec.classes) + 1) if spec.exclusive else [1]
    with Scene(prob, bands=list(bands)) as source, open_for_writing(
        plain, source.grid, count=1, dtype="uint8", nodata=MASK_NODATA, scratch=True,
        descriptions=["class"], colormap=_colours(spec),
        tags={CLASS_TAG.format(value): name for value, name in enumerate(names)},
    ) as sink:  # fmt: skip
        for window in source.grid.windows(*_WINDOW):
            data, valid = source.read(window)
            full = np.float32(255 if data.dtype == np.uint8 else 1)
            least = np.float32(threshold) * full
            mask = likeliest_class(data) if spec.exclusive else data[0] >= least
            sink.write(np.where(valid, mask, MASK_NODATA).astype(np.uint8), 1, window=window)
    # `mode` would suit classes better but takes 1.5 times as long.
    write_cog(plain, path, resampling="nearest")
    plain.unlink()


def _colours(spec: ModelSpec) -> dict[int, tuple[int, int, int, int]]:
    if not spec.exclusive:
        return _BUILDING_COLOURS
    return {
        value: _TRANSPARENT if name == spec.background else _rgba(colour)
        for value, (name, colour) in enumerate(zip(spec.classes, spec.colours, strict=True))
    }


def _rgba(colour: str) -> tuple[int, int, int, int]:
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue, 255
