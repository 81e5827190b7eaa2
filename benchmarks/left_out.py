"""Benchmark of thresholds and confidences in places that a model never saw.

    python benchmarks/left_out.py work/ [--recipe shipped] [--set KEY=VALUE ...] [--sweep]
        [--write FILE]

WORK is the folder of `benchmarks/places.py`, which has predicted each region by a model that was
trained on all others; regions that it has not predicted yet are left out.

The first table compares thresholds: the defaults, those that training tuned on the validation tiles
of the other regions, and the defaults with the changes of --set. --sweep adds a line for other
values of each threshold. Only labels of single buildings are used for it.

The next tables compare confidences: the mean probability, the rule that training fitted to the
validation tiles of the other regions, and a rule that is fitted to the footprints found in all
other regions by models that never saw them.

The last table has a line per scene: F1, the mean confidence, and how far the colours of the scene
are from those of the nearest scene that the model was trained on; below it is the correlation of
both with F1.

With --set, the confidences are those of footprints by these thresholds. --write writes them with
the rule and the least confidence that all regions give, for `benchmarks/places.py --publish`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import click
import geopandas as gpd
import numpy as np
import rasterio
from numpy.typing import NDArray
from places import MERGED, REGIONS, compare, is_in
from rasterio.windows import Window
from scipy.stats import spearmanr

from geoseg.evaluation.metrics import AreaCounts, Score
from geoseg.geo.raster import ProbInfo, read_prob
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
from geoseg.vectorization.prob_sources import ClassProb, ProbWindow, open_prob

# Confidences from here on should be right, and limits of the footprints that are kept.
_SURE, _KEPT = 0.8, (0.0, 0.2, 0.3)

# Values of --sweep.
_SWEPT = {
    "body": (0.3, 0.4, 0.5, 0.6),
    "seed": (0.4, 0.5, 0.6, 0.7, 0.8),
    "border": (0.4, 0.7, 1.0, 1.4),
    "contact": (0.0, 0.5, 1.0, 1.5),
    "min_area_m2": (3.0, 6.0, 12.0, 20.0),
}


@dataclass(frozen=True)
class Predicted:
    """A scene of a region, predicted by a model that never saw the region.

    Attributes:
        scene: The scene.
        region: Number of the region.
        prob_file: Its probabilities.
    """

    scene: Path
    region: int
    prob_file: Path

    @cached_property
    def info(self) -> ProbInfo:
        """Header of the probabilities, with the thresholds of the model."""
        return read_prob(self.prob_file)

    @cached_property
    def prob(self) -> ProbWindow:
        """The probabilities."""
        with open_prob(self.info) as source:
            assert not isinstance(source, ClassProb)
            return source.read(Window(0, 0, self.info.grid.width, self.info.grid.height))

    def vectorize(self, thresholds: Thresholds) -> gpd.GeoDataFrame:
        """Return the footprints, with what the confidence depends on."""
        return vectorize_arrays(
            self.prob.body, self.prob.border, self.prob.valid, self.info.grid, thresholds,
            self.prob.contact, columns=MEASURED_COLUMNS,
        )  # fmt: skip


class Scores:
    """Scores of regions by thresholds, each computed once.

    Args:
        predicted: Scenes whose labels have single buildings.
    """

    def __init__(self, predicted: Sequence[Predicted]) -> None:
        self.predicted = predicted
        self._known: dict[tuple[Path, Thresholds], tuple[Score, AreaCounts]] = {}

    def score_region(self, region: int, thresholds: Thresholds) -> tuple[float, float]:
        """Return building F1 and pixel IoU of a region."""
        buildings, areas = self._count(region, thresholds)
        return buildings.f1, areas.iou

    def _count(self, region: int, thresholds: Thresholds) -> tuple[Score, AreaCounts]:
        buildings, areas = Score(0, 0, 0), AreaCounts(0.0, 0.0, 0.0)
        # What right angles and the least confidence change is left out.
        thresholds = thresholds.model_copy(
            update={"regularize": False, "min_confidence": 0.0, "confidence": None}
        )
        for one in self.predicted:
            if one.region != region:
                continue
            key = one.scene, thresholds
            if key not in self._known:
                evaluation = compare(one.scene, one.vectorize(thresholds))
                self._known[key] = evaluation.score, evaluation.area
            buildings, areas = buildings + self._known[key][0], areas + self._known[key][1]
        return buildings, areas


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

    def f1(self, confidences: NDArray[np.float64], least: float) -> float:
        """Return F1 of the footprints from a confidence on."""
        return _f1([self], [confidences], least)


@click.command(help=__doc__)
@click.argument("work", type=Path)
@click.option("--recipe", default="shipped", show_default=True)
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE")
@click.option("--sweep", is_flag=True)
@click.option("--write", "file", type=Path)
def main(work: Path, recipe: str, changes: tuple[str, ...], sweep: bool, file: Path | None) -> None:
    """Find, rate and tabulate."""
    predicted = list_predicted(work, recipe)
    pairs = (change.split("=", 1) for change in changes)
    chosen = Thresholds(**{key: float(value) for key, value in pairs})
    click.echo(describe_thresholds(predicted, chosen, sweep))
    scenes = [
        find_footprints(one, adopt(one, chosen) if changes else one.info.thresholds)
        for one in predicted
    ]
    unseen = rate_in_turn(scenes)
    kinds = {
        "mean probability": [mean_probabilities(one) for one in scenes],
        "rule of validation tiles": [one.own for one in scenes],
        "rule of unseen regions": unseen,
    }
    for name, confidences in kinds.items():
        click.echo(describe(name, scenes, confidences))
    click.echo(describe_scenes(scenes, unseen))
    if file:
        file.write_text(json.dumps(fit_to_all(scenes, chosen), indent=1) + "\n")


def list_predicted(work: Path, recipe: str) -> list[Predicted]:
    """Return the scenes that `places.py` predicted."""
    return [
        Predicted(scene, number, prob)
        for number, region in enumerate(REGIONS)
        for scene in sorted((work / "scenes").glob("*.tif"))
        if is_in(scene, region)
        and (prob := work / "predicted" / recipe / scene.stem / "prob.tif").exists()
    ]


def find_footprints(one: Predicted, thresholds: Thresholds) -> Found:
    """Vectorize a scene without a least confidence, and compare it with its footprints."""
    thresholds = thresholds.model_copy(update={"min_confidence": 0.0})
    evaluation = compare(one.scene, one.vectorize(thresholds))
    return Found(
        one.scene,
        one.region,
        collect_footprints([(one.region, evaluation)]),
        evaluation.score.fn,
        evaluation.pred["confidence"].to_numpy(),
    )


def adopt(one: Predicted, thresholds: Thresholds) -> Thresholds:
    """Return thresholds with the calibration and the rule of the model that predicted a scene."""
    own = one.info.thresholds
    changes = {"temperature": own.temperature, "confidence": own.confidence}
    return thresholds.model_copy(update=changes)


def describe_thresholds(predicted: Sequence[Predicted], chosen: Thresholds, sweep: bool) -> str:
    """Return a table of F1 and IoU of each region by thresholds."""
    single = [one for one in predicted if not is_merged(one.scene)]
    regions = sorted({one.region for one in single})
    scores = Scores(single)
    names = [list(REGIONS)[number] for number in regions]
    lines = [
        f"\n| thresholds | {' | '.join(names)} | mean |",
        "|---|" + "---:|" * (len(regions) + 1),
    ]

    def add(name: str, of_regions: Sequence[Thresholds]) -> None:
        found = [scores.score_region(*pair) for pair in zip(regions, of_regions, strict=True)]
        cells = [f"{f1:.3f} / {iou:.3f}" for f1, iou in [*found, np.mean(found, axis=0)]]
        lines.append(f"| {name} | {' | '.join(cells)} |")

    own = {one.region: one.info.thresholds for one in single}
    add("defaults", [Thresholds()] * len(regions))
    add("of the validation tiles", [own[number] for number in regions])
    add("--set", [chosen] * len(regions))
    for key, values in _SWEPT.items() if sweep else ():
        for value in values:
            add(f"{key} {value:g}", [chosen.model_copy(update={key: value})] * len(regions))
    return "\n".join(lines)


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
        others = [o for o in scenes if o.region != one.region and not is_merged(o.scene)]
        rule = fit_rule(join(others))
        assert rule is not None
        rated.append(rate_footprints(rule, one.footprints.features))
    return rated


def fit_to_all(scenes: Sequence[Found], chosen: Thresholds) -> dict[str, object]:
    """Return thresholds with a rule that is fitted to all regions.

    The least confidence is chosen by the confidences of rules that did not see the region.
    """
    single = [one for one in scenes if not is_merged(one.scene)]
    footprints, rule = join(single), fit_rule(join(single))
    assert rule is not None
    missed = [0] * len(REGIONS)
    for one in single:
        missed[one.region] += one.missed
    least = choose_least_confidence(np.concatenate(rate_in_turn(single)), footprints, missed)
    changes = {"confidence": rule, "min_confidence": least}
    return chosen.model_copy(update=changes).model_dump(mode="json", exclude={"temperature"})


def is_merged(scene: Path) -> bool:
    """Return whether the labels of a scene merge touching buildings."""
    return any(scene.match(pattern) for pattern in MERGED)


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
    single = [pair for pair in pairs if not is_merged(pair[0].scene)]
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
