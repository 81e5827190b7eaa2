"""Figures: learning curves, reliability diagrams, and predictions beside the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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

from geoseg.credentials import get_logger
from geoseg.errors import one_line
from geoseg.geo.raster import Scene
from geoseg.jobs.files import replace_file
from geoseg.training.score_names import label_score, list_place_columns
from geoseg.training.validation.calibration import Calibration
from geoseg.training.validation.reliability import Reliability

logger = get_logger(__name__)

_GREEN, _RED, _BLUE = "#1a9850", "#d7301f", "#2b5fd9"

# Outlines on a tile, from bottom to top: name, label, colour and line width.
_OUTLINES = {
    "truth": ("detected building (reference)", "white", 0.7),
    "found": ("correct prediction", "#35e065", 1.2),
    "false": ("false prediction", "#ff3b30", 1.2),
    "missed": ("missed building (reference)", "#35b6ff", 1.2),
}

_DPI = 110
_JPEG_QUALITY = 85
_TILE_INCHES = 2.2
_SHEET_INCHES = 6.6  # least width, for the legend
_TITLE_INCHES = 0.26
_PAIR_INCHES = 10.0


@dataclass(frozen=True, eq=False)
class OutlinedTile:
    """A tile with outlines of buildings.

    Attributes:
        image: (C, H, W), in the scene's units.
        valid: bool (H, W), False on nodata.
        iou: IoU of prediction and reference, shown in the title.
        outlines: Polygons in pixels of the tile: reference footprints that were detected (`truth`)
            or `missed`, and predictions that are correct (`found`) or `false`.
    """

    image: np.ndarray
    valid: np.ndarray
    iou: float
    outlines: Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class MaskedTile:
    """A tile with masks of exclusive classes.

    Attributes:
        image: (C, H, W), in the scene's units.
        valid: bool (H, W), False on nodata.
        iou: Mean IoU of the classes, shown in the title.
        truth: (H, W), reference classes; values without a colour are shown white.
        predicted: (H, W), predicted classes.
    """

    image: np.ndarray
    valid: np.ndarray
    iou: float
    truth: np.ndarray
    predicted: np.ndarray


def draw_or_warn(draw: Callable[[Path], None], path: Path) -> None:
    """Draw a figure, or log a warning with the reason if that fails."""
    try:
        draw(path)
    except Exception as error:  # noqa: BLE001  (matplotlib, shapely and the disk raise anything)
        reason = one_line(error) or type(error).__name__
        logger.warning("%s: the picture was not drawn: %s", path, reason)


def draw_curves(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw losses and validation scores by epoch.

    Args:
        rows: Rows of `metrics.csv`.
        path: Output `.png`.
    """
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    for name, colour in (("train_loss", "#555555"), ("val_loss", _RED)):
        _draw_column(losses, rows, name, colour)
    _draw_places(scores, rows)
    scored = {"val_iou": _GREEN, "val_f1_pixel": "#9dbcf5", "val_f1": _BLUE, "val_score": "black"}
    for name, colour in scored.items():
        _draw_column(scores, rows, name, colour)
    losses.set(title="Loss", xlabel="Epoch")
    scores.set(title="Validation scores", xlabel="Epoch", ylim=(0, 1))
    for axes in (losses, scores):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if axes.lines:
            axes.legend(frameon=False)
    _save(figure, path)


def draw_rates(rows: Sequence[Mapping[str, float]], best: float, path: Path) -> None:
    """Draw the loss by learning rate.

    Args:
        rows: Rows with `lr`, `loss` and `smoothed`.
        best: The learning rate to mark.
        path: Output `.png`.
    """
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.subplots()
    rates = [row["lr"] for row in rows]
    axes.plot(rates, [row["loss"] for row in rows], color="#bbbbbb", linewidth=0.8, label="loss")
    axes.plot(rates, [row["smoothed"] for row in rows], color="#555555", label="smoothed")
    axes.axvline(best, color=_RED, label=f"suggested: {best:.1e}")
    axes.set(xscale="log", xlabel="Learning rate", ylabel="Loss")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    _save(figure, path)


def _draw_column(axes: Any, rows: Sequence[Mapping[str, float]], name: str, colour: str) -> None:
    """Draw a column of the metrics over the epochs that have it."""
    known = [row for row in rows if name in row]
    if known:
        epochs, values = [row["epoch"] for row in known], [row[name] for row in known]
        label = label_score(name, known[-1])
        axes.plot(
            epochs,
            values,
            label=label,
            color=colour,
            marker="." if len(known) < 4 else "",
        )


def _draw_places(axes: Any, rows: Sequence[Mapping[str, float]]) -> None:
    """Draw the score of each place as a thin line: building F1, or mean IoU of classes."""
    names = {name for row in rows for name in row}
    score, label = "val_iou", "mean IoU of each place"
    if "val_f1" in names:
        score, label = "val_f1", "building F1 of each place"
    for column in list_place_columns(sorted(names), score):
        known = [row for row in rows if column in row]
        epochs, values = [row["epoch"] for row in known], [row[column] for row in known]
        axes.plot(
            epochs, values, color="#c9c9c9", linewidth=0.8, label=label,
            marker="." if len(known) < 4 else "", markersize=3,
        )  # fmt: skip
        label = "_nolegend_"


def draw_reliability(
    calibration: Calibration, path: Path, *, footprints: Reliability | None = None
) -> None:
    """Draw the reliability of pixels, before and after calibration, and that of footprints.

    Args:
        calibration: The temperature, with the reliability before and after.
        path: Output `.png`.
        footprints: Reliability of the confidences of footprints; None leaves them out.
    """
    count = 1 if footprints is None else 2
    figure = Figure(figsize=(5.2 * count, 6.8), layout="constrained")
    panels = figure.subplots(2, count, sharex=True, height_ratios=(3, 1), squeeze=False)
    curve, histogram = panels[:, 0]
    name = f"calibrated, temperature {calibration.temperature:.2f}"
    for reliability, label, colour in (
        (calibration.before, "uncalibrated", _RED),
        (calibration.after, name, _GREEN),
    ):
        label = f"{label}: ECE {100 * reliability.ece:.2f} %"
        _draw_reliability(panels[:, 0], reliability, label, colour)
    curve.set(title="Pixels of the validation areas", ylabel="Observed share of building pixels")
    histogram.set(xlabel="Predicted probability of building", ylabel="Share of pixels")
    if calibration.before.counts.any():
        histogram.set_yscale("log")
    if footprints is not None:
        curve, histogram = panels[:, 1]
        label = f"cross-validated: ECE {100 * footprints.ece:.1f} %"
        _draw_reliability(panels[:, 1], footprints, label, _GREEN)
        curve.set(title="Footprints of the validation areas", ylabel="Observed share of buildings")
        histogram.set(xlabel="Confidence", ylabel="Share of footprints")
    for axes in panels[0]:
        axes.plot([0, 1], [0, 1], color="#aaaaaa", linewidth=1, linestyle="--")
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.legend(frameon=False, loc="upper left")
    for axes in panels.ravel():
        axes.grid(alpha=0.3)
    _save(figure, path)


def _draw_reliability(
    panels: np.ndarray, reliability: Reliability, label: str, colour: str
) -> None:
    """Draw predicted and observed shares, and below them the share of each bin."""
    (curve, histogram), counts = panels, reliability.counts
    filled = counts > 0
    curve.plot(
        reliability.predicted[filled], reliability.observed[filled], marker="o", markersize=4,
        label=label, color=colour,
    )  # fmt: skip
    edges = np.linspace(0, 1, len(counts) + 1)
    histogram.stairs(counts / max(1, counts.sum()), edges, color=colour, linewidth=1.4)


def draw_outlined(tiles: Sequence[OutlinedTile], path: Path) -> None:
    """Draw a sheet of tiles with correct, false and missed buildings.

    Args:
        tiles: Tiles of one size, in the order of the sheet.
        path: Output `.png`.
    """
    figure, axes = _sheet([tile.image.shape[1:] for tile in tiles], min(6, len(tiles)), 1)
    for tile, (panel,) in zip(tiles, axes, strict=True):
        _show(panel, _stretched(tile.image, tile.valid), f"IoU {tile.iou:.2f}")
        _draw_outlines(panel, tile.outlines)
    _explain_outlines(figure, _OUTLINES)
    _save(figure, path)


def draw_outlined_scene(
    scene: str | Path, outlines: Mapping[str, gpd.GeoDataFrame], path: Path, *, title: str
) -> None:
    """Draw a scene twice, side by side: without and with correct, false and missed buildings.

    Args:
        scene: The scene.
        outlines: Polygons in any CRS by the names of `OutlinedTile.outlines`, of which some may be
            missing.
        path: Output, `.png` or `.jpg`.
        title: Title of the second picture.
    """
    with Scene(scene) as source:
        data, valid = source.read()
        grid = source.grid
    inverse = ~grid.transform
    to_pixels = [inverse.a, inverse.b, inverse.d, inverse.e, inverse.c, inverse.f]
    in_pixels = {
        name: np.array(layer.geometry.to_crs(grid.crs.to_wkt()).affine_transform(to_pixels), object)
        for name, layer in outlines.items()
    }
    height, width = valid.shape
    figure = Figure(
        figsize=(_PAIR_INCHES, _PAIR_INCHES / 2 * height / width + 2 * _TITLE_INCHES),
        layout="constrained",
    )
    plain, outlined = figure.subplots(1, 2)
    _show(plain, _stretched(data, valid), "scene")
    _show(outlined, _stretched(data, valid), title)
    _draw_outlines(outlined, in_pixels)
    _explain_outlines(figure, outlines)
    _save(figure, path)


def _draw_outlines(panel: Any, outlines: Mapping[str, np.ndarray]) -> None:
    """Draw polygons in pixels, by their name in `_OUTLINES`."""
    for name, polygons in outlines.items():
        _, colour, width = _OUTLINES[name]
        rings = shapely.get_rings(shapely.get_parts(polygons))
        # Pictures have integer coordinates at the centres of pixels.
        lines = [shapely.get_coordinates(ring) - 0.5 for ring in rings]
        panel.add_collection(LineCollection(lines, colors=colour, linewidths=width))


def _explain_outlines(figure: Figure, names: Iterable[str]) -> None:
    """Add a legend of outlines below all panels."""
    keys = [
        Line2D([], [], color=colour, label=label)
        for label, colour, _ in map(_OUTLINES.__getitem__, names)
    ]
    figure.legend(handles=keys, loc="outside lower center", ncols=len(keys), facecolor="#777777",
                  labelcolor="white")  # fmt: skip


def draw_masked(
    tiles: Sequence[MaskedTile], path: Path, names: Sequence[str], colours: Sequence[str]
) -> None:
    """Draw a sheet of tiles, each with its reference mask and its predicted mask.

    Args:
        tiles: Tiles of one size, in the order of the sheet.
        path: Output `.png`.
        names: Names of the classes.
        colours: Colours of the classes, #rrggbb.
    """
    figure, axes = _sheet([tile.truth.shape for tile in tiles], min(2, len(tiles)), 3)
    style = {"cmap": ListedColormap(list(colours)), "vmin": -0.5, "vmax": len(colours) - 0.5}
    for tile, (image, truth, predicted) in zip(tiles, axes, strict=True):
        _show(image, _stretched(tile.image, tile.valid), "image")
        for panel, mask, title in (
            (truth, tile.truth, "reference"),
            (predicted, tile.predicted, f"predicted, mean IoU {tile.iou:.2f}"),
        ):
            hidden = np.ma.masked_where(~tile.valid | (mask >= len(colours)), mask)
            _show(panel, hidden, title, interpolation="nearest", **style)
    keys = [Patch(color=colour, label=name) for name, colour in zip(names, colours, strict=True)]
    figure.legend(handles=keys, loc="outside lower center", ncols=6, frameon=False)
    _save(figure, path)


def _sheet(
    shapes: Sequence[tuple[int, ...]], columns: int, panels: int
) -> tuple[Figure, list[tuple[Any, ...]]]:
    """Return a figure and the panels of each tile, `columns` tiles in a row."""
    rows = -(-len(shapes) // columns)
    height, width = shapes[0]
    side = max(_TILE_INCHES, _SHEET_INCHES / (columns * panels))
    size = (
        side * columns * panels,
        (side * height / width + _TITLE_INCHES) * rows + 2 * _TITLE_INCHES,
    )
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns * panels, squeeze=False).ravel()
    for panel in grid[len(shapes) * panels :]:
        panel.set_axis_off()
    used = grid[: len(shapes) * panels].reshape(-1, panels)
    return figure, [tuple(row) for row in used]


def _show(axes: Any, picture: Any, title: str, **style: Any) -> None:
    height, width = picture.shape[:2]
    axes.imshow(picture, **style)
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
    """Draw a scene, its reference footprints and the predicted ones, side by side.

    Args:
        scene: The scene.
        truth: Reference footprints, in the scene's CRS.
        footprints: Predicted footprints, in the scene's CRS.
        path: Output `.png`.
        window: Window of the scene to draw; the whole scene when None.
        title: Title of the figure.
    """
    with Scene(scene) as source:
        window = window or source.grid.window
        data, valid = source.read(window)
        picture = _stretched(data, valid)
        grid = source.grid
    inverse = ~grid.window_transform(window)
    to_pixels = [inverse.a, inverse.b, inverse.d, inverse.e, inverse.c, inverse.f]
    figure = Figure(figsize=(15, 15 / 3 * window.height / window.width + 0.7), layout="constrained")
    panels = (
        ("scene", None, ""),
        ("reference", truth, _GREEN),
        ("predicted", footprints, _RED),
    )
    for axes, (name, layer, colour) in zip(figure.subplots(1, 3), panels, strict=True):
        axes.imshow(picture)
        count = 0
        if layer is not None:
            visible = layer[layer.intersects(grid.window_polygon(window))]
            count = len(visible)
            for part in visible.geometry.affine_transform(to_pixels).boundary.explode():
                axes.plot(*part.xy, color=colour, linewidth=1.1)
        axes.set(title=name if layer is None else f"{name}: {count}", xticks=[], yticks=[])
        axes.set(
            xlabel="", ylabel="", xlim=(-0.5, window.width - 0.5), ylim=(window.height - 0.5, -0.5)
        )
    if title:
        figure.suptitle(title)
    _save(figure, path)


def _stretched(data: np.ndarray, valid: np.ndarray) -> Any:
    """Return an RGB picture (H, W, 3), 0..1: the first three bands or one in grey; white nodata."""
    picture = data[:3] if len(data) >= 3 else data[[0, 0, 0]]
    picture = picture.astype(np.float32)
    if valid.any():
        low, high = np.percentile(picture[:, valid], [1, 99])
        picture = np.clip((picture - low) / max(high - low, 1e-6), 0, 1)
    picture[:, ~valid] = 1
    return picture.transpose(1, 2, 0)


def _save(figure: Figure, path: Path) -> None:
    with replace_file(path) as partial:
        if path.suffix == ".jpg":
            figure.savefig(partial, dpi=_DPI, format="jpeg", pil_kwargs={"quality": _JPEG_QUALITY})
        else:
            figure.savefig(partial, dpi=_DPI, format="png")
