"""The whole job on a dense town, one command per verb, scored on ground that training never saw.

    python benchmarks/banepa.py SCENE FOOTPRINTS -o work/ [--set train.max_minutes=10]

Prints one JSON line: seconds of each verb, and the scores as `geoseg vectorize` separates
buildings and as the probability mask gives them when it is polygonized as it is.
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
    """Runs the five verbs and prints their figures."""
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
    # Every connected patch of the mask is one building, drawn along its pixels.
    plain = [part for change in PLAIN for part in ("--set", f"vectorize.{change}")]
    geoseg("vectorize", out / "prob.tif", "-o", output / "plain.gpkg", *plain)
    scores = {
        name: score(output / f"{name}.gpkg", footprints, aoi, output / f"report_{name}")
        for name in ("separated", "plain")
    }
    print(json.dumps({"seconds": seconds, **scores}))


def geoseg(*words: object) -> float:
    """Runs one command, prints what it prints, and returns its seconds."""
    start = time.perf_counter()
    command = [sys.executable, "-c", "from geoseg.cli import main; main()", *map(str, words)]
    subprocess.run([*command, "--overwrite"], check=True, stdout=sys.stderr)
    return round(time.perf_counter() - start, 1)


def score(layer: Path, truth: str, aoi: Path, report: Path) -> dict[str, float]:
    """Building F1@0.5 and pixel IoU inside an area."""
    geoseg("evaluate", layer, "--truth", truth, "--aoi", aoi, "-o", report)
    figures = json.loads((report / "report.json").read_text())
    return {key: round(figures[key], 4) for key in ("f1", "iou_pixel", "tp", "fp", "fn")}


if __name__ == "__main__":
    main()
