"""Buildings with the network of the DeepGlobe solution: tile → train → predict → evaluate.

    python pipelines/deepglobe_buildings.py TRAINING_SCENE FOOTPRINTS OTHER_SCENE -o work/

Every step writes below the output folder and is skipped where its result is there already, so
that an interrupted run is simply started again.
"""

from __future__ import annotations

from pathlib import Path

import click

from geoseg.config import Config, load_config
from geoseg.evaluate import evaluate
from geoseg.execution import open_workers
from geoseg.predict import predict_scenes
from geoseg.tiles import plan_tiles, tile_scenes
from geoseg.train import train


def run(
    scene: Path,
    labels: Path,
    others: list[Path],
    output: Path,
    config: Config,
    *,
    workers: int = 1,
    scheduler: str | None = None,
) -> float:
    """Runs the recipe: trains on `scene`, predicts it and `others`, all below `output`.

    Returns:
        Building F1@0.5 on the training scene's test ground.
    """
    tiles, model = output / "tiles", output / "run" / "model.safetensors"
    with open_workers(workers, scheduler) as on_workers:
        if not tiles.exists():
            tile_scenes(plan_tiles([scene], labels, config.tile), tiles, run=on_workers)
        if not model.exists():
            train(tiles, model.parent, model=config.model, options=config.train, resume=True)
        found, *_ = predict_scenes(
            [scene, *others],
            model,
            output / "scenes",
            options=config.predict,
            thresholds=config.vectorize,
            run=on_workers,
        )
    report = evaluate(
        found / "footprints.gpkg",
        labels,
        output / "report",
        aoi=tiles / "test.geojson",
        where=config.tile.where,
        overwrite=True,
    )
    return report.f1


@click.command()
@click.argument("scene", type=Path)
@click.argument("labels", type=Path)
@click.argument("others", nargs=-1, type=Path)
@click.option("-o", "--output", type=Path, required=True)
@click.option("--config", default="configs/deepglobe.yaml", show_default=True)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE")
@click.option("--workers", type=click.IntRange(1), default=1, help="Local processes.")
@click.option("--scheduler", metavar="ADDRESS", help="A Dask scheduler.")
def main(scene, labels, others, output, config, overrides, workers, scheduler):  # noqa: ANN001, ANN201
    """Train on SCENE and its footprints LABELS, and predict it and OTHERS."""
    settings = load_config(config, overrides)
    f1 = run(
        scene, labels, list(others), output, settings, workers=workers, scheduler=scheduler
    )  # fmt: skip
    click.echo(f"F1 {f1:.3f} → {output}")


if __name__ == "__main__":
    main()
