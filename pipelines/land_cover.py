"""Land cover as in the DeepGlobe challenge, from tiles to scores.

    python pipelines/land_cover.py train/*_sat.jpg --labels 'train/{}_mask.png' \
        --also another.tif -o work/

tile → train → predict and vectorize (scenes with test ground, those of --also) → evaluate. What
is there already is not done again, so an interrupted run is simply started again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from geoseg.config import Config, load_config
from geoseg.data.labels import find_labels_path
from geoseg.data.tiles import list_scenes, plan_tiles, tile_scenes
from geoseg.evaluation import evaluate_mask
from geoseg.jobs.workers import open_workers
from geoseg.prediction.scene_prediction import predict_scenes
from geoseg.training.run import train


def run(
    scenes: Sequence[str | Path],
    labels: str | Path,
    also: Sequence[str | Path],
    output: Path,
    config: Config,
    *,
    workers: int = 1,
    scheduler: str | None = None,
) -> float:
    """Runs the recipe, all of it below `output`.

    Returns:
        Mean IoU of the classes on test ground.
    """
    tiles, model = output / "tiles", output / "run" / "model.safetensors"
    with open_workers(workers, scheduler) as on_workers:
        if not tiles.exists():
            tile_scenes(plan_tiles(scenes, labels, config.tile), tiles, run=on_workers)
        if not model.exists():
            train(tiles, model.parent, model=config.model, options=config.train, resume=True)
        tested = list_scenes(tiles, "test")
        folders = predict_scenes(
            [*tested, *also], model, output / "scenes",
            options=config.predict, thresholds=config.vectorize, run=on_workers,
        )  # fmt: skip
    reports = [
        evaluate_mask(
            folder / "mask.tif", find_labels_path(scene, labels), output / "reports" / folder.name,
            classes=config.tile.classes, aoi=tiles / "test.geojson", overwrite=True,
        )
        for scene, folder in zip(tested, folders, strict=False)
    ]  # fmt: skip
    return sum((report.counts for report in reports[1:]), reports[0].counts).mean_iou


@click.command()
@click.argument("scenes", nargs=-1, required=True)
@click.option("--labels", required=True, help="Masks or polygons; {} stands for a scene's name.")
@click.option("--also", multiple=True, help="A scene to predict, too. May be repeated.")
@click.option("-o", "--output", type=Path, required=True)
@click.option("--config", default="configs/land_cover.yaml", show_default=True)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE")
@click.option("--workers", default=1, help="Local processes.")
@click.option("--scheduler", metavar="ADDRESS", help="A Dask scheduler.")
def main(output: Path, config: str, overrides: tuple[str, ...], **given: Any) -> None:
    """Learn land cover from SCENES and their LABELS."""
    score = run(output=output, config=load_config(config, overrides), **given)
    click.echo(f"mean IoU {score:.3f} → {output}")


if __name__ == "__main__":
    main()
