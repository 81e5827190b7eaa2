"""How wide a scene may be predicted in one piece."""

from __future__ import annotations

from geoseg.geo.tiling import TileGrid
from geoseg.prediction.encoding import ValuesKind

# Of the memory that a user grants: the rest is for the libraries, the network and its tiles.
_SHARE = 0.25


def count_panels(plan: TileGrid, values: ValuesKind, max_memory_gb: float) -> int:
    """Panels side by side, so that the rows held of each stay within a share of the memory.

    Args:
        plan: The tiles.
        values: What is kept of the probabilities.
        max_memory_gb: What the whole process may take.
    """
    needed = plan.width * _bytes_per_column(plan, values)
    granted = _SHARE * max_memory_gb * 1e9
    return max(1, -(-int(needed) // int(granted)))


def _bytes_per_column(plan: TileGrid, values: ValuesKind) -> int:
    """What is held of a column of pixels while its tiles are predicted."""
    channels = len(values.outputs) * (2 if values.spread else 1)
    number = 4 if values.floats else 1
    # A band is gathered while the one before it is written.
    band = 2 * len(values.bands) * number + 3
    return 4 * channels * plan.overlap + band * plan.size
