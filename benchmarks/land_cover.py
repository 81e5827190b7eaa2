"""Benchmark of land cover on scenes that a model never saw.

    python benchmarks/land_cover.py SCENES -o work/ [--recipe default ...] [--steps 300]
        [--test dubai_1 ...] [--seeds 0]

SCENES is a folder of NAME.tif with NAME_landcover.tif, the classes are those of
configs/dubai.yaml. Each scene in turn is predicted as a whole by a model that was trained on three
others and validated on the fourth. Each result is a line of work/land_cover.jsonl, so that an
interrupted run is continued; the tables are work/land_cover.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from result_lines import append_line, has_line, read_lines

import geoseg
from geoseg.config import Config, load_config
from geoseg.data.tiles import load_tiles_info
from geoseg.evaluation import ClassReport
from geoseg.evaluation.metrics import Confusion
from geoseg.options import ClassOptions

# Changes of configs/dubai.yaml.
RECIPES: dict[str, tuple[str, ...]] = {
    "default": (),
    "lovasz": ("train.loss={cross_entropy: 0.5, lovasz_softmax: 1}",),
    "focal": ("train.loss={focal: 1, dice: 1}",),
    "balanced": ("train.sampling=balanced",),
}


@click.command(help=__doc__)
@click.argument("scenes", type=Path)
@click.option("-o", "--output", type=Path, required=True)
@click.option("--recipe", "recipes", multiple=True, type=click.Choice(list(RECIPES)))
@click.option("--test", "tested", multiple=True, help="Scenes to predict.  [default: each]")
@click.option("--steps", default=300, show_default=True)
@click.option("--seeds", default="0", show_default=True)
def main(
    scenes: Path,
    output: Path,
    recipes: tuple[str, ...],
    tested: tuple[str, ...],
    steps: int,
    seeds: str,
) -> None:
    """Train, predict and tabulate."""
    names = sorted(path.stem.removesuffix("_landcover") for path in scenes.glob("*_landcover.tif"))
    results = output / "land_cover.jsonl"
    output.mkdir(parents=True, exist_ok=True)
    for seed in map(int, seeds.split(",")):
        for recipe in recipes or RECIPES:
            for name in tested or names:
                key = {"recipe": recipe, "scene": name, "seed": seed, "steps": steps}
                if has_line(results, key):
                    continue
                config = settings(recipe, seed)
                append_line(results, key | score(scenes, names, name, output, config, steps))
    table = format_tables(read_lines(results))
    (output / "land_cover.md").write_text(table)
    click.echo(table)


def settings(recipe: str, seed: int) -> Config:
    """Return the configuration of a recipe."""
    changes = (*RECIPES[recipe], f"train.seed={seed}", "train.max_minutes=null")
    return load_config("configs/dubai.yaml", changes)


def score(
    scenes: Path, names: Sequence[str], name: str, output: Path, config: Config, steps: int
) -> dict[str, Any]:
    """Train without a scene and predict it; return its scores."""
    tiles = output / f"tiles_{name}"
    if not tiles.exists():
        after = names[(names.index(name) + 1) % len(names)]
        options = config.tile.model_copy(
            update={"test_scenes": (f"{name}.tif",), "val_scenes": (f"{after}.tif",)}
        )
        used = [scenes / f"{one}.tif" for one in names]
        geoseg.tile(used, scenes / "{}_landcover.tif", tiles, options=options)
    info = load_tiles_info(tiles)
    per_epoch = max(25, -(-info.tiles["train"] // config.train.batch_size))
    options = config.train.model_copy(update={"epochs": max(1, round(steps / per_epoch))})
    run = geoseg.train(
        tiles, output / "run", model=config.model, options=options, overwrite=True,
        report=click.echo,
    )  # fmt: skip
    geoseg.predict(scenes / f"{name}.tif", output / "out", model=run.model, overwrite=True)
    classes = config.tile.classes
    assert isinstance(classes, ClassOptions)
    report = geoseg.evaluate(
        output / "out" / "mask.tif", scenes / f"{name}_landcover.tif", classes=classes
    )
    assert isinstance(report, ClassReport)
    return {
        "miou": round(report.mean_iou, 4),
        "accuracy": round(report.accuracy, 4),
        "classes": [one["class"] for one in report.classes],
        "confusion": report.confusion,
    }


def format_tables(rows: Sequence[dict[str, Any]]) -> str:
    """Format mean IoU by recipe and scene, and the confusion matrix of each recipe."""
    scenes = sorted({row["scene"] for row in rows})
    kinds = list(dict.fromkeys((row["recipe"], row["steps"]) for row in rows))
    lines = [
        "| recipe | steps | " + " | ".join(scenes) + " | mean | all pixels |",
        "|---|---:|" + "---:|" * (len(scenes) + 2),
    ]
    matrices = []
    for recipe, steps in kinds:
        own = [row for row in rows if (row["recipe"], row["steps"]) == (recipe, steps)]
        means = [
            np.mean([row["miou"] for row in own if row["scene"] == scene] or [np.nan])
            for scene in scenes
        ]
        total = Confusion(np.sum([row["confusion"] for row in own], axis=0))
        cells = (
            "" if np.isnan(mean) else f"{mean:.3f}"
            for mean in (*means, np.mean(means), total.mean_iou)
        )
        lines.append(f"| `{recipe}` | {steps} | {' | '.join(cells)} |")
        matrices.append(_format_confusion(f"{recipe}, {steps} steps", own[0]["classes"], total))
    return "\n".join([*lines, *matrices]) + "\n"


def _format_confusion(name: str, classes: Sequence[str], total: Confusion) -> str:
    """Format the share of the pixels of each true class by predicted class, and their IoU."""
    counts = np.asarray(total.counts, dtype=float)
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    union = counts.sum(axis=0) + counts.sum(axis=1) - np.diag(counts)
    lines = [
        f"\n{name}, true classes in rows:\n",
        "| | " + " | ".join(classes) + " | IoU |",
        "|---|" + "---:|" * (len(classes) + 1),
    ]
    for one, row, iou in zip(classes, shares, np.diag(counts) / np.maximum(1, union), strict=True):
        lines.append(f"| {one} | {' | '.join(f'{share:.3f}' for share in row)} | {iou:.3f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
