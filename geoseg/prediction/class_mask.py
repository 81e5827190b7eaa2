"""Class mask from probabilities, with a colour table and a style for QGIS."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from geoseg.geo.raster import CLASS_TAG, Scene, likeliest_class, open_for_writing, write_cog
from geoseg.geo.styles import (
    BUILDING_COLOUR,
    TRANSPARENT,
    Colour,
    mask_style,
    write_raster_style,
)
from geoseg.networks.model_file import ModelSpec

MASK_NODATA = 255
MASK_BAND = "class"

_WINDOW = (512, 4096)


def write_mask(prob: Path, path: Path, spec: ModelSpec, threshold: float, threads: int = 1) -> None:
    """Write a mask: 1 where a building is at least `threshold`, or the most probable class.

    Args:
        prob: Probabilities that a model predicted.
        path: Output, a Cloud Optimized GeoTIFF with one uint8 band; `MASK_NODATA` where the scene
            is nodata. Its tags name the class of each value. A style for QGIS is written beside
            it.
        spec: Header of the model.
        threshold: Smallest probability of a building; not used for exclusive classes.
        threads: Number of threads that compress.
    """
    classes = _name_values(spec)
    colours = {value: _rgba(colour) for value, (_, colour) in classes.items()}
    plain = path.with_name(f".{path.name}")
    bands = range(1, len(spec.classes) + 1) if spec.exclusive else [1]
    with Scene(prob, bands=list(bands)) as source, open_for_writing(
        plain, source.grid, count=1, dtype="uint8", nodata=MASK_NODATA, scratch=True,
        descriptions=[MASK_BAND], colormap=colours, tags=make_mask_tags(spec),
    ) as sink:  # fmt: skip
        for window in source.grid.windows(*_WINDOW):
            data, valid = source.read(window)
            full = np.float32(255 if data.dtype == np.uint8 else 1)
            least = np.float32(threshold) * full
            mask = likeliest_class(data) if spec.exclusive else data[0] >= least
            sink.write(np.where(valid, mask, MASK_NODATA).astype(np.uint8), 1, window=window)
    # `mode` would suit classes better but takes 1.5 times as long.
    write_cog(plain, path, resampling="nearest", threads=threads)
    plain.unlink()
    write_mask_style(path, spec)


def make_mask_tags(spec: ModelSpec) -> dict[str, str]:
    """Return the tags of a mask, which name the class of each value."""
    return {CLASS_TAG.format(value): name for value, (name, _) in _name_values(spec).items()}


def write_mask_style(path: Path, spec: ModelSpec) -> None:
    """Write a style for QGIS beside a mask."""
    classes = _name_values(spec)
    write_raster_style(path, mask_style({**classes, MASK_NODATA: ("nodata", TRANSPARENT)}))


def _name_values(spec: ModelSpec) -> dict[int, tuple[str, Colour]]:
    """Return name and colour of the class of each pixel value; the background is transparent."""
    if not spec.exclusive:
        return {0: ("background", TRANSPARENT), 1: (spec.classes[0], BUILDING_COLOUR)}
    return {
        value: (name, TRANSPARENT if name == spec.background else colour)
        for value, (name, colour) in enumerate(zip(spec.classes, spec.colours, strict=True))
    }


def _rgba(colour: Colour) -> tuple[int, int, int, int]:
    if colour == TRANSPARENT:
        return 0, 0, 0, 0
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue, 255
