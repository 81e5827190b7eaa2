"""Lines about a plan of tiles: its labels, and what merged labels and its pixel size mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from geoseg.data.labels import Labels, RasterLabels
from geoseg.data.tiles.checks import list_values
from geoseg.options import TileOptions

# Pixel size of most models of buildings, the default one included, and the factor by which the
# pixels of a scene may differ from it without a note.
USUAL_GSD_M = 0.3
_MAX_UNUSUAL = 2.0


def describe_labels(labels: Labels) -> str:
    """Return the kind of a scene's labels, and the numbers of those repaired and dropped."""
    if isinstance(labels, RasterLabels):
        return f"mask {labels.path}"
    text = f"{len(labels)} footprints"
    if labels.repaired:
        text += f" ({labels.repaired} repaired)"
    if labels.dropped:
        text += f", {labels.dropped} features that are not polygons"
    if labels.elsewhere:
        text += f", {labels.elsewhere} outside the scene"
    if labels.unclassed:
        text += f", {sum(labels.unclassed.values())} in no class ({list_values(labels.unclassed)})"
    return text


def describe_merged_labels(merged: Sequence[str], targets: Sequence[str]) -> list[str]:
    """Return a line about what is unknown in labels that merge touching buildings, if any do.

    Args:
        merged: Paths of the scenes with such labels.
        targets: Names of the targets.
    """
    if not merged:
        return []
    names = ", ".join(Path(path).name for path in merged)
    unknown = [name for name in targets if name != "building"]
    effect = f"; unknown inside them: {', '.join(unknown)}" if unknown else ""
    return [f"touching buildings are merged in the labels of {names}{effect}"]


def describe_pixel_size(gsd_m: float, options: TileOptions) -> list[str]:
    """Return a line about what an unusual pixel size means for buildings, if none was chosen.

    Args:
        gsd_m: Pixel size of the first scene.
        options: Tiling options.
    """
    usual = max(gsd_m, USUAL_GSD_M) / min(gsd_m, USUAL_GSD_M) <= _MAX_UNUSUAL
    if options.gsd_m is not None or options.classes is not None or usual:
        return []
    size = options.size
    note = (
        f"note: tiles keep the {gsd_m:.2g} m pixels of the first scene, so a tile of {size} "
        f"pixels covers {size * gsd_m:.0f} m, and the model will resample every scene to "
        f"{gsd_m:.2g} m"
    )
    if gsd_m > USUAL_GSD_M:
        return [note]
    return [
        f"{note}; --gsd {USUAL_GSD_M} is usual for buildings, shows {size * USUAL_GSD_M:.0f} m "
        "and is faster"
    ]
