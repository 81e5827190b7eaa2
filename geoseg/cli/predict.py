"""The command `geoseg predict`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from geoseg.cli.options import (
    INCOMPLETE,
    asset_option,
    config_options,
    output_option,
    overwrite_option,
    parse_bands,
    parse_batch_size,
    read_workers,
    refuse_missing,
    resolve,
    workers_options,
)
from geoseg.cli.progress import progress_bar
from geoseg.credentials import hide_credentials
from geoseg.networks.model_file import DEFAULT_MODEL
from geoseg.options import CRFOptions

if TYPE_CHECKING:
    from geoseg.api.results import PredictResult
    from geoseg.jobs.workers import Workers


@click.command()
@click.argument("scenes", nargs=-1, required=True, metavar="SCENE...")
@click.option(
    "-m", "--model", "models", multiple=True, metavar="MODEL",
    help="A model file, the folder of a run, or buildings, the default model; repeat it to average "
    "several.  [default: buildings]",
)  # fmt: skip
@output_option("A folder (prob.tif, mask.tif, footprints.gpkg), or one file, by its suffix.")
@asset_option
@click.option("--bands", help="Bands of the scene in the model's order.  [default: by name]")
@click.option(
    "--assume-gsd", type=float, metavar="METRES",
    help="Pixel size of a scene that has no georeferencing.",
)  # fmt: skip
@click.option(
    "--prefer", type=click.Choice(["first", "newest", "inner"]),
    help="Scene to use where several overlap.  [default: the first]",
)  # fmt: skip
@click.option(
    "--layer-crs", metavar="CRS",
    help="CRS of the footprints of several scenes.  [default: the commonest]",
)  # fmt: skip
@click.option("--aoi", metavar="POLYGONS", help="Predict only inside these polygons.")
@click.option(
    "--gsd", type=float, metavar="METRES",
    help="Read the scene with pixels of this size, with --aoi only its rectangle.",
)  # fmt: skip
@click.option("--overlap", type=int, help="Pixels shared by tiles.  [default: the model's]")
@click.option(
    "--blend", type=click.Choice(["cosine", "crop", "mean"]),
    help="Tile blending.  [default: cosine]",
)  # fmt: skip
@click.option(
    "--tta", type=click.Choice(["none", "flips", "d4"]),
    help="Test-time augmentation: average 4 or 8 views of each tile.  [default: none]",
)  # fmt: skip
@click.option("--crf", is_flag=True, help="Refine by the scene's colours with a dense CRF.")
@click.option(
    "--uncertainty", is_flag=True, default=None,
    help="Add a band: standard deviation over tiles, views and models.",
)  # fmt: skip
@click.option("--float", "floats", is_flag=True, default=None, help="Write float32, not uint8.")
@click.option(
    "--keep-model-grid", is_flag=True, default=None, help="Write rasters at the model's pixel size."
)
@click.option(
    "--keep-blank", is_flag=True, default=None,
    help="Use blank areas (large, of one value) as an image.  [default: as nodata]",
)  # fmt: skip
@click.option("--rasters-only", is_flag=True, help="Write no footprints.")
@click.option("--batch-size", metavar="N", help="Tiles per batch.  [default: auto]")
@click.option("--device", type=click.Choice(["auto", "cpu", "gpu"]), help="[default: auto]")
@click.option(
    "--backend", type=click.Choice(["torch", "compile", "openvino"]),
    help="Inference backend.  [default: torch]",
)  # fmt: skip
@click.option(
    "--shard", metavar="N/M",
    help="Predict only part N of M, for geoseg merge; the same command for each N.",
)  # fmt: skip
@workers_options()
@click.option("--dry-run", is_flag=True, help="Print what would be done, and stop.")
@overwrite_option
@config_options
def command(
    scenes: tuple[str, ...],
    models: tuple[str, ...],
    output: str,
    crf: bool,
    rasters_only: bool,
    shard: str | None,
    dry_run: bool,
    overwrite: bool,
    config: str | None,
    overrides: tuple[str, ...],
    **given: Any,
) -> None:
    """Find the buildings of a scene, or the classes of its land cover.

    Overlapping tiles are blended without a seam; the scene is never held in memory as a whole. An
    interrupted job continues when it is started again.

    Several scenes (files, folders, patterns, text files with names, STAC items and catalogs) give
    one layer. Those of one pixel grid are predicted as one; where scenes overlap, the first one is
    used. Those that cannot be read are left out, and the exit code is 3.

    A description of a tile service (XML of GDAL) is a scene, too, of which --aoi names the part.
    """
    refuse_missing(*scenes)
    workers = read_workers(given)
    settings = resolve(
        "predict",
        config,
        overrides,
        predict__bands=parse_bands(given.pop("bands")),
        predict__assume_gsd_m=given.pop("assume_gsd"),
        predict__gsd_m=given.pop("gsd"),
        predict__batch_size=parse_batch_size(given.pop("batch_size")),
        predict__footprints=False if rasters_only else None,
        **{f"predict__{name}": value for name, value in given.items()},
    )
    options = settings.predict
    if crf and options.crf is None:
        options = options.model_copy(update={"crf": CRFOptions()})
    what: dict[str, Any] = {
        "model": list(models) or None,
        "options": options,
        "vectorize": settings.vectorize.model_copy(update={"crf": None}),
        "overwrite": overwrite,
    }
    if dry_run:
        _describe(scenes, output, workers, what)
    elif shard is not None:
        _predict_shard(scenes, output, shard, workers, what)
    else:
        _predict(scenes, output, workers, what)


def _describe(
    scenes: Sequence[str], output: str, workers: Workers, what: Mapping[str, Any]
) -> None:
    """Print what would be done."""
    from geoseg.api.predict_plan import plan_predict

    plan = plan_predict(scenes, output, **what)
    # torch, which this needs, is slow to load; a scene that cannot serve is refused before.
    from geoseg.cli.dry_run import describe_prediction

    click.echo(describe_prediction(plan, workers))
    exit_if_left_out(plan.job.left_out)


def _predict_shard(
    scenes: Sequence[str], output: str, shard: str, workers: Workers, what: Mapping[str, Any]
) -> None:
    """Predict a part of the job."""
    from geoseg.api.shards import predict_shard

    with progress_bar() as progress:
        part = predict_shard(scenes, output, shard, workers=workers, progress=progress, **what)
    click.echo(f"shard {shard} → {part.folder}; merge all with geoseg merge SHARD... -o OUT")
    exit_if_left_out(part.left_out)


def _predict(scenes: Sequence[str], output: str, workers: Workers, what: Mapping[str, Any]) -> None:
    """Predict all scenes."""
    from geoseg.api.predict import predict

    with progress_bar() as progress:
        result = predict(scenes, output, workers=workers, progress=progress, **what)
    click.echo(f"{result.scene} → {list_files(result)}")
    if what["model"] is None:
        click.echo(_describe_adaptation(scenes), err=True)
    exit_if_left_out(result.left_out)


def exit_if_left_out(left_out: Mapping[str, str]) -> None:
    """End the program with the exit code of incomplete results, if scenes were left out."""
    if left_out:
        click.echo(f"geoseg: left out: {', '.join(left_out)}; reasons are above", err=True)
        sys.exit(INCOMPLETE)


def _describe_adaptation(scenes: Sequence[str]) -> str:
    """Return how to adapt the default model to the area of scenes."""
    scene = shlex.quote(hide_credentials(scenes[0])) if len(scenes) == 1 else "SCENES"
    return (
        "to adapt the model to your area, draw an area and the outlines of all buildings in it, "
        "some 50:\n"
        f"  geoseg tile {scene} --labels OUTLINES --areas AREA --for {DEFAULT_MODEL} "
        "-o tiles/\n"
        f"  geoseg train tiles/ --from {DEFAULT_MODEL} -o runs/own\n"
        f"  geoseg predict {scene} -m runs/own -o OUT"
    )


def list_files(result: PredictResult) -> str:
    """Return the names of the files, with the number of footprints."""
    count = result.count
    return ", ".join(
        f"{file} ({count} footprints)"
        if file == result.footprints_path and count is not None
        else str(file)
        for file in result.files
    )
