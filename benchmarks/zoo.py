"""Comparison of all networks on the same scenes with the same budget and seed.

    python benchmarks/zoo.py -o work/ [--minutes 10] [--scene SCENE --footprints FOOTPRINTS]
    python benchmarks/zoo.py -o work/ --only fcn8s --steps 600 [--set train.seed=1]

Trains each network on the synthetic town and optionally on another scene, with EfficientNet-lite0
as encoder where it can be chosen, or with the default encoder of each architecture by
--own-encoders. Each result is a line of work/results.jsonl, so that an interrupted run is resumed;
the table is work/zoo.md. It states the device and the budget: results of different budgets cannot
be compared. --steps trains as long as a network needs to learn. Networks of boxes
also get their average precision against the bounding boxes of the footprints.
"""

from __future__ import annotations

import platform
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from result_lines import append_line, read_lines

from geoseg.api.predict import predict
from geoseg.config import Config, load_config
from geoseg.data.tiles import load_tiles_info, plan_tiles, tile_scenes
from geoseg.detection.box_learner import BOX_RECIPE
from geoseg.detection.detector import BoxPredictor
from geoseg.errors import GeosegError
from geoseg.evaluation import evaluate_footprints as evaluate
from geoseg.networks.architectures import ARCHITECTURES, list_architectures, task_of
from geoseg.networks.model_file import load_model
from geoseg.networks.models.card import make_card
from geoseg.options import ModelOptions
from geoseg.prediction.predictor import Predictor
from geoseg.town import build_town, write_town
from geoseg.training.run import train

LITE = "tu-tf_efficientnet_lite0"

# Small encoders for networks that need a certain kind of encoder.
SMALL = {"fcn": "vgg11_bn", "smp-dpt": "tu-vit_tiny_patch16_224"}

_SECONDS_OF_SPEED = 5.0

LEAST_STEPS = 25  # of an epoch


@click.command()
@click.option("-o", "--output", type=Path, required=True)
@click.option("--minutes", default=10.0, show_default=True, help="Minutes of training per network.")
@click.option("--steps", type=int, help="Steps of training per network, instead of minutes.")
@click.option("--only", multiple=True, help="Networks to train.  [default: all]")
@click.option(
    "--own-encoders",
    is_flag=True,
    help="Default encoders, with random weights.",
)
@click.option("--scene", type=Path, help="Additional scene.")
@click.option("--footprints", type=Path, help="Footprints of the additional scene.")
@click.option("--config", default="configs/banepa.yaml", show_default=True)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE")
def main(
    output: Path,
    minutes: float,
    steps: int | None,
    only: tuple[str, ...],
    own_encoders: bool,
    scene: Path | None,
    footprints: Path | None,
    config: str,
    overrides: tuple[str, ...],
) -> None:
    """Train, evaluate and tabulate."""
    limit = "null" if steps else minutes
    settings = load_config(config, (*overrides, f"train.max_minutes={limit}"))
    sites = {"town": write_town(build_town(896, 1280, seed=7), output / "town")}
    if scene and footprints:
        sites[scene.parent.name] = (scene, footprints)
    results = output / "results.jsonl"
    seed = settings.train.seed
    done = {(row["scene"], row["arch"], row["seed"]) for row in read_lines(results)}
    for site, (source, truth) in sites.items():
        tiles = cut(source, truth, output / f"tiles_{site}", settings)
        training = settings if steps is None else last_steps(settings, tiles, steps)
        for arch in only or list_architectures():
            if (site, arch, seed) not in done:
                model = choose_model(arch, own_encoders, settings)
                row = score(site, source, truth, tiles, model, training, output / "runs")
                append_line(results, row)
    budget = "as many steps" if steps else f"{minutes:g} min of training"
    table = format_table(read_lines(results), budget)
    (output / "zoo.md").write_text(table)
    click.echo(table)


def cut(scene: Path, truth: Path, folder: Path, settings: Config) -> Path:
    """Cut the tiles of a scene, unless they exist."""
    if not folder.exists():
        tile_scenes(plan_tiles([scene], truth, settings.tile), folder)
    return folder


def last_steps(settings: Config, tiles: Path, steps: int) -> Config:
    """Return the configuration of a training of about so many steps."""
    batches = -(-load_tiles_info(tiles).tiles["train"] // settings.train.batch_size)
    epochs = max(1, round(steps / max(batches, LEAST_STEPS)))
    changes = {"epochs": epochs, "val_every": max(1, epochs // 8)}
    return settings.model_copy(update={"train": settings.train.model_copy(update=changes)})


def choose_model(arch: str, own_encoders: bool, settings: Config) -> ModelOptions:
    """Return an architecture with the common encoder, if it supports that."""
    own = ARCHITECTURES[arch].encoder
    small = next((name for prefix, name in SMALL.items() if arch.startswith(prefix)), LITE)
    encoder = None if own is None or own_encoders else small
    return ModelOptions(
        arch=arch,
        encoder=encoder,
        encoder_weights="imagenet" if encoder == LITE else None,
        options=settings.model.options if arch == settings.model.arch else {},
    )


def score(
    site: str,
    scene: Path,
    truth: Path,
    tiles: Path,
    model: ModelOptions,
    settings: Config,
    runs: Path,
) -> dict[str, Any]:
    """Train a network and return its row: size, speed, and scores on the test area."""
    run = runs / f"{site}_{model.arch}"
    card = make_card(model.arch, model.encoder, options=model.options, classes=2)
    row: dict[str, Any] = {
        "scene": site,
        "arch": card.arch,
        "encoder": card.encoder,
        "parameters": card.parameters,
        "multiply_adds": card.multiply_adds,
        "device": device_name(),
        "seed": settings.train.seed,
    }
    start = time.perf_counter()
    try:
        recipe = BOX_RECIPE if task_of(model.arch) == "boxes" else None
        result = train(
            tiles, run, model=model, options=settings.train, recipe=recipe, overwrite=True
        )
    except GeosegError as error:  # a network that cannot be trained is also listed
        return {**row, "error": str(error)}
    if result is None:  # another process of a distributed run
        return row
    rows = (run / "metrics.csv").read_text().splitlines()
    out = run / "footprints.gpkg"
    predict(scene, out, model=result.model, options=settings.predict, overwrite=True)
    report = evaluate(out, truth, aoi=tiles / "test.geojson")
    if recipe is not None:
        boxes = evaluate(out, truth, aoi=tiles / "test.geojson", boxes=True)
        row["ap_of_boxes"] = round(boxes.average_precision or 0.0, 4)
    return {
        **row,
        "steps": int(rows[-1].split(",")[1]),
        "minutes": round((time.perf_counter() - start) / 60, 1),
        "tiles_per_second": round(measure_speed(result.model), 2),
        "f1": round(report.f1, 4),
        "iou_pixel": round(report.iou_pixel, 4),
    }


def measure_speed(path: Path) -> float:
    """Measure tiles per second of a network, in batches of 8 from memory."""
    spec, weights = load_model(path)
    boxes = task_of(spec.arch) == "boxes"
    predictor = BoxPredictor(spec, weights) if boxes else Predictor(spec, weights)
    data = np.random.default_rng(0).integers(0, 255, (8, len(spec.bands), spec.size, spec.size))
    batch = data.astype(spec.dtype), np.ones((8, spec.size, spec.size), bool)
    predictor(*batch)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < _SECONDS_OF_SPEED:
        predictor(*batch)
        count += 8
    return count / (time.perf_counter() - start)


def device_name() -> str:
    """Return the name of the hardware."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} CPU threads, {platform.machine()}"


def format_table(rows: list[dict[str, Any]], budget: str) -> str:
    """Format the results as Markdown, one line per network."""
    sites = list(dict.fromkeys(row["scene"] for row in rows))
    device = rows[0]["device"] if rows else device_name()
    lines = [
        f"Measured on {device}; {budget} per network and scene.",
        "",
        "| network | encoder | parameters | GMAC 512² | tiles/s |"
        + "".join(f" {g} steps | {g} pixel IoU | {g} F1 |" for g in sites),
        "|---|---|---:|---:|---:|" + "---:|---:|---:|" * len(sites),
    ]
    for arch in dict.fromkeys(row["arch"] for row in rows):
        results = {row["scene"]: row for row in rows if row["arch"] == arch}
        first = next(iter(results.values()))
        speed = max(row.get("tiles_per_second", 0.0) for row in results.values())
        line = (
            f"| `{arch}` | {first['encoder'] or '(default)'} | {first['parameters'] / 1e6:.1f} M "
            f"| {first['multiply_adds'] / 1e9:.1f} | {speed:.1f} |"
        )
        for site in sites:
            row = results.get(site, {})
            cells = [row.get(key) for key in ("steps", "iou_pixel", "f1")]
            line += "".join(f" {format_cell(cell)} |" for cell in cells)
        lines.append(line)
    return "\n".join(lines) + "\n"


def format_cell(value: float | None) -> str:
    """Format a count, or a score with three decimals."""
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


if __name__ == "__main__":
    main()
