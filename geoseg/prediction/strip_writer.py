"""Writes finished strips of a block in a background thread."""

from __future__ import annotations

import math
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from rasterio.windows import Window
from torch import Tensor

from geoseg.errors import ModelFileError
from geoseg.geo.grid import Grid
from geoseg.geo.raster import open_for_writing
from geoseg.geo.tiling import Tile
from geoseg.prediction.encoding import OutputEncoding
from geoseg.prediction.scheduling import strip_path
from geoseg.prediction.stitching import TileBlock

# Strips that wait to be written while the next one is filled.
_WRITE_BEHIND = 1


class StripWriter:
    """Fills each strip of a block tile by tile, and writes it with the last tile of its row.

    Args:
        folder: Folder of the strips.
        grid: Grid of the tiles.
        block: The tiles.
        encoding: Output bands.

    Attributes:
        valid: Which pixels of each row's strip are valid; set before the last tile of the row.
    """

    def __init__(
        self, folder: Path, grid: Grid, block: TileBlock, encoding: OutputEncoding
    ) -> None:
        self._folder, self._grid, self._block, self._encoding = folder, grid, block, encoding
        self.valid: dict[int, np.ndarray] = {}
        self._strip: Tensor | None = None
        # The sum of all probabilities of the strip, on their device: finite if all of them are.
        self._sum: Tensor | float = 0.0
        self._writing: deque[Future[None]] = deque()

    def __enter__(self) -> StripWriter:
        self._pool = ThreadPoolExecutor(1)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            while self._writing and kind is None:
                self._writing.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)

    def add(self, tile: Tile, window: Window, blended: Tensor) -> None:
        """Add the final pixels of a tile.

        Args:
            tile: The tile, in the order of the block.
            window: Window of the final pixels in the scene.
            blended: float32 (C, h, w), from `Stitcher.add`.
        """
        strip = self._block.strip(tile.row)
        values = self._encoding.encode(blended)
        if self._strip is None:
            self._strip = values.new_empty((len(values), strip.height, strip.width))
        left = window.col_off - strip.col_off
        self._strip[:, :, left : left + window.width] = values
        self._sum = self._sum + blended.sum()
        if tile.column == self._block.columns[1] - 1:
            check_probabilities(float(self._sum))
            self._submit(tile.row, self._strip)
            self._strip, self._sum = None, 0.0

    def _submit(self, row: int, strip: Tensor) -> None:
        if len(self._writing) == _WRITE_BEHIND:
            self._writing.popleft().result()
        self._writing.append(self._pool.submit(self._write, row, strip, self.valid.pop(row)))

    def _write(self, row: int, strip: Tensor, valid: np.ndarray) -> None:
        values, all_valid = strip.cpu().numpy(), bool(valid.all())
        if not all_valid:
            values[:, ~valid] = 0
        with open_for_writing(
            strip_path(self._folder, self._block, row),
            self._grid.window_grid(self._block.strip(row)),
            count=len(values),
            dtype=values.dtype.name,
            masked=not all_valid,
            scratch=True,
        ) as sink:
            sink.write(values)
            if not all_valid:
                sink.write_mask(valid)


def check_probabilities(total: float) -> None:
    """Check that probabilities are numbers.

    Args:
        total: Their sum, which is not finite if one of them is not.

    Raises:
        ModelFileError: If one is infinite or not a number.
    """
    if not math.isfinite(total):
        raise ModelFileError(
            "the network returns values that are not numbers; the model is damaged, or its mean "
            "and std do not suit the scene"
        )
