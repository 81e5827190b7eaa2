"""Benchmark of the confidences of footprints in places that a model never saw.

    python benchmarks/confidence.py work/ [--recipe shipped] [--rule FILE]

WORK is the folder of `benchmarks/places.py`, which has predicted each region by a model that was
trained on all others; regions that it has not predicted yet are left out. Three confidences of
these footprints are compared: the mean probability, the rule that training fitted to the validation
tiles of the other regions, and a rule that is fitted to the footprints found in all other regions
by models that never saw them. --rule writes the last one, fitted to all regions, with the best
least confidence.

The last table has a line per scene: F1, the mean confidence, and how far the colours of the scene
are from those of the nearest scene that the model was trained on; below it is the correlation of
both with F1.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import rasterio
from numpy.typing import NDArray
from places import MERGED, REGIONS, compare, is_in
from rasterio.windows import Window
from scipy.stats import spearmanr

from geoseg.geo.raster import read_prob
from geoseg.options import Thresholds
from geoseg.options.confidence import FEATURES
from geoseg.training.validation.confidence import (
    RatedFootprints,
    choose_least_confidence,
    collect_footprints,
    fit_rule,
    measure_footprints,
)
from geoseg.vectorization.confidence import rate_footprints
from geoseg.vectorization.footprints import MEASURED_COLUMNS
from geoseg.vectorization.layer import vectorize_arrays
from geoseg.vectorization.prob_sources import ClassProb, open_prob

# Confidences from here on should be right, and limits of the footprints that are kept.
_SURE, _KEPT = 0.8, (0.0, 0.2, 0.3)


@dataclass(frozen=True)
class Found:
    """The footprints that a model found in a scene of a region that it never saw.

    Attributes:
        scene: The scene.
        region: Number of the region.
        footprints: Features and hits, with the number of the region as place.
        missed: Number of true footprints without a match.
        own: Confidences by the model's own rule; mean probabilities if it has none.
    """

    scene: Path
    region: int
    footprints: RatedFootprints
    missed: int
    own: NDArray[np.float64]

    @property
    def is_merged(self) -> bool:
        """Whether the labels merge touching buildings."""
        return any(self.scene.match(pattern) for pattern in MERGED)

    def f1(self, confidences: NDArray[np.float64], least: float) -> float:
        """Return F1 of the footprints from a confidence on."""
        return _f1([self], [confidences], least)


@click.command(help=__doc__)
@click.argument("work", type=Path)
@click.option("--recipe", default="shipped", show_default=True)
@click.option("--rule", "rule_file", type=Path)
def main(work: Path, recipe: str, rule_file: Path | None) -> None:
    """Find, rate and tabulate."""
    scenes = find_scenes(work, recipe)
    unseen = rate_in_turn(scenes)
    kinds = {
        "mean probability": [mean_probabilities(one) for one in scenes],
        "rule of validation tiles": [one.own for one in scenes],
        "rule of unseen regions": unseen,
    }
    for name, confidences in kinds.items():
        click.echo(describe(name, scenes, confidences))
    click.echo(describe_scenes(scenes, unseen))
    if rule_file:
        rule_file.write_text(json.dumps(fit_to_all(scenes), indent=1) + "\n")


def find_scenes(work: Path, recipe: str) -> list[Found]:
    """Vectorize what `places.py` predicted, without a least confidence."""
    found = []
    for number, region in enumerate(REGIONS):
        for scene in sorted((work / "scenes").glob("*.tif")):
            prob = work / "predicted" / recipe / scene.stem / "prob.tif"
            if is_in(scene, region) and prob.exists():
                found.append(find_scene(scene, prob, number))
    return found


def find_scene(scene: Path, prob_file: Path, region: int) -> Found:
    """Vectorize a scene and compare it with its footprints."""
    info = read_prob(prob_file)
    thresholds = info.thresholds.model_copy(update={"min_confidence": 0.0})
    with open_prob(info) as source:
        assert not isinstance(source, ClassProb)
        prob = source.read(Window(0, 0, info.grid.width, info.grid.height))
    found = vectorize_arrays(
        prob.body, prob.border, prob.valid, info.grid, thresholds, prob.contact,
        columns=MEASURED_COLUMNS,
    )  # fmt: skip
    evaluation = compare(scene, found)
    return Found(
        scene,
        region,
        collect_footprints([(region, evaluation)]),
        evaluation.score.fn,
        evaluation.pred["confidence"].to_numpy(),
    )


def mean_probabilities(found: Found) -> NDArray[np.float64]:
    """Return the mean probability (n,) of each footprint."""
    logits = found.footprints.features[:, FEATURES.index("mean_prob")]
    prob: NDArray[np.float64] = 1 / (1 + np.exp(-logits))
    return prob


def join(scenes: Sequence[Found]) -> RatedFootprints:
    """Join the footprints of scenes."""
    parts = [one.footprints for one in scenes]
    return RatedFootprints(
        np.concatenate([one.features for one in parts]),
        np.concatenate([one.found for one in parts]),
        np.concatenate([one.place for one in parts]),
    )


def rate_in_turn(scenes: Sequence[Found]) -> list[NDArray[np.float64]]:
    """Rate the footprints of each scene by a rule that is fitted to all other regions."""
    rated = []
    for one in scenes:
        rule = fit_rule(join([o for o in scenes if o.region != one.region and not o.is_merged]))
        assert rule is not None
        rated.append(rate_footprints(rule, one.footprints.features))
    return rated


def fit_to_all(scenes: Sequence[Found]) -> dict[str, object]:
    """Fit a rule to all regions, and choose the least confidence by those that did not see them."""
    single = [one for one in scenes if not one.is_merged]
    footprints, rule = join(single), fit_rule(join(single))
    assert rule is not None
    missed = [0] * len(REGIONS)
    for one in single:
        missed[one.region] += one.missed
    least = choose_least_confidence(np.concatenate(rate_in_turn(single)), footprints, missed)
    return Thresholds(confidence=rule, min_confidence=least).model_dump(
        include={"confidence", "min_confidence"}
    )


def describe(name: str, scenes: Sequence[Found], confidences: Sequence[NDArray[np.float64]]) -> str:
    """Return a table: reliability, and F1 with and without a least confidence."""
    lines = [
        f"\n{name}\n",
        "| region | footprints | ECE | above 0.8 | of these buildings | F1 | kept from 0.2 | 0.3 |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    pairs = list(zip(scenes, confidences, strict=True))
    for number, region in enumerate(REGIONS):
        if own := [pair for pair in pairs if pair[0].region == number]:
            lines.append(_row(region, own))
    lines.append(_row("all", pairs))
    single = [pair for pair in pairs if not pair[0].is_merged]
    lines.append(_row("labels of single buildings", single))
    return "\n".join(lines)


def describe_scenes(scenes: Sequence[Found], confidences: Sequence[NDArray[np.float64]]) -> str:
    """Return a table of scenes: F1, mean confidence, and how unlike the training scenes it is."""
    colours = {one.scene: _colours(one.scene) for one in scenes}
    lines = ["\n| scene | F1 | mean confidence | unlike the nearest |", "|---|---:|---:|---:|"]
    values = []
    for one, own in zip(scenes, confidences, strict=True):
        if not one.missed + one.footprints.found.sum():
            continue
        others = [colours[o.scene] for o in scenes if o.region != one.region]
        unlike = min(float(np.abs(colours[one.scene] - other).max()) for other in others)
        confidence = float(own.mean()) if len(own) else 0.0
        values.append((one.f1(own, 0), confidence, unlike))
        lines.append(f"| {one.scene.stem} | " + " | ".join(f"{v:.3f}" for v in values[-1]) + " |")
    f1, confidence, unlike = np.array(values).T
    lines.append(
        f"\nrank correlation with F1: mean confidence {spearmanr(f1, confidence).statistic:.2f}, "
        f"unlike the nearest {spearmanr(f1, unlike).statistic:.2f} ({len(values)} scenes)"
    )
    return "\n".join(lines)


def _colours(scene: Path) -> NDArray[np.float64]:
    """Return the mean of each band, and twice the logarithm of its deviation, in deviations."""
    with rasterio.open(scene) as source:
        step = max(1, round((source.width * source.height / 1e6) ** 0.5))
        shape = (source.height // step, source.width // step)
        data = source.read(out_shape=(source.count, *shape)).astype(float)
        valid = source.dataset_mask(out_shape=shape) > 0
    used = data[:, valid]
    # In units of 50 grey values and of octaves of contrast, which `predict` warns of.
    return np.concatenate([used.mean(axis=1) / 50, np.log2(used.std(axis=1))])


def _row(name: str, pairs: Sequence[tuple[Found, NDArray[np.float64]]]) -> str:
    joined = np.concatenate([own for _, own in pairs])
    hits = np.concatenate([one.footprints.found for one, _ in pairs])
    reliability, sure = measure_footprints(joined, hits), joined > _SURE
    share = f"{hits[sure].mean():.3f}" if sure.any() else ""
    regions = sorted({one.region for one, _ in pairs})
    scores = []
    for least in _KEPT:
        of_regions = [zip(*(p for p in pairs if p[0].region == r), strict=True) for r in regions]
        scores.append(np.mean([_f1(*own, least) for own in of_regions]))
    cells = [name, str(len(hits)), f"{reliability.ece:.3f}", str(sure.sum()), share]
    return f"| {' | '.join([*cells, *(f'{score:.3f}' for score in scores)])} |"


def _f1(scenes: Sequence[Found], confidences: Sequence[NDArray[np.float64]], least: float) -> float:
    hits = found = true = 0
    for one, own in zip(scenes, confidences, strict=True):
        kept = own >= least
        hits += int((one.footprints.found & kept).sum())
        found += int(kept.sum())
        true += int(one.footprints.found.sum()) + one.missed
    return 2 * hits / max(1, true + found)


if __name__ == "__main__":
    main()
