"""Refinement of a probability raster by the colours of its scene."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rasterio.windows import Window

from geoseg.errors import GridMismatchError
from geoseg.geo.raster import SPREAD, Scene, limited_block_cache, open_for_writing, read_prob
from geoseg.geo.raster.quantization import dequantise, quantise
from geoseg.jobs.progress import Progress
from geoseg.options import CRFOptions
from geoseg.prediction.crf.blockwise import block_windows, refine_block

# Channels that are not probabilities of a class; they are copied unchanged.
_UNREFINED = ("border", "contact", "distance", SPREAD)

# Colours that are not 8-bit are stretched so that these percentiles are 255 apart. They are
# computed from a sample of at most this many pixels along each side.
_PERCENTILES = (2.0, 98.0)
_SAMPLE_SIDE = 1024


@limited_block_cache()
def refine_raster(
    prob: str | Path,
    scene: str | Path,
    output: str | Path,
    *,
    options: CRFOptions | None = None,
    bands: tuple[int | str, ...] | None = None,
    assume_gsd_m: float | None = None,
    progress: Progress | None = None,
) -> None:
    """Refine a probability raster by the colours of its scene (see `mean_field`).

    One class is refined against the background, several as exclusive classes. Where the scene is
    nodata, probabilities do not change.

    Args:
        prob: Probabilities, uint8 (255 = certain) or float in 0..1.
        scene: The scene they were predicted from; it is warped to their grid.
        output: A GeoTIFF with the bands and data type of `prob`; appears only when complete.
        options: Options of the CRF.
        bands: Bands of the scene, by number or name; all data bands when None.
        assume_gsd_m: Pixel size of a scene that has no georeferencing, metres.
        progress: Receives the number of finished and of all blocks.

    Raises:
        SceneReadError: If one of the two cannot be read.
        GridMismatchError: If they do not overlap.
    """
    info = read_prob(prob)
    classes = [i for i, name in enumerate(info.bands) if name not in _UNREFINED]
    with (
        Scene(prob) as source,
        Scene(scene, bands=bands, grid=source.grid, assume_gsd_m=assume_gsd_m) as colours,
        open_for_writing(
            output, info.grid, count=len(info.bands), dtype=info.dtype, nodata=info.nodata,
            descriptions=info.bands, tags=dict(info.tags), scratch=True,
        ) as sink,
    ):  # fmt: skip
        scale = _colour_scale(colours)

        def read(window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            data, valid = source.read(window)
            image, image_valid = colours.read(window)
            return dequantise(data[classes]), image * scale, valid & image_valid

        windows = block_windows(info.grid.shape)
        for done, window in enumerate(windows, start=1):
            data, valid = source.read(window)
            refined = refine_block(read, window, info.grid.shape, options)
            data[classes] = quantise(refined) if data.dtype == np.uint8 else refined
            sink.write(data, window=window)
            sink.write_mask(valid, window=window)
            if progress:
                progress(done, len(windows), "blocks refined")


def check_colours(prob: str | Path, scene: str | Path) -> None:
    """Raise the errors that `refine_raster` would raise about its inputs."""
    grid = read_prob(prob).grid
    with Scene(scene, grid=grid) as colours:
        _colour_scale(colours)


def _colour_scale(scene: Scene) -> np.ndarray:
    """Return the factor of each band that scales its colours to 0..255.

    Returns:
        float32 (bands, 1, 1).

    Raises:
        GridMismatchError: If the scene has no valid pixel on its grid.
    """
    height, width = scene.grid.shape
    step = -(-max(height, width) // _SAMPLE_SIDE)
    data, valid = scene.read(shape=(-(-height // step), -(-width // step)))
    if not valid.any():
        raise GridMismatchError(
            f"{scene.info.path}: has no valid pixel in the area of the probabilities; use the "
            "scene that they were predicted from"
        )
    if scene.info.dtype == "uint8":
        return np.ones((len(data), 1, 1), dtype=np.float32)
    low, high = np.percentile(data[:, valid].astype(np.float64), _PERCENTILES, axis=1)
    spread = np.where(high > low, high - low, 255)
    scale: np.ndarray = (255 / spread).astype(np.float32)[:, None, None]
    return scale
