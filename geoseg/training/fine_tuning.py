"""Training that continues from a trained model: checks against the tiles, defaults, messages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import shapely
from shapely.geometry.base import BaseGeometry

from geoseg.data.tiles import TilesInfo
from geoseg.errors import ConfigError, counted
from geoseg.geo.crs import has_location
from geoseg.geo.raster import are_numbered
from geoseg.geo.training_area import parse_area
from geoseg.networks.models.transfer import find_new_outputs
from geoseg.networks.starting_model import StartingModel
from geoseg.options import TrainOptions
from geoseg.options.headers import MAX_PLACES, PlaceBands
from geoseg.training.dataset import TileDataset

# Defaults of settings that the user did not give. A trained network needs smaller steps and fewer
# of them than one that starts from random weights.
DEFAULTS = {"lr": 2e-4, "epochs": 12, "ema": 0.98}

# A validation tile counts as trained on if so much of it is; rounding may move edges.
_LEAST_OVERLAP = 0.1

# Name of what a model was trained on if its places are not stored.
_BEFORE = "earlier training"

# Beyond this ratio of pixel sizes, objects look too different from those that the model was trained
# on; up to the other, the difference is not reported.
_MAX_SCALE, _SAME_SCALE = 4.0, 1.1


def use_defaults(options: TrainOptions) -> TrainOptions:
    """Return the options with the defaults of fine-tuning where the user gave none."""
    given = options.model_fields_set
    chosen = {name: value for name, value in DEFAULTS.items() if name not in given}
    if "swa" in given and options.swa:
        chosen.pop("ema", None)
    if "max_minutes" in given:
        chosen.pop("epochs", None)  # the clock ends the run
    return options.model_copy(update=chosen)


def check_tiles(start: StartingModel, info: TilesInfo, folder: str | Path) -> None:
    """Check that tiles suit the model that training continues from.

    Raises:
        ConfigError: If their bands or pixel size do not.
    """
    spec = start.spec
    names, wanted = [n.lower() for n in info.bands], [n.lower() for n in spec.bands]
    named = not (are_numbered(names) or are_numbered(wanted))
    if len(names) != len(wanted) or (named and names != wanted):
        raise ConfigError(
            f"{folder}: the tiles have {counted(len(names), 'band')} ({', '.join(info.bands)}), "
            f"but {start.name} needs {len(wanted)} ({', '.join(spec.bands)}); tile the scenes "
            "again with --bands in the order of the model, or train without --from"
        )
    scale = info.gsd_m / spec.gsd_m
    if not 1 / _MAX_SCALE <= scale <= _MAX_SCALE:
        raise ConfigError(
            f"{folder}: the pixels of the tiles measure {info.gsd_m:.3g} m, those of "
            f"{start.name} {spec.gsd_m:.3g} m, and the two differ by more than a factor of "
            f"{_MAX_SCALE:g}; tile the scenes again with --gsd {spec.gsd_m:.3g}, or train without "
            "--from"
        )


def keeps_statistics(start: StartingModel, info: TilesInfo) -> bool:
    """Return whether images are normalized by the statistics of the model, not of the tiles.

    A trained network expects its own statistics; those of a few tiles would change all inputs. A
    different data type has different units, so it needs its own.
    """
    known = set(start.spec.scene_dtypes or (start.spec.dtype,))
    return set(info.scene_dtypes or (info.dtype,)) <= known


def use_statistics(start: StartingModel, info: TilesInfo) -> TilesInfo:
    """Return the description of the tiles with the statistics by which images are normalized.

    The places of the model come after those of the tiles.
    """
    if not keeps_statistics(start, info):
        return info
    changes = {
        "mean": start.spec.mean,
        "std": start.spec.std,
        "place_bands": _join_places(start, info),
    }
    return info.model_copy(update=changes)


def _join_places(start: StartingModel, info: TilesInfo) -> tuple[PlaceBands, ...]:
    """Return the statistics of the places of the tiles and of the model."""
    spec = start.spec
    own = info.place_bands or (
        PlaceBands(name=next(iter(info.scene_places.values())), mean=info.mean, std=info.std),
    )
    before = spec.places or (PlaceBands(name=_BEFORE, mean=spec.mean, std=spec.std),)
    return (*own, *before)[:MAX_PLACES]


def describe_start(
    start: StartingModel, val_set: TileDataset, outputs: Sequence[str]
) -> Iterator[str]:
    """Yield what is kept of the model and what is new, one line each."""
    spec, info = start.spec, val_set.info
    kept = [name for name in outputs if name in spec.outputs]
    yield f"continuing from {start.name}, outputs {', '.join(kept) or 'none'}"
    if new := find_new_outputs(outputs, spec):
        yield f"new, and trained from random weights: {', '.join(new)}"
    if unused := [name for name in spec.outputs if name not in outputs]:
        yield f"not in the tiles, and left out: {', '.join(unused)}"
    if not 1 / _SAME_SCALE <= info.gsd_m / spec.gsd_m <= _SAME_SCALE:
        yield (
            f"{start.name} was trained on pixels of {spec.gsd_m:.3g} m, and the tiles have "
            f"{info.gsd_m:.3g} m; it learns faster from tiles cut with --gsd {spec.gsd_m:.3g}"
        )
    if not keeps_statistics(start, info):
        yield "images are normalized by the statistics of the tiles, as their data type is new"
    if share := _share_inside(val_set, parse_area(spec.provenance.get("training_area"))):
        yield (
            f"{share:.0%} of the validation tiles are in the training area of {start.name}, so its "
            "scores, and those of this run, are higher than elsewhere"
        )


def _share_inside(tiles: TileDataset, area: BaseGeometry | None) -> float:
    """Return the share of tiles that have more than a tenth of their area inside an area."""
    if area is None or not has_location(tiles.tiles.crs):
        return 0.0
    boxes = tiles.tiles.geometry.to_numpy()
    inside = shapely.area(shapely.intersection(boxes, area)) > _LEAST_OVERLAP * shapely.area(boxes)
    return float(inside.mean())
