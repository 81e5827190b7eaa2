"""Pictures for people: learning curves, and scene, truth and footprints side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
from matplotlib.figure import Figure
from rasterio.windows import Window

from geoseg.journal import replace_file
from geoseg.raster import Scene

_TRUTH, _FOUND, _MISSED, _FALSE = "#1a9850", "#d7301f", "#2b5fd9", "#d7301f"


def draw_curves(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draws losses, and validation scores, by epoch.

    Args:
        rows: Rows of `metrics.csv`.
        path: A `.png`.
    """
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    epochs = [row["epoch"] + 1 for row in rows]
    for name, colour in (("train_loss", "#555555"), ("val_loss", _FOUND)):
        losses.plot(epochs, [row.get(name, np.nan) for row in rows], label=name, color=colour)
    scored = {"val_iou": _TRUTH, "val_f1_pixel": _MISSED, "val_f1": _MISSED}
    for name, colour in scored.items():
        if any(name in row for row in rows):
            scores.plot(epochs, [row.get(name, np.nan) for row in rows], label=name, color=colour)
    losses.set(title="loss", xlabel="epoch")
    scores.set(title="validation", xlabel="epoch", ylim=(0, 1))
    for axes in (losses, scores):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
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
        figure.savefig(partial, dpi=110, format="png")
