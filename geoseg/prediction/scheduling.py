"""Which blocks a scene's tiles are predicted in: the missing bands, dealt to who computes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rasterio.windows import Window

from geoseg.geo.tiling import TileGrid
from geoseg.prediction.stitching import TileBlock

# A block predicts the row of tiles before its own once more, to blend with it. With as many rows
# as this that is a twentieth of the work.
_ROWS = 20

# Blocks per worker, if they are that high: so that none waits long for the last one.
_PER_WORKER = 4

# Panels begin at every eighth tile, as groups of tiles that are read at once do.
_COLUMNS = 8


def band_path(folder: Path, block: TileBlock, row: int) -> Path:
    """The file of the band that a row of tiles settles in a block."""
    return folder / f"{row:06d}_{block.columns[0]:06d}.tif"


def deal_panels(plan: TileGrid, count: int) -> list[TileBlock]:
    """Parts of the scene from top to bottom, side by side.

    Args:
        plan: The tiles.
        count: How many there are to be at the most.
    """
    columns, rows = len(plan.columns), len(plan.rows)
    wide = -(-columns // count)
    wide = -(-wide // _COLUMNS) * _COLUMNS
    return [
        TileBlock(plan, (0, rows), (first, min(first + wide, columns)))
        for first in range(0, columns, wide)
    ]


def list_bands(panels: list[TileBlock], folder: Path) -> list[tuple[Path, Window]]:
    """The files of all bands, each with its window of the scene."""
    return [
        (band_path(folder, panel, row), panel.band(row))
        for panel in panels
        for row in range(*panel.rows)
    ]


def deal_blocks(
    panels: list[TileBlock], folder: Path, *, workers: int = 1, rows: int | None = None
) -> list[TileBlock]:
    """Blocks of neighbouring rows whose bands are not there yet.

    Args:
        panels: From `deal_panels`.
        folder: Where the bands are.
        workers: How many work at a time.
        rows: Rows of tiles in a block at the most; what is best when None.
    """
    if rows is None:
        total = sum(panel.rows[1] for panel in panels)
        rows = total if workers == 1 else _best_rows(total, workers)
    return [
        TileBlock(panel.plan, (first, min(first + rows, last)), panel.columns)
        for panel in panels
        for begin, last in _missing(panel, folder)
        for first in range(begin, last, rows)
    ]


def _best_rows(total: int, workers: int) -> int:
    return max(-(-total // (_PER_WORKER * workers)), min(_ROWS, -(-total // workers)))


def _missing(panel: TileBlock, folder: Path) -> Iterator[tuple[int, int]]:
    begin: int | None = None
    for row in range(*panel.rows):
        there = band_path(folder, panel, row).exists()
        if there and begin is not None:
            yield begin, row
            begin = None
        elif not there and begin is None:
            begin = row
    if begin is not None:
        yield begin, panel.rows[1]
