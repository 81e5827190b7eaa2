"""Shards: parts of a prediction that are computed independently, by jobs that share nothing.

A shard is a range of the strips of all scenes, in order. A strip has the same bytes whichever shard
predicts it, so that shards can be merged as if one job had predicted them all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rasterio.windows import Window

from geoseg.errors import ConfigError
from geoseg.prediction.stitching import TileBlock

# Cost of a strip without pixels of a scene, as a share of that of a full one.
_EMPTY_COST = 0.02

_SHARD = re.compile(r"\s*(\d{1,6})\s*/\s*(\d{1,6})\s*")


@dataclass(frozen=True)
class Shard:
    """A part of a job.

    Attributes:
        number: Its number, from 1.
        count: Number of all shards.

    Raises:
        ConfigError: If the number is not from 1 to the count.
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ConfigError(
                f"--shard {self}: give a number from 1 to the number of shards, such as 3/16"
            )

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the shard that is meant by a text such as `3/16`."""
        found = _SHARD.fullmatch(text)
        if not found:
            raise ConfigError(f"--shard {text}: give a number and a count, such as 3/16")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


@dataclass(frozen=True)
class StripScene:
    """The strips of one scene, for dividing.

    Attributes:
        panels: Its panels.
        areas: Windows of its parts that have pixels, on the grid of the tiles.
    """

    panels: Sequence[TileBlock]
    areas: Sequence[Window]

    def list_rows(self) -> list[tuple[int, int]]:
        """Return the strips, as pairs of panel and row of tiles."""
        return [
            (number, row) for number, panel in enumerate(self.panels) for row in range(*panel.rows)
        ]

    def costs(self) -> np.ndarray:
        """Return the cost (n,) of each strip in pixels."""
        strips = [panel.strip(row) for panel in self.panels for row in range(*panel.rows)]
        boxes, areas = _corners(strips), _corners(self.areas)
        costs = np.zeros(len(boxes))
        for left, top, right, bottom in areas.tolist():  # few of a scene, many strips
            width = np.minimum(boxes[:, 2], right) - np.maximum(boxes[:, 0], left)
            height = np.minimum(boxes[:, 3], bottom) - np.maximum(boxes[:, 1], top)
            costs += np.maximum(width, 0) * np.maximum(height, 0)
        whole = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        total: np.ndarray = np.minimum(costs, whole) + _EMPTY_COST * whole
        return total


def _corners(windows: Sequence[Window]) -> np.ndarray:
    corners = [
        (one.col_off, one.row_off, one.col_off + one.width, one.row_off + one.height)
        for one in windows
    ]
    return np.array(corners, dtype=np.float64).reshape(-1, 4)


def pick_shard(scenes: Sequence[StripScene], shard: Shard) -> list[frozenset[tuple[int, int]]]:
    """Return the strips of each scene that belong to a shard, as pairs of panel and row of tiles.

    The strips of all scenes are divided in order into ranges of about the same cost.
    """
    costs = [scene.costs() for scene in scenes]
    ends = np.cumsum(np.concatenate(costs))
    middles = ends - np.concatenate(costs) / 2
    numbers = np.minimum((middles / ends[-1] * shard.count).astype(int), shard.count - 1) + 1
    begins = np.cumsum([0, *map(len, costs)])
    return [
        frozenset(
            strip
            for strip, number in zip(scene.list_rows(), numbers[begin:].tolist(), strict=False)
            if number == shard.number
        )
        for scene, begin in zip(scenes, begins.tolist(), strict=False)
    ]
