"""Splits unfinished tile rows among workers."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator
from pathlib import Path

from rasterio.windows import Window

from geoseg.geo.tiling import TileGrid
from geoseg.prediction.stitching import TileBlock

# Every block also predicts the tile row before its first, to blend with it. With this many rows
# per block, that is a twentieth of the work.
_ROWS = 20

# Blocks per worker, as long as blocks do not become too low; more blocks balance the load better.
_BLOCKS_PER_WORKER = 4

# Panels begin at every eighth tile, because eight neighbours are read together (see `batches`).
_PANEL_COLUMNS = 8


def strip_path(folder: Path, block: TileBlock, row: int) -> Path:
    """Return the file of the strip that one row of tiles completes in a block."""
    return folder / f"{row:06d}_{block.columns[0]:06d}.tif"


def split_panels(tiles: TileGrid, count: int) -> list[TileBlock]:
    """Split a scene into panels side by side, each as high as the scene.

    Args:
        tiles: All tiles of the scene.
        count: Maximum number of panels.
    """
    columns, rows = len(tiles.columns), len(tiles.rows)
    width = -(-columns // count)
    width = -(-width // _PANEL_COLUMNS) * _PANEL_COLUMNS
    return [
        TileBlock(tiles, (0, rows), (first, min(first + width, columns)))
        for first in range(0, columns, width)
    ]


def list_strips(
    panels: list[TileBlock], folder: Path, chosen: Container[tuple[int, int]] | None = None
) -> list[tuple[Path, Window]]:
    """Return the files of strips, each with its window of the scene.

    Args:
        panels: Panels from `split_panels`.
        folder: Folder of the strips.
        chosen: Strips to return, as pairs of panel and row of tiles; all when None.
    """
    return [
        (strip_path(folder, panel, row), panel.strip(row))
        for number, panel in enumerate(panels)
        for row in range(*panel.rows)
        if chosen is None or (number, row) in chosen
    ]


def split_blocks(
    panels: list[TileBlock],
    folder: Path,
    *,
    workers: int = 1,
    rows: int | None = None,
    strips: Collection[tuple[int, int]] | None = None,
) -> list[TileBlock]:
    """Return blocks of neighbouring tile rows whose strips are not finished.

    Args:
        panels: Panels from `split_panels`.
        folder: Folder of the finished strips.
        workers: Number of workers that run at the same time.
        rows: Maximum number of tile rows per block; chosen by the number of workers when None.
        strips: Strips to predict, as pairs of panel and row of tiles; all when None.
    """
    if rows is None:
        total = sum(panel.rows[1] for panel in panels) if strips is None else len(strips)
        rows = total if workers == 1 else _choose_rows(total, workers)
    return [
        TileBlock(panel.tiles, (first, min(first + rows, last)), panel.columns)
        for number, panel in enumerate(panels)
        for begin, last in _unfinished_rows(number, panel, folder, strips)
        for first in range(begin, last, rows)
    ]


def _choose_rows(total: int, workers: int) -> int:
    most = max(-(-total // (_BLOCKS_PER_WORKER * workers)), min(_ROWS, -(-total // workers)))
    return max(1, most)


def _unfinished_rows(
    number: int, panel: TileBlock, folder: Path, strips: Container[tuple[int, int]] | None
) -> Iterator[tuple[int, int]]:
    """Yield (first, after the last) of each run of tile rows without a finished strip."""
    begin: int | None = None
    for row in range(*panel.rows):
        wanted = strips is None or (number, row) in strips
        finished = not wanted or strip_path(folder, panel, row).exists()
        if finished and begin is not None:
            yield begin, row
            begin = None
        elif not finished and begin is None:
            begin = row
    if begin is not None:
        yield begin, panel.rows[1]
