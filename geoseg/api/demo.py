"""Run all steps on a synthetic town."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from geoseg.api.evaluate import evaluate
from geoseg.api.predict import predict
from geoseg.api.tile import tile
from geoseg.api.train import train
from geoseg.jobs.lock import lock_output
from geoseg.jobs.manifest import add_names_to_manifest
from geoseg.jobs.output import folder_output
from geoseg.jobs.progress import Progress, Report

if TYPE_CHECKING:
    from geoseg import evaluation
    from geoseg.config import Config
    from geoseg.town import Town

SCENE_NAME, TRUTH_NAME, PICTURE_NAME = "scene.tif", "footprints.gpkg", "demo.png"

# Folders of the steps, which are parts of the output.
_STEPS = ("tiles/", "run/", "out/", "report/")


def write_demo_town(town: Town, output: str | Path, *, overwrite: bool = False) -> None:
    """Write a synthetic town: a scene and its true footprints.

    Args:
        town: Result of `build_town`.
        output: The folder.
        overwrite: Replace the folder of an earlier demo.

    Raises:
        OutputExistsError: If the folder exists and may not be overwritten.
    """
    from geoseg.town import write_town

    with folder_output(output, overwrite=overwrite) as work:
        write_town(town, work.result)


def run_demo(
    output: str | Path, settings: Config, *, report: Report, progress: Progress | None = None
) -> evaluation.Report | None:
    """Train on part of a town, predict all of it, and evaluate on the part that was kept.

    Args:
        output: Folder of `write_demo_town`; the outputs of the steps are written into it.
        settings: Configuration of all steps.
        report: Called with a line per step.
        progress: Called during the prediction, see `geoseg.predict`.

    Returns:
        Scores on the test area; None in every process but the first, if several train together.
    """
    from geoseg.geo.vector import read_footprints
    from geoseg.training.figures import draw_comparison

    folder = Path(output)
    scene, truth = folder / SCENE_NAME, folder / TRUTH_NAME
    with lock_output(folder):
        add_names_to_manifest(folder, [PICTURE_NAME, *_STEPS])
        report(f"tile: {scene} → {folder / 'tiles'}")
        tiles = tile(scene, truth, folder / "tiles", options=settings.tile)
        counts = ", ".join(f"{count} {split}" for split, count in tiles.counts.items())
        report(f"tile: {counts} tiles, pixels shared between splits: {tiles.shared_pixels}")

        minutes = settings.train.max_minutes
        report("train" + (f": {minutes:g} minutes" if minutes else ""))
        run = train(
            tiles.folder,
            folder / "run",
            model=settings.model,
            options=settings.train,
            report=lambda line: report(f"train: {line}"),
        )
        if run is None:
            return None  # one of several processes that trained; the first continues
        report(f"predict: {scene} → {folder / 'out'}")
        predicted = predict(
            scene,
            folder / "out",
            model=run.model,
            options=settings.predict,
            vectorize=settings.vectorize,
            progress=progress,
        )
        report("evaluate: on the area that was kept from training")
        scores = evaluate(
            folder / "out" / "footprints.gpkg",
            truth,
            folder / "report",
            aoi=folder / "tiles" / "test.geojson",
        )
        found = cast("evaluation.Report", scores)
        draw_comparison(
            scene,
            read_footprints(truth),
            predicted.footprints,
            folder / PICTURE_NAME,
            title=f"F1 {found.f1:.2f} on the right-hand quarter, which was kept from training",
        )
        return found
