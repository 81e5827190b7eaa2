"""What each part of the training recipe is worth, on ground that training never saw.

    python benchmarks/recipe.py -o work/ --ground NAME=SCENE,FOOTPRINTS [--ground ...]
        [--rows plain --rows default ...] [--minutes 10] [--seeds 0,1,2] [--jobs 1]
        [--config configs/small.yaml] [--gsd NAME=METRES] [--set KEY=VALUE]

Each row is one change of the configuration (`--list` prints them); each is trained for the same
time on the same split of the same ground, and judged on its test ground by predict, vectorize and
evaluate as a user would run them. Some rows train nothing: they judge the default's model without
its tuned thresholds, or with other views. Every result is a line of work/results.jsonl, so that an
interrupted run goes on; the table is work/recipe.md. With several --jobs trainings share a GPU and
take longer: then compare by steps, `--set train.epochs=N --minutes 0`.
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

from geoseg.api.predict import predict
from geoseg.config import Config, load_config
from geoseg.data.tiles import plan_tiles, tile_scenes
from geoseg.evaluation import evaluate_footprints as evaluate
from geoseg.networks.model_file import load_spec
from geoseg.options import Thresholds
from geoseg.training.run import train
from geoseg.vectorization.layer import vectorize

NO_SEPARATION = {"seed": 0.01, "border": 0.0, "contact": 0.0}
AS_IT_IS = {"subpixel": False, "regularize": False, "simplify_m": 0.0, "min_area_m2": 0.0}


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        changes: Of the configuration, KEY=VALUE.
        model_of: The row whose model is judged; its own when None.
        thresholds: In place of the tuned ones.
        says: What it is.
    """

    says: str
    changes: tuple[str, ...] = ()
    model_of: str | None = None
    thresholds: dict[str, Any] | None = None


ROWS = {
    "plain": Row(
        "U-Net, BCE + Dice, flips and quarter turns; the mask polygonized as it is",
        (
            "model.arch=smp-unet", "model.options={}", "tile.targets=[building]",
            "train.augment=light", "train.ema=0", "predict.tta=none",
        ),
        thresholds={"body": 0.5, **NO_SEPARATION, **AS_IT_IS},
    ),
    "default": Row("the configuration as it is"),
    "no_contact": Row("without the contact head", ("tile.targets=[building,border]",)),
    "no_border": Row("without border and contact heads", ("tile.targets=[building]",)),
    "random": Row("the encoder from random weights", ("model.encoder_weights=none",)),
    "light": Row("quarter turns, mirrors and colours alone", ("train.augment=light",)),
    "no_augment": Row("no augmentation, no moving windows", ("train.augment=none",)),
    "no_mosaic": Row("tiles as they were cut", ("train.mosaic=false",)),
    "no_ema": Row("the last weights, not their average", ("train.ema=0",)),
    "balanced": Row("tiles with buildings drawn more often", ("train.sampling=balanced",)),
    "hard": Row("hard tiles drawn more often", ("train.sampling=hard",)),
    "add": Row(
        "the decoder as thin as its encoder",
        ("model.options={aspp_channels: 128, fusion: add}",),
    ),
    "unet": Row("U-Net in place of the decoder", ("model.arch=smp-unet", "model.options={}")),
    "untuned": Row("default thresholds", model_of="default", thresholds=Thresholds().model_dump()),
    "no_tta": Row("one view of each tile", ("predict.tta=none",), model_of="default"),
    "joined": Row(
        "buildings not taken apart", model_of="default", thresholds=NO_SEPARATION
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Work:
    """What the rows have in common.

    Attributes:
        output: Folder of tiles, runs and results.
        grounds: SCENE,FOOTPRINTS by name.
        gsd: Metres of a pixel by the name of a ground; the configuration's where there is none.
        config: The configuration.
        overrides: Of the configuration, KEY=VALUE.
    """

    output: Path
    grounds: dict[str, str]
    gsd: dict[str, str]
    config: str
    overrides: tuple[str, ...]

    def places(self, ground: str) -> tuple[Path, Path]:
        """Scene and footprints."""
        scene, truth = self.grounds[ground].split(",")
        return Path(scene), Path(truth)

    def settings(self, ground: str, name: str, seed: int) -> Config:
        """The configuration of a row."""
        own = (f"tile.gsd_m={self.gsd[ground]}",) if ground in self.gsd else ()
        changes = (*self.overrides, *own, *ROWS[name].changes, f"train.seed={seed}")
        return load_config(self.config, changes)

    def mark(self, ground: str, name: str) -> str:
        """What tells results of one configuration from those of another, whatever the seed."""
        return mark(self.grounds[ground], self.settings(ground, name, 0).model_dump_json())

    def run(self, ground: str, name: str, seed: int) -> Path:
        """The folder of a row's training, which may be another row's."""
        trained = ROWS[name].model_of or name
        return self.output / "runs" / f"{ground}_{trained}_{seed}_{self.mark(ground, trained)}"

    def cut(self, ground: str, settings: Config) -> Path:
        """Tiles, cut once for each way of cutting."""
        key = mark(self.grounds[ground], settings.tile.model_dump_json())
        folder = self.output / "tiles" / f"{ground}_{key}"
        if not (folder / "tiles.json").exists():
            scene, truth = self.places(ground)
            tile_scenes(plan_tiles([scene], truth, settings.tile), folder, overwrite=True)
        return folder


def mark(*parts: str) -> str:
    """A short name of what was given."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:10]


def list_rows(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Prints the rows, if that is what is wanted."""
    if wanted:
        click.echo("\n".join(f"{name:12} {row.says}" for name, row in ROWS.items()))
        context.exit()


@click.command(help=__doc__)
@click.option("-o", "--output", type=Path, required=True)
@click.option(
    "--list", is_flag=True, is_eager=True, expose_value=False, callback=list_rows,
    help="Print the rows, and stop.",
)  # fmt: skip
@click.option("--ground", "grounds", multiple=True, metavar="NAME=SCENE,FOOTPRINTS")
@click.option("--gsd", "sizes", multiple=True, metavar="NAME=METRES", help="Of a ground's tiles.")
@click.option("--rows", "names", multiple=True, help="These alone, in this order.")
@click.option("--minutes", default=10.0, show_default=True, help="Of training; 0: by epochs.")
@click.option("--seeds", default="0", show_default=True)
@click.option("--jobs", default=1, show_default=True, help="Trainings at a time.")
@click.option("--config", default="configs/banepa.yaml", show_default=True)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE")
@click.option("--one", nargs=3, hidden=True, help="Ground, row and seed: what a job does.")
def main(
    output: Path,
    grounds: tuple[str, ...],
    sizes: tuple[str, ...],
    names: tuple[str, ...],
    minutes: float,
    seeds: str,
    jobs: int,
    config: str,
    overrides: tuple[str, ...],
    one: tuple[str, str, str] | None,
) -> None:
    """Trains, judges and tabulates."""
    known = dict(item.split("=", 1) for item in grounds)
    gsd = dict(item.split("=", 1) for item in sizes)
    overrides = (*overrides, f"train.max_minutes={minutes or 'null'}")
    work = Work(output, known, gsd, config, overrides)
    if one:
        ground, name, seed = one
        click.echo(json.dumps(do_row(work, ground, name, int(seed))))
        return
    done = {(r["ground"], r["row"], str(r["seed"]), r["mark"]) for r in read_results(output)}
    jobs_left = [
        (ground, name, seed)
        for seed in seeds.split(",")
        for ground in known
        for name in names or ROWS
        if (ground, name, seed, work.mark(ground, name)) not in done
    ]
    for ground, name, seed in jobs_left:  # before they run side by side
        work.cut(ground, work.settings(ground, name, int(seed)))
    own = [job for job in jobs_left if ROWS[job[1]].model_of is None]
    borrowed = [job for job in jobs_left if ROWS[job[1]].model_of is not None]
    for group in (own, borrowed):
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(lambda job: run_job(output, job), group))
    table = format_table(read_results(output))
    (output / "recipe.md").write_text(table)
    click.echo(table)


def run_job(output: Path, job: tuple[str, str, str]) -> None:
    """Runs one row in a process of its own."""
    command = [sys.executable, *sys.argv, "--one", *job]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        click.echo(f"{' '.join(job)}: failed\n{done.stderr[-2000:]}", err=True)
        return
    line = done.stdout.splitlines()[-1]
    output.mkdir(parents=True, exist_ok=True)
    with (output / "results.jsonl").open("a") as file:
        file.write(line + "\n")
    click.echo(line)


def do_row(work: Work, ground: str, name: str, seed: int) -> dict[str, Any]:
    """Trains, unless the model is another row's, and judges on test ground."""
    row, settings = ROWS[name], work.settings(ground, name, seed)
    scene, truth = work.places(ground)
    run = work.run(ground, name, seed)
    tiles = work.cut(ground, settings)
    if row.model_of is None:
        train(tiles, run, model=settings.model, options=settings.train, overwrite=True)
    model = run / "model.safetensors"
    start = time.perf_counter()
    prob = run / f"{name}.tif"
    options = settings.predict.model_copy(update={"footprints": False})
    predict(scene, prob, model=model, options=options, overwrite=True)
    spec = load_spec(model)
    thresholds = spec.thresholds.model_copy(update=row.thresholds or {})
    layer = run / f"{name}.parquet"
    vectorize(prob, layer, thresholds=thresholds, overwrite=True)
    report = evaluate(layer, truth, aoi=tiles / "test.geojson")
    last = (run / "metrics.csv").read_text().splitlines()[-1].split(",")
    return {
        "ground": ground,
        "row": name,
        "seed": seed,
        "mark": work.mark(ground, name),
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
    """What the figures were measured on."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} CPU threads, {platform.machine()}"


def read_results(output: Path) -> list[dict[str, Any]]:
    """The rows written so far."""
    path = output / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def format_table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown: means over seeds, of one ground, configuration and machine each."""
    lines = [
        "| ground | row | what | seeds | minutes | steps | IoU | F1@0.5 | of each seed | machine |",
        "|---|---|---|---|---:|---:|---:|---:|---|---|",
    ]
    alike: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: (list(ROWS).index(row["row"]), row["seed"])):
        alike.setdefault(
            tuple(row[key] for key in ("ground", "row", "mark", "machine")), []
        ).append(row)
    for (ground, name, _, machine), found in sorted(alike.items(), key=lambda item: item[0][0]):
        mean = {
            key: statistics.mean(row[key] for row in found)
            for key in ("minutes", "steps", "iou_pixel", "f1")
        }
        lines.append(
            f"| {ground} | `{name}` | {ROWS[name].says} "
            f"| {', '.join(str(row['seed']) for row in found)} | {mean['minutes']:.1f} "
            f"| {mean['steps']:.0f} | {mean['iou_pixel']:.3f} | {mean['f1']:.3f} "
            f"| {', '.join(format(row['f1'], '.3f') for row in found)} | {machine} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
