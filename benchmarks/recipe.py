"""Ablation study of the training recipe, scored on test areas.

    python benchmarks/recipe.py -o work/ --scene NAME=SCENE,FOOTPRINTS [--scene ...]
        [--rows plain --rows default ...] [--minutes 10] [--seeds 0,1,2] [--jobs 1]
        [--config configs/small.yaml] [--gsd NAME=METRES] [--set KEY=VALUE]

Each row is one change of the configuration (`--list` prints them). All rows are trained for the
same time on the same split of the same scene, and scored on the test area by predict, vectorize
and evaluate. Some rows reuse the model of the default row, with default thresholds or without
test-time augmentation. Each result is a line of work/results.jsonl, so that an interrupted run is
resumed; the table is work/recipe.md. With several --jobs, trainings share a GPU and take longer:
then use a fixed number of epochs, `--set train.epochs=N --minutes 0`.
"""

from __future__ import annotations

import hashlib
import json
import platform
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from result_lines import append_line, read_lines

from geoseg.api.predict import predict
from geoseg.api.vectorize import vectorize
from geoseg.config import Config, load_config
from geoseg.data.tiles import plan_tiles, tile_scenes
from geoseg.evaluation import evaluate_footprints as evaluate
from geoseg.networks.model_file import load_spec
from geoseg.options import Thresholds, VectorizeOptions
from geoseg.training.run import train

NO_SEPARATION = {"seed": 0.01, "border": 0.0, "contact": 0.0}
# The temperature only scales confidences and cannot be set.
DEFAULT_THRESHOLDS = Thresholds().model_dump(exclude={"temperature"})
RAW_OUTLINES = {"subpixel": False, "regularize": False, "simplify_m": 0.0, "min_area_m2": 0.0}


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        description: Text of the table.
        changes: Changes of the configuration, KEY=VALUE.
        model_of: Row whose model is used; None to train one.
        thresholds: Values that replace the tuned thresholds.
    """

    description: str
    changes: tuple[str, ...] = ()
    model_of: str | None = None
    thresholds: dict[str, Any] | None = None


ROWS = {
    "plain": Row(
        "U-Net, BCE + Dice, flips and rotations by 90 degrees; plain polygonized mask",
        (
            "model.arch=smp-unet", "model.options={}", "tile.targets=[building]",
            "train.augment=light", "train.ema=0", "predict.tta=none",
        ),
        thresholds={"body": 0.5, **NO_SEPARATION, **RAW_OUTLINES},
    ),
    "default": Row("unchanged configuration"),
    "no_contact": Row("without the contact head", ("tile.targets=[building,border]",)),
    "no_border": Row("without border and contact heads", ("tile.targets=[building]",)),
    "random": Row("encoder with random initial weights", ("model.encoder_weights=none",)),
    "light": Row("rotations by 90 degrees, flips and colours only", ("train.augment=light",)),
    "no_augment": Row("no augmentation, no random windows", ("train.augment=none",)),
    "no_mosaic": Row("tiles as stored", ("train.mosaic=false",)),
    "no_ema": Row("last weights instead of their average", ("train.ema=0",)),
    "balanced": Row("tiles with buildings sampled more often", ("train.sampling=balanced",)),
    "hard": Row("hard tiles sampled more often", ("train.sampling=hard",)),
    "add": Row(
        "decoder with fewer channels",
        ("model.options={aspp_channels: 128, fusion: add}",),
    ),
    "unet": Row("U-Net decoder", ("model.arch=smp-unet", "model.options={}")),
    "untuned": Row("default thresholds", model_of="default", thresholds=DEFAULT_THRESHOLDS),
    "no_tta": Row("no test-time augmentation", ("predict.tta=none",), model_of="default"),
    "joined": Row(
        "touching buildings not separated", model_of="default", thresholds=NO_SEPARATION
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Study:
    """Settings that all rows have in common.

    Attributes:
        output: Folder of tiles, runs and results.
        scenes: SCENE,FOOTPRINTS by name.
        gsd: Metres per pixel by name of scene; the configuration's if there is none.
        config: Path or name of the configuration.
        overrides: Changes of the configuration, KEY=VALUE.
    """

    output: Path
    scenes: dict[str, str]
    gsd: dict[str, str]
    config: str
    overrides: tuple[str, ...]

    def paths(self, name: str) -> tuple[Path, Path]:
        """Return the paths of scene and footprints."""
        scene, truth = self.scenes[name].split(",")
        return Path(scene), Path(truth)

    def settings(self, site: str, name: str, seed: int) -> Config:
        """Return the configuration of a row."""
        own = (f"tile.gsd_m={self.gsd[site]}",) if site in self.gsd else ()
        changes = (*self.overrides, *own, *ROWS[name].changes, f"train.seed={seed}")
        return load_config(self.config, changes)

    def config_hash(self, site: str, name: str) -> str:
        """Return a hash of the configuration without its seed."""
        return short_hash(self.scenes[site], self.settings(site, name, 0).model_dump_json())

    def run(self, site: str, name: str, seed: int) -> Path:
        """Return the folder of the training of a row, or of the row whose model it uses."""
        trained = ROWS[name].model_of or name
        return self.output / "runs" / f"{site}_{trained}_{seed}_{self.config_hash(site, trained)}"

    def cut(self, site: str, settings: Config) -> Path:
        """Cut tiles once per tiling configuration."""
        key = short_hash(self.scenes[site], settings.tile.model_dump_json())
        folder = self.output / "tiles" / f"{site}_{key}"
        if not (folder / "tiles.json").exists():
            scene, truth = self.paths(site)
            tile_scenes(plan_tiles([scene], truth, settings.tile), folder, overwrite=True)
        return folder


def short_hash(*parts: str) -> str:
    """Return a short hash of texts."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:10]


def list_rows(context: click.Context, _: click.Parameter, requested: bool) -> None:
    """Print the rows and exit, if requested."""
    if requested:
        click.echo("\n".join(f"{name:12} {row.description}" for name, row in ROWS.items()))
        context.exit()


@click.command(help=__doc__)
@click.option("-o", "--output", type=Path, required=True)
@click.option(
    "--list", is_flag=True, is_eager=True, expose_value=False, callback=list_rows,
    help="Print the rows and exit.",
)  # fmt: skip
@click.option("--scene", "scenes", multiple=True, metavar="NAME=SCENE,FOOTPRINTS")
@click.option("--gsd", "sizes", multiple=True, metavar="NAME=METRES", help="Pixel size of tiles.")
@click.option("--rows", "names", multiple=True, help="Rows to run, in this order.  [default: all]")
@click.option("--minutes", default=10.0, show_default=True, help="Minutes; 0 to use epochs.")
@click.option("--seeds", default="0", show_default=True)
@click.option("--jobs", default=1, show_default=True, help="Concurrent trainings.")
@click.option("--config", default="configs/banepa.yaml", show_default=True)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE")
@click.option("--one", nargs=3, hidden=True, help="Scene, row and seed of one job.")
def main(
    output: Path,
    scenes: tuple[str, ...],
    sizes: tuple[str, ...],
    names: tuple[str, ...],
    minutes: float,
    seeds: str,
    jobs: int,
    config: str,
    overrides: tuple[str, ...],
    one: tuple[str, str, str] | None,
) -> None:
    """Train, evaluate and tabulate."""
    known = dict(item.split("=", 1) for item in scenes)
    gsd = dict(item.split("=", 1) for item in sizes)
    overrides = (*overrides, f"train.max_minutes={minutes or 'null'}")
    study = Study(output, known, gsd, config, overrides)
    if one:
        site, name, seed = one
        click.echo(json.dumps(do_row(study, site, name, int(seed))))
        return
    done = {
        (r["scene"], r["row"], str(r["seed"]), r["hash"])
        for r in read_lines(output / "results.jsonl")
    }
    jobs_left = [
        (site, name, seed)
        for seed in seeds.split(",")
        for site in known
        for name in names or ROWS
        if (site, name, seed, study.config_hash(site, name)) not in done
    ]
    for site, name, seed in jobs_left:  # before they run concurrently
        study.cut(site, study.settings(site, name, int(seed)))
    trained = [job for job in jobs_left if ROWS[job[1]].model_of is None]
    reused = [job for job in jobs_left if ROWS[job[1]].model_of is not None]
    for group in (trained, reused):
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(lambda job: run_job(output, job), group))
    table = format_table(read_lines(output / "results.jsonl"))
    (output / "recipe.md").write_text(table)
    click.echo(table)


def run_job(output: Path, job: tuple[str, str, str]) -> None:
    """Run one row in a separate process."""
    command = [sys.executable, *sys.argv, "--one", *job]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        click.echo(f"{' '.join(job)}: failed\n{done.stderr[-2000:]}", err=True)
        return
    output.mkdir(parents=True, exist_ok=True)
    append_line(output / "results.jsonl", json.loads(done.stdout.splitlines()[-1]))


def do_row(study: Study, site: str, name: str, seed: int) -> dict[str, Any]:
    """Train, unless the row uses the model of another one, and evaluate on the test area."""
    row, settings = ROWS[name], study.settings(site, name, seed)
    scene, truth = study.paths(site)
    run = study.run(site, name, seed)
    tiles = study.cut(site, settings)
    if row.model_of is None:
        train(tiles, run, model=settings.model, options=settings.train, overwrite=True)
    model = run / "model.safetensors"
    start = time.perf_counter()
    prob = run / f"{name}.tif"
    rasters_only = settings.predict.model_copy(update={"footprints": False})
    predict(scene, prob, model=model, options=rasters_only, overwrite=True)
    spec = load_spec(model)
    options = VectorizeOptions.model_validate(row.thresholds or {})
    layer = run / f"{name}.parquet"
    vectorize(prob, layer, options=options, overwrite=True)
    report = evaluate(layer, truth, aoi=tiles / "test.geojson")
    last = (run / "metrics.csv").read_text().splitlines()[-1].split(",")
    return {
        "scene": site,
        "row": name,
        "seed": seed,
        "hash": study.config_hash(site, name),
        "machine": machine(),
        "minutes": spec.provenance["minutes"],
        "steps": int(last[1]),
        "val_f1": spec.provenance["val_f1"],
        "f1": round(report.f1, 4),
        "iou_pixel": round(report.iou_pixel, 4),
        "mean_iou": round(report.mean_iou, 4),
        "buildings": report.tp + report.fn,
        "seconds_of_mapping": round(time.perf_counter() - start, 1),
    }


def machine() -> str:
    """Return the name of the hardware."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} CPU threads, {platform.machine()}"


def format_table(rows: list[dict[str, Any]]) -> str:
    """Format the results as Markdown, with means over seeds."""
    lines = [
        "| scene | row | change | seeds | minutes | steps "
        "| pixel IoU | F1@0.5 | per seed | machine |",
        "|---|---|---|---|---:|---:|---:|---:|---|---|",
    ]
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: (list(ROWS).index(row["row"]), row["seed"])):
        groups.setdefault(
            tuple(row[key] for key in ("scene", "row", "hash", "machine")), []
        ).append(row)
    for (site, name, _, machine), results in sorted(groups.items(), key=lambda item: item[0][0]):
        mean = {
            key: statistics.mean(row[key] for row in results)
            for key in ("minutes", "steps", "iou_pixel", "f1")
        }
        lines.append(
            f"| {site} | `{name}` | {ROWS[name].description} "
            f"| {', '.join(str(row['seed']) for row in results)} | {mean['minutes']:.1f} "
            f"| {mean['steps']:.0f} | {mean['iou_pixel']:.3f} | {mean['f1']:.3f} "
            f"| {', '.join(format(row['f1'], '.3f') for row in results)} | {machine} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
