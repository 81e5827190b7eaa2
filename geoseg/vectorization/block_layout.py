"""How much of a raster is looked at at a time."""

from __future__ import annotations

from dataclasses import dataclass

from rasterio.windows import Window

from geoseg.errors import MemoryLimitError
from geoseg.geo.grid import Grid

# Of the memory that a user grants: the rest is for the libraries and what is found.
_SHARE = 0.25
_MOST_SHARE = 0.75

# Bytes per pixel while components are found: those of noise, of which every fourth pixel begins a
# run that is kept as four numbers, indexed and linked to its neighbours. Buildings take a tenth.
_FIND_BYTES = 32

# Bytes per pixel while components are traced.
_TRACE_BYTES = 64

# Where there is memory for more, that gains nothing.
_ROWS, _SIDE = 512, 2048

# Sides of windows are multiples of this, as rasters are stored in squares of such sizes.
_SQUARE = 256


@dataclass(frozen=True)
class BlockLayout:
    """How a raster is cut while it is vectorized; the footprints do not depend on it.

    Attributes:
        rows: Of a block in which components are found, as wide as the raster.
        side: Rows and columns in which the components of a window begin.
    """

    rows: int
    side: int


def choose_layout(grid: Grid, max_memory_gb: float) -> BlockLayout:
    """The largest blocks and windows that are of use and fit into the memory of a process."""
    granted = _SHARE * max_memory_gb * 1e9
    rows = int(granted / (_FIND_BYTES * grid.width))
    # A window reaches half a side further, for what begins at its end.
    side = int((granted / _TRACE_BYTES) ** 0.5 / 1.5) // _SQUARE * _SQUARE
    return BlockLayout(max(1, min(rows, _ROWS)), max(_SQUARE, min(side, _SIDE)))


def check_window(window: Window, max_memory_gb: float) -> None:
    """Refuses a component that cannot be traced in the memory of a process.

    Raises:
        MemoryLimitError: If it is too large.
    """
    needed_gb = window.width * window.height * _TRACE_BYTES / 1e9
    if needed_gb > _MOST_SHARE * max_memory_gb:
        raise MemoryLimitError(
            f"--max-memory: what is likely enough to be building hangs together over "
            f"{window.height} x {window.width} pixels, which takes {needed_gb / _MOST_SHARE:.1f} "
            f"GB to trace, and {max_memory_gb:g} GB are granted; raise --threshold, or raise "
            "--max-memory and go on from here"
        )
