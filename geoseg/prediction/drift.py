"""Warnings about scenes that differ from the training scenes of a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from rasterio.windows import Window

from geoseg.credentials import get_logger
from geoseg.geo.grid import Grid
from geoseg.geo.raster import SceneInfo
from geoseg.networks.model_file import ModelSpec
from geoseg.options.headers import PlaceBands

logger = get_logger(__name__)

# Sampled windows along each side of a scene, and the side of each window in pixels.
_WINDOWS, _SIDE = 8, 64

# Largest allowed shift of a band's mean from that of the nearest training place, in standard
# deviations, and largest allowed ratio of the standard deviations. Scenes of one town and one
# camera differ by a tenth of that.
_MAX_SHIFT, _MAX_RATIO = 0.75, 2.0

# What the differences of `_difference` are called, by their sign.
_COMPARED = (("darker", "brighter"), ("of less contrast", "of more contrast"))

# Largest allowed ratio of the scene's pixel size to the model's.
_MAX_COARSENING = 1.5


def warn_of_drift(scene: SceneInfo, specs: Sequence[ModelSpec]) -> None:
    """Warn if a scene is coarser, brighter, darker or of other contrast than any training place.

    The scene is sampled once for all models.

    Args:
        scene: The scene, its bands in the order of the models.
        specs: Headers of the models.
    """
    statistics = _sample_statistics(scene)
    for spec in specs:
        _warn_of_gsd(scene, spec)
        if statistics is not None:
            _warn_of_statistics(scene, spec, *statistics)


def _warn_of_gsd(scene: SceneInfo, spec: ModelSpec) -> None:
    if scene.grid.gsd_m > _MAX_COARSENING * spec.gsd_m:
        logger.warning(
            "%s: its pixels of %.3g m are coarser than the %.3g m that the model was trained on; "
            "small objects may be missed, so check the result",
            scene.name,
            scene.grid.gsd_m,
            spec.gsd_m,
        )


def _warn_of_statistics(
    scene: SceneInfo, spec: ModelSpec, mean: np.ndarray, std: np.ndarray
) -> None:
    places = spec.places or (PlaceBands(name="all", mean=spec.mean, std=spec.std),)
    differences = [_difference(one, mean, std) for one in places]
    nearest = int(np.argmin([np.abs(of_bands).max() for of_bands in differences]))
    worst = np.unravel_index(np.abs(differences[nearest]).argmax(), differences[nearest].shape)
    if abs(difference := differences[nearest][worst]) <= 1:
        return
    kind, band = worst
    logger.warning(
        "%s: band %s is %s than in %s; check the result, or train on such scenes, too",
        scene.name,
        spec.bands[band],
        _COMPARED[kind][int(difference > 0)],
        _name_training(places, nearest),
    )


def _name_training(places: Sequence[PlaceBands], nearest: int) -> str:
    if len(places) == 1:
        return "the scenes that the model was trained on"
    return f"{places[nearest].name}, the most similar place that the model was trained on"


def _difference(place: PlaceBands, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Return the differences from a place in units of the largest allowed ones.

    Returns:
        (2, bands): brighter or darker, of more or less contrast.
    """
    shift = (mean - place.mean) / place.std / _MAX_SHIFT
    contrast = np.log2(np.maximum(std, 1e-9) / place.std) / np.log2(_MAX_RATIO)
    return np.stack([shift, contrast])


def _sample_statistics(scene: SceneInfo) -> tuple[np.ndarray, np.ndarray] | None:
    """Return mean and standard deviation of each band; None if all samples are nodata."""
    samples = []
    with scene.open() as source:
        for window in _sample_windows(scene.grid):
            data, valid = source.read(window)
            samples.append(data[:, valid].astype(np.float64))
    pixels = np.concatenate(samples, axis=1)
    if pixels.shape[1] == 0:
        return None
    return pixels.mean(axis=1), pixels.std(axis=1)


def _sample_windows(grid: Grid) -> Iterator[Window]:
    for top in _evenly_spaced(grid.height):
        for left in _evenly_spaced(grid.width):
            yield Window(left, top, min(_SIDE, grid.width), min(_SIDE, grid.height))


def _evenly_spaced(length: int) -> list[int]:
    last = max(0, length - _SIDE)
    return sorted({round(last * index / (_WINDOWS - 1)) for index in range(_WINDOWS)})
