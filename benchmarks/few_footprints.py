"""Benchmark of how many footprints a user needs.

    python benchmarks/few_footprints.py work/ [--recipe shipped] [--region Nepal ...]
        [--counts 25,50,100,200,400] [--kind=--from] [--minutes 5] [--seeds 0]

WORK is the folder of `benchmarks/places.py`, which has trained a model on all other regions.
--massachusetts names a folder with scene.tif and footprints.gpkg of a place that the default model
never saw; there, that is the model. Models of regions get the thresholds of the default model, as
users have them. In each region the western part of a scene is labelled, from its south-western
corner until it contains so many footprints; the eastern part is predicted: by the model as it is,
by a model trained from scratch on the labelled area, and by one that continues from the model. Each
result is a line of work/few_footprints.jsonl, so that an interrupted run is continued; the table is
work/few_footprints.md.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import geopandas as gpd
import numpy as np
import shapely
from places import Study, machine, scene_extent
from result_lines import append_line, has_line, read_lines

import geoseg
from geoseg.config import load_config
from geoseg.evaluation import Report
from geoseg.networks.model_file import find_model, load_model, load_spec, save_model
from geoseg.options import PredictOptions, TrainOptions

# A scene of each region with several hundred footprints.
SCENES = {"Nepal": "banepa", "Ghana": "accra", "Dhaka": "dhaka_a"}

_MASSACHUSETTS = "Massachusetts"

# Labelled from the north-western corner, as the south-western one has no image.
_FROM_NORTH = ("accra",)

# The eastern part of a scene, by area, is predicted; a gap of one tile before it is not used.
_TESTED, _GAP_M = 0.3, 77.0

START, SCRATCH, TUNED = "as it is", "from scratch", "--from"


@click.command(help=__doc__)
@click.argument("work", type=Path)
@click.option("--recipe", default="shipped", show_default=True)
@click.option("--steps", default=700, show_default=True, help="Of the models of places.py.")
@click.option("--region", "regions", multiple=True, type=click.Choice([*SCENES, _MASSACHUSETTS]))
@click.option("--massachusetts", type=Path, help="Folder of its scene and footprints.")
@click.option("--counts", default="25,50,100,200,400", show_default=True)
@click.option("--kind", "kinds", multiple=True, type=click.Choice([SCRATCH, TUNED]))
@click.option("--minutes", default=5.0, show_default=True, help="Longest training.")
@click.option("--seeds", default="0", show_default=True)
def main(
    work: Path,
    recipe: str,
    steps: int,
    regions: tuple[str, ...],
    massachusetts: Path | None,
    counts: str,
    kinds: tuple[str, ...],
    minutes: float,
    seeds: str,
) -> None:
    """Train, predict and tabulate."""
    study, results = Study(work, steps, ()), work / "few_footprints.jsonl"
    settings = {"longest": minutes, "recipe": recipe, "steps": steps, "thresholds": "default model"}
    for seed in map(int, seeds.split(",")):
        for region in regions or SCENES:
            if region == _MASSACHUSETTS:
                assert massachusetts is not None, "give --massachusetts FOLDER"
                scene, model = massachusetts / "scene.tif", find_model("buildings")
                place = Place(work, scene, massachusetts / "footprints.gpkg", model)
            else:
                scene = work / "scenes" / f"{SCENES[region]}.tif"
                trained = study.run(recipe, region, 0) / "model.safetensors"
                model = with_default_thresholds(trained, work / f"few_{SCENES[region]}.safetensors")
                place = Place(work, scene, scene.with_suffix(".parquet"), model)
            tasks = [(START, 0)]
            for count in sorted(map(int, counts.split(",")), reverse=True):
                tasks += [(kind, count) for kind in kinds or (TUNED, SCRATCH)]
            for kind, count in tasks:
                key = {"region": region, "kind": kind, "count": count, "seed": seed} | settings
                if has_line(results, key):
                    continue
                append_line(results, key | place.score(kind, count, minutes, seed))
    table = format_table([row for row in read_lines(results) if settings.items() <= row.items()])
    (work / "few_footprints.md").write_text(table)
    click.echo(table)


def with_default_thresholds(model: Path, path: Path) -> Path:
    """Write a model with the thresholds of the default model; return its path."""
    spec, weights = load_model(model)
    thresholds = load_spec(find_model("buildings")).thresholds
    save_model(path, weights, spec.model_copy(update={"thresholds": thresholds}))
    return path


class Place:
    """A scene with its footprints, the labelled and the tested part of it.

    Args:
        work: Folder of `benchmarks/places.py`.
        scene: The scene.
        labels: Its footprints.
        model: Model that never saw it.
    """

    def __init__(self, work: Path, scene: Path, labels: Path, model: Path) -> None:
        self.scene, self.labels, self.model = scene, labels, model
        self.folder = work / "few" / (scene.parent.name if scene.stem == "scene" else scene.stem)
        self.folder.mkdir(parents=True, exist_ok=True)
        extent = scene_extent(self.scene)
        self.crs = extent.estimate_utm_crs()
        read = gpd.read_parquet if labels.suffix == ".parquet" else gpd.read_file
        self.footprints = read(self.labels).to_crs(self.crs)
        self.left, self.bottom, self.right, self.top = extent.to_crs(self.crs).total_bounds
        self.border = self.right - _TESTED * (self.right - self.left)
        self.tested = self._write("tested", self.border, self.right, self.top)

    def _write(
        self, name: str, left: float, right: float, top: float, bottom: float | None = None
    ) -> Path:
        """Write the area between two meridians and two parallels as a layer."""
        area = shapely.box(left, self.bottom if bottom is None else bottom, right, top)
        path = self.folder / f"{name}.geojson"
        gpd.GeoDataFrame(geometry=[area], crs=self.crs).to_crs(4326).to_file(path)
        return path

    def label(self, count: int) -> tuple[Path, int]:
        """Return the area that contains about so many footprints, and their number.

        It has the shape of the western part.
        """
        points = shapely.get_coordinates(self.footprints.representative_point())
        width, height = self.border - _GAP_M - self.left, self.top - self.bottom
        east, north = (points[:, 0] - self.left) / width, (points[:, 1] - self.bottom) / height
        from_north = self.folder.name in _FROM_NORTH
        north = 1 - north if from_north else north
        reach = np.sort(np.maximum(east, north)[(east <= 1) & (north <= 1)])
        count = min(count, len(reach))
        share = float(reach[count - 1])
        name, right = f"labelled_{count}", self.left + share * width
        if from_north:
            return self._write(name, self.left, right, self.top, self.top - share * height), count
        return self._write(name, self.left, right, self.bottom + share * height), count

    def score(self, kind: str, count: int, minutes: float, seed: int) -> dict[str, Any]:
        """Train and predict the tested part; return scores and minutes."""
        start, model, labelled = time.perf_counter(), self.model, 0
        if kind != START:
            model, labelled = self.train(kind, count, minutes, seed)
        seconds = time.perf_counter() - start
        out = self.folder / "out"
        options = PredictOptions(aoi=str(self.tested))
        geoseg.predict(self.scene, out, model=model, options=options, overwrite=True)
        report = geoseg.evaluate(out / "footprints.gpkg", self.labels, aoi=self.tested)
        assert isinstance(report, Report)
        return {
            "labelled": labelled,
            "minutes": round(seconds / 60, 2),
            "f1": round(report.f1, 4),
            "iou": round(report.iou_pixel, 4),
            "machine": machine(),
        }

    def train(self, kind: str, count: int, minutes: float, seed: int) -> tuple[Path, int]:
        """Tile the labelled area and train; return the model and the number of footprints."""
        area, labelled = self.label(count)
        changes = ("tile.split=areas", f"tile.areas={area}", "tile.fractions=[0.8,0.2,0]",
                   f"train.max_minutes={minutes}", f"train.seed={seed}")  # fmt: skip
        config = load_config("configs/small.yaml", changes)
        tiles = self.folder / f"tiles_{labelled}"
        if not tiles.exists():
            geoseg.tile(self.scene, self.labels, tiles, options=config.tile, for_model=self.model)
        is_tuned = kind == TUNED
        training = config.train
        if is_tuned:  # the defaults of --from
            training = TrainOptions(max_minutes=minutes, seed=seed, epochs=12)
        result = geoseg.train(
            tiles, self.folder / "run", options=training, overwrite=True, report=click.echo,
            model=None if is_tuned else config.model,
            start_from=self.model if is_tuned else None,
        )  # fmt: skip
        assert result is not None
        return result.model, labelled


def format_table(rows: Sequence[dict[str, Any]]) -> str:
    """Format F1 and IoU by number of footprints, with the minutes of training."""
    lines = []
    for region in dict.fromkeys(row["region"] for row in rows):
        own = [row for row in rows if row["region"] == region]
        lines += [
            f"\n{region}\n",
            "| footprints | from scratch: F1 / IoU | minutes | `--from`: F1 / IoU | minutes |",
            "|---:|---:|---:|---:|---:|",
        ]
        (start,) = (row for row in own if row["kind"] == START and row["seed"] == 0)
        lines.append(f"| 0 | | | {start['f1']:.3f} / {start['iou']:.3f} | |")
        for count in sorted({row["count"] for row in own if row["count"]}):
            cells = [_cell(own, kind, count) for kind in (SCRATCH, TUNED)]
            lines.append(f"| {count} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(rows: Sequence[dict[str, Any]], kind: str, count: int) -> str:
    own = [row for row in rows if (row["kind"], row["count"]) == (kind, count)]
    if not own:
        return " | "
    f1, iou, minutes = (np.mean([row[key] for row in own]) for key in ("f1", "iou", "minutes"))
    return f"{f1:.3f} / {iou:.3f} | {minutes:.1f}"


if __name__ == "__main__":
    main()
