"""A probability raster and its scene → the raster refined by a dense CRF, block by block."""

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

# Channels that say more of a building than where it is; they stay as they are.
_BESIDES = ("border", "contact", "distance", SPREAD)

# Colours that are not 8-bit are stretched so that these percentiles of at most this many
# pixels by this many lie as far apart as black and white.
_PERCENTILES = (2.0, 98.0)
_SAMPLE = 1024


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
    """Refines a probability raster by the colours of its scene (see `geoseg.prediction.crf`).

    One class is refined against all else, several as classes that exclude each other. Where
    the scene is nodata, probabilities stay as they are.

    Args:
        prob: Probabilities, uint8 (255 = certain) or float in 0..1.
        scene: The scene that they are of; it is brought to their grid.
        output: A GeoTIFF of the same kind as `prob`; appears only when complete.
        options: The CRF.
        bands: Of the scene, by number or name; all data bands when None.
        assume_gsd_m: Pixel size of a scene that does not say where it lies.
        progress: Told the finished and the total number of blocks.

    Raises:
        SceneReadError: If one of the two cannot be read.
        GridMismatchError: If they do not share ground.
    """
    info = read_prob(prob)
    classes = [i for i, name in enumerate(info.bands) if name not in _BESIDES]
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
            data, known = source.read(window)
            image, seen = colours.read(window)
            return dequantise(data[classes]), image * scale, known & seen

        windows = block_windows(info.grid.shape)
        for done, window in enumerate(windows, start=1):
            data, known = source.read(window)
            refined = refine_block(read, window, info.grid.shape, options)
            data[classes] = quantise(refined) if data.dtype == np.uint8 else refined
            sink.write(data, window=window)
            sink.write_mask(known, window=window)
            if progress:
                progress(done, len(windows), "blocks refined")


def check_colours(prob: str | Path, scene: str | Path) -> None:
    """Raises what `refine_raster` would of its inputs, before the work begins."""
    grid = read_prob(prob).grid
    with Scene(scene, grid=grid) as colours:
        _colour_scale(colours)


def _colour_scale(scene: Scene) -> np.ndarray:
    """What a scene's bands are multiplied by so that their colours compare with 8-bit ones.

    Returns:
        float32 (bands, 1, 1).

    Raises:
        GridMismatchError: If there is no colour at all on the scene's grid.
    """
    height, width = scene.grid.shape
    step = -(-max(height, width) // _SAMPLE)
    data, valid = scene.read(shape=(-(-height // step), -(-width // step)))
    if not valid.any():
        raise GridMismatchError(
            f"{scene.info.path}: has no pixel where the probabilities lie; give the scene that "
            "they were predicted from"
        )
    if scene.info.dtype == "uint8":
        return np.ones((len(data), 1, 1), dtype=np.float32)
    low, high = np.percentile(data[:, valid].astype(np.float64), _PERCENTILES, axis=1)
    spread = np.where(high > low, high - low, 255)
    scale: np.ndarray = (255 / spread).astype(np.float32)[:, None, None]
    return scale
