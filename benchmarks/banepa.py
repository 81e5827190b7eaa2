"""Benchmark of the whole pipeline on a dense town, scored on its test area.

    python benchmarks/banepa.py SCENE FOOTPRINTS -o work/ [--set train.max_minutes=10]

Runs one command per verb and prints one JSON line: the seconds of each verb, and the scores of
footprints with separated buildings and of the plain polygonized mask.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import click

PLAIN = (
    *("seed=0.01", "border=0", "contact=0", "min_area_m2=0"),
    *("simplify_m=0", "subpixel=false", "regularize=false"),
)


@click.command()
@click.argument("scene")
@click.argument("footprints")
@click.option("-o", "--output", type=Path, required=True)
@click.option("--config", default="configs/banepa.yaml", show_default=True)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE")
def main(
    scene: str, footprints: str, output: Path, config: str, overrides: tuple[str, ...]
) -> None:
    """Run the five verbs and print times and scores."""
    settings = ["--config", config]
    training = [part for override in overrides for part in ("--set", override)]
    tiles, run, out = output / "tiles", output / "run", output / "out"
    model, aoi = run / "model.safetensors", tiles / "test.geojson"
    seconds = {
        "tile": geoseg("tile", scene, "--labels", footprints, "-o", tiles, *settings),
        "train": geoseg("train", tiles, "-o", run, *settings, *training),
        "predict": geoseg("predict", scene, "-m", model, "-o", out, *settings),
        "vectorize": geoseg("vectorize", out / "prob.tif", "-o", output / "separated.gpkg"),
    }
    # Each connected component of the mask becomes one building, with outlines along pixel edges.
    plain = [part for change in PLAIN for part in ("--set", f"vectorize.{change}")]
    geoseg("vectorize", out / "prob.tif", "-o", output / "plain.gpkg", *plain)
    scores = {
        name: score(output / f"{name}.gpkg", footprints, aoi, output / f"report_{name}")
        for name in ("separated", "plain")
    }
    print(json.dumps({"seconds": seconds, **scores}))


def geoseg(*arguments: object) -> float:
    """Run one command and return its seconds."""
    start = time.perf_counter()
    command = [sys.executable, "-c", "from geoseg.cli import main; main()", *map(str, arguments)]
    subprocess.run([*command, "--overwrite"], check=True, stdout=sys.stderr)
    return round(time.perf_counter() - start, 1)


def score(layer: Path, truth: str, aoi: Path, report: Path) -> dict[str, float]:
    """Return building F1@0.5, pixel IoU and counts inside an area of interest."""
    geoseg("evaluate", layer, "--truth", truth, "--aoi", aoi, "-o", report)
    scores = json.loads((report / "report.json").read_text())
    return {key: round(scores[key], 4) for key in ("f1", "iou_pixel", "tp", "fp", "fn")}


if __name__ == "__main__":
    main()
