"""Settings that tiles were cut with, compared with those of a configuration."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from geoseg.data.labels import resolve_scheme
from geoseg.data.splits import matches_any
from geoseg.data.tiles.tile_index import TilesInfo
from geoseg.options import TileOptions

# Pixel sizes that differ less are the same: scenes are not resampled for it.
_GSD_TOLERANCE = 0.01

# Settings that make no difference to training once the tiles are cut.
_WITHOUT_EFFECT = {"tile.split", "tile.where"}


def list_cut_settings(info: TilesInfo) -> dict[str, Any]:
    """Return the settings that tiles were cut with, by their dotted names."""
    settings: dict[str, Any] = {
        "tile.size": info.size,
        "tile.overlap": info.overlap,
        "tile.gsd_m": info.gsd_m,
        "tile.split": info.split.get("by"),
        "tile.where": info.where,
        "tile.merged": _join_names(info.merged),
    }
    if info.exclusive:
        return {**settings, "tile.classes": ", ".join(info.classes)}
    return {**settings, "tile.targets": ", ".join(info.targets)}


def find_other_settings(info: TilesInfo, options: TileOptions) -> dict[str, tuple[Any, Any]]:
    """Find settings that are given and differ from those that tiles were cut with.

    Args:
        info: The tiles.
        options: Options of which those that were set are compared.

    Returns:
        The given value and that of the tiles, by dotted name.
    """
    given: dict[str, Any] = {
        f"tile.{name}": getattr(options, name) for name in options.model_fields_set
    }
    if options.classes:
        given["tile.classes"] = ", ".join(resolve_scheme(options.classes).names)
    given["tile.targets"] = ", ".join(options.targets) if "tile.targets" in given else None
    if "tile.merged" in given:
        matching = [scene for scene in info.scenes if matches_any(scene, options.merged)]
        given["tile.merged"] = _join_names(matching)
    cut = list_cut_settings(info)
    compared = cut.keys() - _WITHOUT_EFFECT
    pairs = {key: (value, cut[key]) for key, value in given.items() if key in compared}
    return {
        key: pair for key, pair in pairs.items() if pair[0] is not None and not _are_equal(*pair)
    }


def _join_names(scenes: Iterable[str]) -> str:
    return ", ".join(Path(scene).name for scene in scenes) or "none"


def _are_equal(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return abs(one / other - 1) < _GSD_TOLERANCE
    return bool(one == other)
