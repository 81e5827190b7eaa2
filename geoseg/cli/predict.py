"""`geoseg predict`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from geoseg.cli.options import (
    config_options,
    output_option,
    overwrite_option,
    parse_bands,
    parse_batch_size,
    parse_memory,
    refuse_missing,
    resolve,
)
from geoseg.cli.progress import progress_bar
from geoseg.options import CRFOptions

if TYPE_CHECKING:
    from geoseg.options import PredictOptions
    from geoseg.prediction.plan import PredictPlan


_ABOUT_DEFAULT = (
    "model: buildings, which comes with geoseg and learnt one town in Nepal; expect less elsewhere "
    "than of a model trained on ground like yours (geoseg info buildings)"
)


@click.command()
@click.argument("scene")
@click.option(
    "-m", "--model", "models", multiple=True, metavar="FILE",
    help="A model.safetensors. Given several times, their probabilities are averaged.  "
    "[default: the one that comes with geoseg]",
)  # fmt: skip
@output_option("A folder (prob.tif, mask.tif, footprints.gpkg), or one file by its suffix.")
@click.option("--bands", help="The scene's bands in the model's order.  [default: by name]")
@click.option(
    "--assume-gsd", type=float, metavar="METRES", help="Of a scene that does not say where it lies."
)
@click.option("--aoi", metavar="POLYGONS", help="Predict the ground of these polygons alone.")
@click.option("--overlap", type=int, help="Pixels shared by tiles.  [default: the model's]")
@click.option(
    "--blend", type=click.Choice(["cosine", "crop", "mean"]), help="How tiles meet."
    "  [default: cosine]",
)  # fmt: skip
@click.option(
    "--tta", type=click.Choice(["none", "flips", "d4"]), help="Average over views.  [default: none]"
)
@click.option("--crf", is_flag=True, help="Refine by the scene's colours with a dense CRF.")
@click.option(
    "--uncertainty", is_flag=True, default=None,
    help="One more band: how far tiles, views and models disagree.",
)  # fmt: skip
@click.option(
    "--float", "floats", is_flag=True, default=None, help="Probabilities as float32, not bytes."
)
@click.option(
    "--keep-model-grid", is_flag=True, default=None, help="Rasters on the model's pixels."
)
@click.option("--rasters-only", is_flag=True, help="Leave the footprints to geoseg vectorize.")
@click.option("--batch-size", metavar="N", help="Tiles per step.  [default: auto]")
@click.option("--device", type=click.Choice(["auto", "cpu", "gpu"]), help="[default: auto]")
@click.option(
    "--backend", type=click.Choice(["torch", "compile", "openvino"]),
    help="What computes.  [default: torch]",
)  # fmt: skip
@click.option(
    "--workers", type=click.IntRange(1), help="Local processes.  [default: one, or one per GPU]"
)
@click.option("--scheduler", metavar="ADDRESS", help="A Dask scheduler, e.g. tcp://host:8786.")
@click.option("--max-memory", metavar="SIZE", help="Of a process, e.g. 2GB.  [default: 4GB]")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and stop.")
@overwrite_option
@config_options
def command(
    scene: str,
    models: tuple[str, ...],
    output: str,
    bands: str | None,
    assume_gsd: float | None,
    aoi: str | None,
    overlap: int | None,
    blend: str | None,
    tta: str | None,
    crf: bool,
    uncertainty: bool | None,
    floats: bool | None,
    keep_model_grid: bool | None,
    rasters_only: bool,
    batch_size: str | None,
    device: str | None,
    backend: str | None,
    workers: int | None,
    scheduler: str | None,
    max_memory: str | None,
    dry_run: bool,
    overwrite: bool,
    config: str | None,
    overrides: tuple[str, ...],
) -> None:
    """Find the buildings of a scene.

    Tiles overlap and are blended, so that no seam shows; the whole scene is never in memory. An
    interrupted run goes on when it is started again.
    """
    refuse_missing(scene)
    settings = resolve(
        config,
        overrides,
        predict__bands=parse_bands(bands),
        predict__assume_gsd_m=assume_gsd,
        predict__aoi=aoi,
        predict__overlap=overlap,
        predict__blend=blend,
        predict__batch_size=parse_batch_size(batch_size),
        predict__device=device,
        predict__backend=backend,
        predict__tta=tta,
        predict__uncertainty=uncertainty,
        predict__floats=floats,
        predict__footprints=False if rasters_only else None,
        predict__keep_model_grid=keep_model_grid,
        predict__max_memory_gb=parse_memory(max_memory),
    )
    options = settings.predict
    if crf and options.crf is None:
        options = options.model_copy(update={"crf": CRFOptions()})
    from geoseg.jobs.workers import count_workers, open_workers
    from geoseg.networks.device import count_gpus
    from geoseg.networks.model_file import find_model
    from geoseg.prediction.prediction_job import plan_job
    from geoseg.prediction.scene_prediction import Workers, predict

    if not models:
        click.echo(_ABOUT_DEFAULT, err=True)
    chosen = [find_model(model) for model in models or (None,)]
    if dry_run:
        job = plan_job(scene, chosen, output, options, settings.vectorize, overwrite=overwrite)
        click.echo(_describe(scene, job.plan, options))
        return
    if workers is None:
        workers = count_workers(scheduler) if scheduler else max(1, count_gpus(options.device))
    with open_workers(workers, scheduler) as run, progress_bar() as progress:
        alone = workers == 1 and scheduler is None
        files = predict(
            scene,
            chosen,
            output,
            options=options,
            thresholds=settings.vectorize,
            overwrite=overwrite,
            workers=Workers() if alone else Workers(run, workers, 1 if scheduler else None),
            progress=progress,
        )
    click.echo(f"{scene} → {', '.join(_counted(file) for file in files)}")


def _counted(file: Path) -> str:
    """A file's name, and of a layer how much it holds."""
    from geoseg.geo.vector import LAYER_SUFFIXES, count_features

    layer = file.suffix.lower() in LAYER_SUFFIXES
    return f"{file} ({count_features(file)} footprints)" if layer else str(file)


def _describe(scene: str, plan: PredictPlan, options: PredictOptions) -> str:
    bands = len(plan.spec.outputs) + options.uncertainty
    pixels = plan.out_grid.height * plan.out_grid.width
    size = pixels * bands * (4 if options.floats else 1)
    return (
        f"{scene}: {plan.grid.height} x {plan.grid.width} pixels of {plan.grid.gsd_m:.3g} m, "
        f"{len(plan.tiles)} tiles of {plan.tiles.size} pixels, overlap {plan.tiles.overlap}"
        f"{_describe_aoi(plan)}; outputs of {plan.out_grid.height} x {plan.out_grid.width} "
        f"pixels, {size / 1e6:.0f} MB before compression"
    )


def _describe_aoi(plan: PredictPlan) -> str:
    return "" if plan.aoi is None else f", {len(plan.aoi)} polygons of interest"
