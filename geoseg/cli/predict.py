"""`geoseg predict`."""

from __future__ import annotations

import click

from geoseg.cli.options import config_options, output_option, overwrite_option, parse_bands, resolve
from geoseg.cli.progress import progress_bar
from geoseg.options import CRFOptions


@click.command()
@click.argument("scene")
@click.option("-m", "--model", required=True, metavar="FILE", help="A model.safetensors.")
@output_option("A folder (prob.tif, mask.tif, footprints.gpkg), or one file by its suffix.")
@click.option("--bands", help="The scene's bands in the model's order, by number or name.")
@click.option(
    "--assume-gsd", type=float, metavar="METRES", help="Of a scene that does not say where it lies."
)
@click.option("--overlap", type=int, help="Pixels shared by tiles.  [default: the model's]")
@click.option("--batch-size", type=int, help="Tiles per step.  [default: 8]")
@click.option("--device", type=click.Choice(["auto", "cpu", "gpu"]), help="[default: auto]")
@click.option("--tta", type=click.Choice(["none", "flips", "d4"]), help="Average over views.")
@click.option("--crf", is_flag=True, help="Refine by the scene's colours with a dense CRF.")
@click.option(
    "--keep-model-grid", is_flag=True, default=None, help="Rasters on the model's pixels."
)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and stop.")
@overwrite_option
@config_options
def command(
    scene: str,
    model: str,
    output: str,
    bands: str | None,
    assume_gsd: float | None,
    overlap: int | None,
    batch_size: int | None,
    device: str | None,
    tta: str | None,
    crf: bool,
    keep_model_grid: bool | None,
    dry_run: bool,
    overwrite: bool,
    config: str | None,
    overrides: tuple[str, ...],
) -> None:
    """Find the buildings of a scene.

    Tiles overlap and are blended, so that no seam shows; the whole scene is never in memory.
    """
    settings = resolve(
        config,
        overrides,
        predict__bands=parse_bands(bands),
        predict__assume_gsd_m=assume_gsd,
        predict__overlap=overlap,
        predict__batch_size=batch_size,
        predict__device=device,
        predict__tta=tta,
        predict__keep_model_grid=keep_model_grid,
    )
    options = settings.predict
    if crf and options.crf is None:
        options = options.model_copy(update={"crf": CRFOptions()})
    from geoseg.plan import plan_prediction
    from geoseg.predict import predict

    if dry_run:
        from geoseg.model_file import load_spec

        plan = plan_prediction(scene, load_spec(model), options)
        click.echo(
            f"{scene}: {plan.grid.height} x {plan.grid.width} pixels of {plan.grid.gsd_m:.3g} m, "
            f"{len(plan.tiles)} tiles of {plan.tiles.size} pixels, overlap {plan.tiles.overlap}; "
            f"outputs of {plan.out_grid.height} x {plan.out_grid.width} pixels"
        )
        return
    with progress_bar() as progress:
        files = predict(
            scene,
            model,
            output,
            options=options,
            thresholds=settings.vectorize,
            overwrite=overwrite,
            progress=progress,
        )
    click.echo(f"{scene} → {', '.join(str(file) for file in files)}")
