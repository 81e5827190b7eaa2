"""The demo: the default model on a real scene, then all steps on a synthetic town."""

from __future__ import annotations

import shutil
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

SAMPLE_NAME, SAMPLE_PICTURE_NAME = "sample", "sample.jpg"
SCENE_NAME, TRUTH_NAME, PICTURE_NAME = "scene.tif", "footprints.gpkg", "demo.png"

# Folders of the steps on the sample and on the town, which are parts of the output.
_SAMPLE_STEPS = ("out/", "report/")
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


def run_sample(
    output: str | Path, *, report: Report, progress: Progress | None = None
) -> evaluation.Report:
    """Predict the sample with the default model, and evaluate inside the scene.

    Args:
        output: Folder of `write_demo_town`; a folder with the sample and all results is added.
        report: Called with a line per step.
        progress: Called during the prediction, see `geoseg.predict`.

    Returns:
        Scores, to which the parts of buildings inside the scene count.
    """
    from geoseg.sample import SAMPLE_AREA, SAMPLE_FOOTPRINTS, SAMPLE_README, SAMPLE_SCENE

    files = (SAMPLE_SCENE, SAMPLE_FOOTPRINTS, SAMPLE_AREA, SAMPLE_README)
    folder = Path(output) / SAMPLE_NAME
    names = [*(file.name for file in files), SAMPLE_PICTURE_NAME, *_SAMPLE_STEPS]
    with lock_output(Path(output)):
        add_names_to_manifest(Path(output), [f"{SAMPLE_NAME}/{name}" for name in names])
        folder.mkdir(exist_ok=True)
        scene, truth, area, _ = (shutil.copyfile(file, folder / file.name) for file in files)
        report(f"predict: {scene}, by the default model → {folder / 'out'}")
        predict(scene, folder / "out", progress=progress)
        report(f"evaluate: inside the scene → {folder / 'report'}")
        footprints = folder / "out" / "footprints.gpkg"
        scores = evaluate(footprints, truth, folder / "report", aoi=area)
        found = cast("evaluation.Report", scores)
        _draw_sample(folder, found)
        return found


def _draw_sample(folder: Path, scores: evaluation.Report) -> None:
    """Draw the sample with its correct, false and missed buildings."""
    from geoseg.evaluation import LAYERS_NAME
    from geoseg.geo.vector import read_footprints
    from geoseg.training.figures import draw_outlined_scene

    layers = folder / "report" / LAYERS_NAME
    draw_outlined_scene(
        folder / SCENE_NAME,
        {
            name: read_footprints(layers, layer=layer)
            for name, layer in (("found", "TP"), ("false", "FP"), ("missed", "FN"))
        },
        folder / SAMPLE_PICTURE_NAME,
        title=f"default model: F1 {scores.f1:.2f}, pixel IoU {scores.iou_pixel:.2f}",
    )


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
