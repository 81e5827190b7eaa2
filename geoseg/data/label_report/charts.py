"""Figures of the page: footprint areas, shift and band values."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from geoseg.data.label_report.summary import FootprintStatistics, Histogram, LabelShift

_INK, _SOFT, _ACCENT = "#1f2933", "#9aa5b1", "#c2410c"
_COLOURS = {
    "red": "#d1495b", "green": "#3a8f5c", "blue": "#3066be", "nir": "#7b2d5e",
}  # fmt: skip

# Twice the resolution of a common screen, for high-density screens and printing.
_DPI = 160


def draw_areas(statistics: FootprintStatistics) -> bytes:
    """Draw the histogram of footprint areas as a PNG."""
    figure = Figure(figsize=(6.4, 2.6), layout="constrained")
    axes = figure.subplots()
    _draw_bars(axes, statistics.areas, _ACCENT)
    powers = range(int(np.floor(statistics.areas.low)), int(np.ceil(statistics.areas.high)) + 1)
    ticks = [p + d for p in powers for d in (0.0, np.log10(2), np.log10(5))]
    ticks = [t for t in ticks if statistics.areas.low <= t <= statistics.areas.high]
    axes.set_xticks(ticks, [f"{10**t:,.3g}" if t < 3 else f"{10**t:,.0f}" for t in ticks])
    median = np.log10(max(statistics.area_m2["median"], 0.01))
    axes.axvline(median, color=_INK, linewidth=1)
    axes.annotate(
        f"median {statistics.area_m2['median']:,.3g} m²", (median, 1), (4, -4), ha="left", va="top",
        xycoords=("data", "axes fraction"), textcoords="offset points", color=_INK, fontsize=9,
    )  # fmt: skip
    _label_axes(axes, "area in m² (logarithmic)", "footprints")
    return _png(figure)


def draw_shift(shift: LabelShift) -> bytes:
    """Draw the agreement of labels and image at each shift as a PNG."""
    figure = Figure(figsize=(4.2, 3.5), layout="constrained")
    axes = figure.subplots()
    edge = shift.reach + 0.5
    surface = np.array(shift.surface)
    image = axes.imshow(
        surface, cmap="magma", extent=(-edge, edge, edge, -edge), vmin=min(0.0, surface.min()),
        vmax=max(surface.max(), 6.0), interpolation="nearest",
    )  # fmt: skip
    for draw in (axes.axvline, axes.axhline):
        draw(0, color="white", linewidth=0.6, alpha=0.6)
    colour = "#37e2d5" if shift.clear else "#b8c4ce"
    axes.plot(shift.dx, shift.dy, "o", markersize=11, mfc="none", mec=colour, mew=1.6)
    axes.tick_params(labelcolor=_INK, color=_SOFT, labelsize=8, length=3)
    axes.spines[:].set_visible(False)
    _label_axes(axes, "labels shifted right (pixels)", "labels shifted down (pixels)")
    bar = figure.colorbar(image, ax=axes, shrink=0.9, aspect=30)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelcolor=_INK, color=_SOFT, labelsize=8, length=3)
    bar.set_label("agreement (standard deviations)", fontsize=9, color=_INK)
    return _png(figure)


def draw_band(band: Histogram) -> bytes:
    """Draw the histogram of a band as a PNG."""
    figure = Figure(figsize=(2.6, 1.4))
    axes = figure.add_axes((0.02, 0.16, 0.96, 0.82))
    _draw_bars(axes, band, _COLOURS.get(band.name.lower(), "#52606d"))
    axes.set_yticks([])
    axes.locator_params(axis="x", nbins=4)
    return _png(figure)


def _draw_bars(axes: Any, histogram: Histogram, colour: str) -> None:
    axes.stairs(histogram.counts, histogram.edges, fill=True, color=colour, alpha=0.85)
    axes.set(xlim=(histogram.low, histogram.high), ylim=(0, None))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_SOFT)
    axes.tick_params(labelcolor=_INK, color=_SOFT, labelsize=8, length=3)
    axes.yaxis.get_major_locator().set_params(integer=True, nbins=4)


def _label_axes(axes: Any, x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label, fontsize=9, color=_INK)
    axes.set_ylabel(y_label, fontsize=9, color=_INK)


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    # Without the version of matplotlib, so that the same figure gives the same bytes.
    figure.savefig(
        file, dpi=_DPI, format="png", metadata={"Software": None}, bbox_inches="tight",
        pad_inches=0.05,
    )  # fmt: skip
    return file.getvalue()
