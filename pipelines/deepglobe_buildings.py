"""Buildings with the network of the DeepGlobe solution: tile → train → predict → evaluate.

    python pipelines/deepglobe_buildings.py TRAINING_SCENE FOOTPRINTS OTHER_SCENE -o work/

Every step writes below the output folder and is skipped where its result is there already, so
that an interrupted run is simply started again.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from geoseg.config import Config, load_config
from geoseg.errors import ConfigError
from geoseg.evaluate import evaluate
from geoseg.execution import run_tasks
from geoseg.predict import predict
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
    if len({source.stem for source in (scene, *others)}) <= len(others):
        raise ConfigError("two scenes have one name; their results would share a folder")
    tiles, scenes = output / "tiles", output / "scenes"
    model = output / "run" / "model.safetensors"
    if not tiles.exists():
        runner = partial(run_tasks, workers=workers, scheduler=scheduler)
        tile_scenes(plan_tiles([scene], labels, config.tile), tiles, run=runner)
    if not model.exists():
        train(tiles, model.parent, model=config.model, options=config.train, resume=True)
    for source in (scene, *others):
        if not (scenes / source.stem).exists():
            predict(
                source, model, scenes / source.stem,
                options=config.predict, thresholds=config.vectorize,
            )  # fmt: skip
    found = scenes / scene.stem / "footprints.gpkg"
    report = evaluate(
        found, labels, output / "report", aoi=tiles / "test.geojson", where=config.tile.where,
        overwrite=True,
    )  # fmt: skip
    return report.f1


@click.command()
@click.argument("scene", type=Path)
@click.argument("labels", type=Path)
@click.argument("others", nargs=-1, type=Path)
@click.option("-o", "--output", type=Path, required=True)
@click.option("--config", default="configs/deepglobe.yaml", show_default=True)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE")
def main(
    scene: Path, labels: Path, others: tuple[Path], output: Path, config: str, overrides: tuple[str]
) -> None:
    """Train on SCENE and its footprints LABELS, and predict it and OTHERS."""
    f1 = run(scene, labels, list(others), output, load_config(config, overrides))
    click.echo(f"F1 {f1:.3f} → {output}")


if __name__ == "__main__":
    main()
