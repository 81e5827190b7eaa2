"""Block and window sizes by the available memory."""

from __future__ import annotations

from dataclasses import dataclass

from rasterio.windows import Window

from geoseg.errors import MemoryLimitError
from geoseg.geo.grid import Grid

# Share of the memory limit that the pixels of a block may take; the rest is for the libraries and
# the results. A single large component may take more.
_SHARE = 0.25
_MAX_SHARE = 0.75

# Bytes per pixel while components are found. This is the worst case, noise: every fourth pixel
# starts a run of four numbers, which is indexed and linked to its neighbours. Buildings need a
# tenth of it.
_FIND_BYTES = 32

# Bytes per pixel while components are traced.
_TRACE_BYTES = 64

# Upper limits of rows and side; larger blocks are not faster.
_ROWS, _SIDE = 512, 2048

# Window sides are multiples of the usual block size of rasters.
_SQUARE = 256


@dataclass(frozen=True)
class BlockLayout:
    """Block and window sizes of vectorization; the footprints do not depend on them.

    Attributes:
        rows: Rows of a block in which components are found; it has all columns.
        side: Rows and columns of the squares by which components are grouped into windows.
    """

    rows: int
    side: int


def choose_layout(grid: Grid, max_memory_gb: float) -> BlockLayout:
    """Choose the largest useful blocks and windows that fit into the memory of a process."""
    budget = _SHARE * max_memory_gb * 1e9
    rows = int(budget / (_FIND_BYTES * grid.width))
    # A window extends by half a side for components that begin near its border.
    side = int((budget / _TRACE_BYTES) ** 0.5 / 1.5) // _SQUARE * _SQUARE
    return BlockLayout(max(1, min(rows, _ROWS)), max(_SQUARE, min(side, _SIDE)))


def check_window(window: Window, max_memory_gb: float, process_gb: float = 0.0) -> None:
    """Refuse a window that cannot be traced in the memory of a process.

    Args:
        window: The window.
        max_memory_gb: Memory limit of the process.
        process_gb: Memory that the process has already, for its libraries.

    Raises:
        MemoryLimitError: If it is too large.
    """
    trace_gb = window.width * window.height * _TRACE_BYTES / 1e9
    needed_gb = max(trace_gb / _MAX_SHARE, trace_gb + process_gb)
    # Windows of the usual size have their share of any limit.
    if needed_gb > max_memory_gb and trace_gb > _SHARE * max_memory_gb:
        raise MemoryLimitError(
            f"--max-memory: one connected region spans {window.height} x {window.width} pixels "
            f"and needs {needed_gb:.1f} GB to trace, the limit is "
            f"{max_memory_gb:g} GB; raise --threshold, or raise --max-memory to resume"
        )
