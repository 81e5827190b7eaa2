"""Pictures for people: learning curves, reliability, truth and what was found."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from rasterio.windows import Window

from geoseg.errors import one_line
from geoseg.geo.raster import Scene
from geoseg.jobs.files import replace_file
from geoseg.training.validation.calibration import BINS, Calibration

logger = logging.getLogger(__name__)

_TRUTH, _FOUND, _MISSED, _FALSE = "#1a9850", "#d7301f", "#2b5fd9", "#d7301f"

# Outlines on a tile, the later ones on top: colour and width.
_OUTLINES = {
    "truth": ("white", 0.7),
    "found": ("#35e065", 1.2),
    "false": ("#ff3b30", 1.2),
    "missed": ("#35b6ff", 1.2),
}

_DPI = 110
_SIDE = 2.2  # of a tile on a sheet, inches
_HEAD = 0.26  # of the line above it


@dataclass(frozen=True, eq=False)
class OutlinedTile:
    """A tile with outlines of buildings.

    Attributes:
        image: (C, H, W).
        valid: (H, W).
        iou: Said above.
        outlines: Polygons in pixels of the tile: of the `truth` that was found, of buildings
            `found`, of `false` alarms, and of the truth that was `missed`.
    """

    image: np.ndarray
    valid: np.ndarray
    iou: float
    outlines: Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class MaskedTile:
    """A tile with masks of exclusive classes.

    Attributes:
        image: (C, H, W).
        valid: (H, W).
        iou: Said above.
        truth: (H, W) classes; others than those that have a colour stay white.
        found: (H, W) likewise.
    """

    image: np.ndarray
    valid: np.ndarray
    iou: float
    truth: np.ndarray
    found: np.ndarray


def draw_or_warn(draw: Callable[[Path], None], path: Path) -> None:
    """Draw a picture; log a warning with the reason if that fails."""
    try:
        draw(path)
    except Exception as error:  # noqa: BLE001  (matplotlib, shapely and the disk raise anything)
        reason = one_line(error) or type(error).__name__
        logger.warning("%s: the picture was not drawn: %s", path, reason)


def draw_curves(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draws losses, and validation scores, by epoch.

    Args:
        rows: Rows of `metrics.csv`.
        path: A `.png`.
    """
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    for name, colour in (("train_loss", "#555555"), ("val_loss", _FOUND)):
        _draw_column(losses, rows, name, colour)
    scored = {"val_iou": _TRUTH, "val_f1_pixel": "#9dbcf5", "val_f1": _MISSED, "val_score": "black"}
    for name, colour in scored.items():
        _draw_column(scores, rows, name, colour)
    losses.set(title="loss", xlabel="epoch")
    scores.set(title="validation", xlabel="epoch", ylim=(0, 1))
    for axes in (losses, scores):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if axes.lines:
            axes.legend(frameon=False)
    _save(figure, path)


def draw_rates(rows: Sequence[Mapping[str, float]], best: float, path: Path) -> None:
    """Draws the loss by learning rate.

    Args:
        rows: With `lr`, `loss` and `smoothed`.
        best: The rate to point at.
        path: A `.png`.
    """
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.subplots()
    rates = [row["lr"] for row in rows]
    axes.plot(rates, [row["loss"] for row in rows], color="#bbbbbb", linewidth=0.8)
    axes.plot(rates, [row["smoothed"] for row in rows], color="#555555")
    axes.axvline(best, color=_FOUND, label=f"{best:.1e}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    _save(figure, path)


def _draw_column(axes: Any, rows: Sequence[Mapping[str, float]], name: str, colour: str) -> None:
    """Draws a column over the epochs that have it."""
    known = [row for row in rows if name in row]
    if known:
        epochs, values = [row["epoch"] for row in known], [row[name] for row in known]
        axes.plot(epochs, values, label=name, color=colour, marker="." if len(known) < 4 else "")


def draw_reliability(calibration: Calibration, path: Path) -> None:
    """Draws how often buildings are there of those said to be likely, before and after.

    Args:
        calibration: The temperature, and what it changes.
        path: A `.png`.
    """
    figure = Figure(figsize=(5.2, 6.8), layout="constrained")
    curve, histogram = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    curve.plot([0, 1], [0, 1], color="#aaaaaa", linewidth=1, linestyle="--")
    name = f"after, temperature {calibration.temperature:.2f}"
    for reliability, label, colour in (
        (calibration.before, "before", _FOUND),
        (calibration.after, name, _TRUTH),
    ):
        known = reliability.pixels > 0
        label = f"{label}: ECE {100 * reliability.ece:.2f} %"
        curve.plot(
            reliability.said[known], reliability.true[known], marker="o", markersize=4,
            label=label, color=colour,
        )  # fmt: skip
        share = reliability.pixels / max(1, reliability.pixels.sum())
        histogram.stairs(share, np.linspace(0, 1, BINS + 1), color=colour, linewidth=1.4)
    curve.set(
        title="reliability on validation ground", ylabel="share that is building",
        xlim=(0, 1), ylim=(0, 1),
    )  # fmt: skip
    curve.legend(frameon=False, loc="upper left")
    histogram.set(xlabel="probability of building", ylabel="share of pixels")
    if calibration.before.pixels.any():
        histogram.set_yscale("log")
    for axes in (curve, histogram):
        axes.grid(alpha=0.3)
    _save(figure, path)


def draw_outlined(tiles: Sequence[OutlinedTile], path: Path) -> None:
    """Draws a sheet of tiles with what was found, falsely found and missed.

    Args:
        tiles: Tiles of one size, in this order.
        path: A `.png`.
    """
    figure, axes = _sheet([tile.image.shape[1:] for tile in tiles], min(6, len(tiles)), 1)
    for tile, (panel,) in zip(tiles, axes, strict=True):
        _show(panel, _stretched(tile.image, tile.valid), f"IoU {tile.iou:.2f}")
        for name, polygons in tile.outlines.items():
            colour, width = _OUTLINES[name]
            rings = shapely.get_rings(shapely.get_parts(polygons))
            lines = [shapely.get_coordinates(ring) - 0.5 for ring in rings]
            panel.add_collection(LineCollection(lines, colors=colour, linewidths=width))
    keys = [Line2D([], [], color=colour, label=name) for name, (colour, _) in _OUTLINES.items()]
    figure.legend(handles=keys, loc="outside lower center", ncols=4, facecolor="#777777",
                  labelcolor="white")  # fmt: skip
    _save(figure, path)


def draw_masked(
    tiles: Sequence[MaskedTile], path: Path, names: Sequence[str], colours: Sequence[str]
) -> None:
    """Draws a sheet of tiles, each with its true and its found mask beside it.

    Args:
        tiles: Tiles of one size, in this order.
        path: A `.png`.
        names: Of the classes.
        colours: Of the classes, #rrggbb.
    """
    figure, axes = _sheet([tile.truth.shape for tile in tiles], min(2, len(tiles)), 3)
    look = {"cmap": ListedColormap(list(colours)), "vmin": -0.5, "vmax": len(colours) - 0.5}
    for tile, (image, truth, found) in zip(tiles, axes, strict=True):
        _show(image, _stretched(tile.image, tile.valid), "image")
        for panel, mask, title in (
            (truth, tile.truth, "truth"),
            (found, tile.found, f"found, mean IoU {tile.iou:.2f}"),
        ):
            hidden = np.ma.masked_where(~tile.valid | (mask >= len(colours)), mask)
            _show(panel, hidden, title, interpolation="nearest", **look)
    keys = [Patch(color=colour, label=name) for name, colour in zip(names, colours, strict=True)]
    figure.legend(handles=keys, loc="outside lower center", ncols=6, frameon=False)
    _save(figure, path)


def _sheet(
    shapes: Sequence[tuple[int, ...]], columns: int, panels: int
) -> tuple[Figure, list[tuple[Any, ...]]]:
    """A figure and the panels of each tile, `columns` tiles in a row; the rest stays empty."""
    rows = -(-len(shapes) // columns)
    height, width = shapes[0]
    size = (_SIDE * columns * panels, (_SIDE * height / width + _HEAD) * rows + 2 * _HEAD)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns * panels, squeeze=False).ravel()
    for panel in grid[len(shapes) * panels :]:
        panel.set_axis_off()
    used = grid[: len(shapes) * panels].reshape(-1, panels)
    return figure, [tuple(row) for row in used]


def _show(axes: Any, picture: Any, title: str, **look: Any) -> None:
    height, width = picture.shape[:2]
    axes.imshow(picture, **look)
    axes.set_title(title, fontsize=9, pad=3)
    axes.set(xticks=[], yticks=[], xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def draw_comparison(
    scene: str | Path,
    truth: gpd.GeoDataFrame,
    footprints: gpd.GeoDataFrame,
    path: Path,
    *,
    window: Window | None = None,
    title: str = "",
) -> None:
    """Draws a scene, its truth and the footprints found, side by side.

    Args:
        scene: The scene.
        truth: True footprints, in the scene's CRS.
        footprints: Footprints found, in the scene's CRS.
        path: A `.png`.
        window: Part of the scene to show; all of it when None.
        title: Said above.
    """
    with Scene(scene) as source:
        window = window or source.grid.window
        data, valid = source.read(window)
        picture = _stretched(data, valid)
        grid = source.grid
    inverse = ~grid.window_transform(window)
    to_pixels = [inverse.a, inverse.b, inverse.d, inverse.e, inverse.c, inverse.f]
    figure = Figure(figsize=(15, 15 / 3 * window.height / window.width + 0.7), layout="constrained")
    panels = (("scene", None, ""), ("truth", truth, _TRUTH), ("footprints", footprints, _FOUND))
    for axes, (name, layer, colour) in zip(figure.subplots(1, 3), panels, strict=True):
        axes.imshow(picture)
        shown = 0
        if layer is not None:
            near = layer[layer.intersects(grid.window_polygon(window))]
            shown = len(near)
            for part in near.geometry.affine_transform(to_pixels).boundary.explode():
                axes.plot(*part.xy, color=colour, linewidth=1.1)
        axes.set(title=name if layer is None else f"{name}: {shown}", xticks=[], yticks=[])
        axes.set(
            xlabel="", ylabel="", xlim=(-0.5, window.width - 0.5), ylim=(window.height - 0.5, -0.5)
        )
    if title:
        figure.suptitle(title)
    _save(figure, path)


def _stretched(data: np.ndarray, valid: np.ndarray) -> Any:
    """Any bands as an RGB picture in 0..1: first three, or one in grey; nodata white."""
    shown = data[:3] if len(data) >= 3 else data[[0, 0, 0]]
    shown = shown.astype(np.float32)
    if valid.any():
        low, high = np.percentile(shown[:, valid], [1, 99])
        shown = np.clip((shown - low) / max(high - low, 1e-6), 0, 1)
    shown[:, ~valid] = 1
    return shown.transpose(1, 2, 0)


def _save(figure: Figure, path: Path) -> None:
    with replace_file(path) as partial:
        figure.savefig(partial, dpi=_DPI, format="png")
