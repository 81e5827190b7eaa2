"""Pipeline for buildings with the network of the DeepGlobe solution, from scenes to scores.

    python pipelines/deepglobe_buildings.py scenes/*.tif --labels footprints.gpkg \
        --also another.tif -o work/

tile → train → predict and vectorize (scenes with test areas, and those of --also) → evaluate.
Steps whose output exists are skipped, so an interrupted run is continued by the same command.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

import geoseg
from geoseg.api.predict import predict_scenes
from geoseg.config import Config, load_config
from geoseg.data.labels import find_labels_path
from geoseg.data.tiles import list_scenes
from geoseg.evaluation import evaluate_footprints


def run(
    scenes: Sequence[str | Path],
    labels: str | Path,
    also: Sequence[str | Path],
    output: Path,
    config: Config,
    *,
    workers: geoseg.Workers | None = None,
) -> float:
    """Run all steps; every output is below the folder `output`.

    Returns:
        Building F1@0.5 on the test areas.
    """
    tiles, model = output / "tiles", output / "run" / "model.safetensors"
    if not tiles.exists():
        geoseg.tile(scenes, labels, tiles, options=config.tile, workers=workers)
    if not model.exists():
        geoseg.train(tiles, model.parent, model=config.model, options=config.train, resume=True)
    test_scenes = list_scenes(tiles, "test")
    predict_scenes(
        [*test_scenes, *also], output / "scenes", model=model,
        options=config.predict, vectorize=config.vectorize, workers=workers,
    )  # fmt: skip
    reports = [
        evaluate_footprints(
            output / "scenes" / Path(scene).stem / "footprints.gpkg",
            find_labels_path(scene, labels),
            output / "reports" / Path(scene).stem,
            aoi=tiles / "test.geojson",
            where=config.tile.where,
            overwrite=True,
        )
        for scene in test_scenes
    ]
    return sum((report.counts for report in reports[1:]), reports[0].counts).f1


@click.command()
@click.argument("scenes", nargs=-1, required=True)
@click.option(
    "--labels", required=True, help="Footprints; {} is replaced by the name of each scene."
)
@click.option("--also", multiple=True, help="Another scene to predict; may be repeated.")
@click.option("-o", "--output", type=Path, required=True)
@click.option("--config", default="configs/deepglobe.yaml", show_default=True)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE")
@click.option("--workers", "processes", type=int, help="Worker processes.")
@click.option("--scheduler", metavar="ADDRESS", help="Dask scheduler.")
def main(
    output: Path,
    config: str,
    overrides: tuple[str, ...],
    processes: int | None,
    scheduler: str | None,
    **given: Any,
) -> None:
    """Train on SCENES with their LABELS, predict the test scenes, and evaluate."""
    workers = geoseg.Workers(processes, scheduler=scheduler)
    score = run(output=output, config=load_config(config, overrides), workers=workers, **given)
    click.echo(f"F1 {score:.3f} → {output}")


if __name__ == "__main__":
    main()
