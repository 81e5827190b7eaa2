"""Buildings by the network of the DeepGlobe solution, from tiles to scores.

    python pipelines/deepglobe_buildings.py scenes/*.tif --labels footprints.gpkg \
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
from geoseg.evaluation import evaluate
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
        Building F1@0.5 on test ground.
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
        evaluate(
            folder / "footprints.gpkg", find_labels_path(scene, labels), output / "reports" / folder.name,
            aoi=tiles / "test.geojson", where=config.tile.where, overwrite=True,
        )
        for scene, folder in zip(tested, folders, strict=False)
    ]  # fmt: skip
    return sum((report.counts for report in reports[1:]), reports[0].counts).f1


@click.command()
@click.argument("scenes", nargs=-1, required=True)
@click.option("--labels", required=True, help="Footprints; {} stands for a scene's name.")
@click.option("--also", multiple=True, help="A scene to predict, too. May be repeated.")
@click.option("-o", "--output", type=Path, required=True)
@click.option("--config", default="configs/deepglobe.yaml", show_default=True)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE")
@click.option("--workers", default=1, help="Local processes.")
@click.option("--scheduler", metavar="ADDRESS", help="A Dask scheduler.")
def main(output: Path, config: str, overrides: tuple[str, ...], **given: Any) -> None:
    """Learn the buildings of SCENES from their LABELS."""
    score = run(output=output, config=load_config(config, overrides), **given)
    click.echo(f"F1 {score:.3f} → {output}")


if __name__ == "__main__":
    main()
