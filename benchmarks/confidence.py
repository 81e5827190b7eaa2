"""Benchmark of the confidences of footprints in places that a model never saw.

    python benchmarks/confidence.py work/ [--recipe shipped] [--rule FILE]

WORK is the folder of `benchmarks/places.py`, which has predicted each region by a model that was
trained on all others. Three confidences of these footprints are compared: the mean probability, the
rule that training fitted to the validation tiles of the other regions, and a rule that is fitted to
the footprints found in all other regions by models that never saw them. --rule writes the last
one, fitted to all regions, with the best least confidence.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import click
import geopandas as gpd
import numpy as np
from numpy.typing import NDArray
from places import MERGED, REGIONS, is_in, scene_box
from rasterio.windows import Window

from geoseg.evaluation import evaluate_layers
from geoseg.geo.raster import read_prob
from geoseg.geo.vector import read_footprints
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
from geoseg.vectorization.prob_sources import open_prob

# Confidences from here on should be right.
_SURE = 0.8


@dataclass(frozen=True)
class Found:
    """The footprints that a model found in a region that it never saw.

    Attributes:
        footprints: Features and hits, with the number of the region as place.
        missed: Number of true footprints without a match.
        own: Confidences by the model's own rule; mean probabilities if it has none.
        merged: Whether the labels merge touching buildings; of each footprint.
    """

    footprints: RatedFootprints
    missed: int
    own: NDArray[np.float64]
    merged: NDArray[np.bool_]


@click.command(help=__doc__)
@click.argument("work", type=Path)
@click.option("--recipe", default="shipped", show_default=True)
@click.option("--rule", "rule_file", type=Path)
def main(work: Path, recipe: str, rule_file: Path | None) -> None:
    """Find, rate and tabulate."""
    regions = [find_region(work, recipe, number) for number in range(len(REGIONS))]
    kinds = {
        "mean probability": [mean_probabilities(one) for one in regions],
        "rule of validation tiles": [one.own for one in regions],
        "rule of unseen regions": rate_in_turn(regions),
    }
    for name, confidences in kinds.items():
        click.echo(describe(name, regions, confidences))
    if rule_file:
        rule_file.write_text(json.dumps(fit_to_all(regions), indent=1) + "\n")


def find_region(work: Path, recipe: str, number: int) -> Found:
    """Vectorize what `places.py` predicted in a region, without a least confidence."""
    name = list(REGIONS)[number]
    evaluated, own, merged = [], [], []
    for scene in sorted((work / "scenes").glob("*.tif")):
        if not is_in(scene, name):
            continue
        info = read_prob(work / "predicted" / recipe / scene.stem / "prob.tif")
        thresholds = info.thresholds.model_copy(update={"min_confidence": 0.0})
        with open_prob(info) as source:
            prob = source.read(Window(0, 0, info.grid.width, info.grid.height))
        found = vectorize_arrays(
            prob.body, prob.border, prob.valid, info.grid, thresholds, prob.contact,
            columns=MEASURED_COLUMNS,
        )  # fmt: skip
        crs = gpd.GeoSeries([scene_box(scene)], crs=4326).estimate_utm_crs()
        truth = read_footprints(scene.with_suffix(".parquet")).to_crs(crs)
        evaluation = evaluate_layers(found.to_crs(crs), truth)
        evaluated.append((number, evaluation))
        own.append(evaluation.pred["confidence"].to_numpy())
        is_merged = any(scene.match(pattern) for pattern in MERGED)
        merged.append(np.full(len(evaluation.pred), is_merged))
    footprints = collect_footprints(evaluated)
    missed = sum(one.score.fn for _, one in evaluated)
    return Found(footprints, missed, np.concatenate(own), np.concatenate(merged))


def mean_probabilities(found: Found) -> NDArray[np.float64]:
    """Return the mean probability (n,) of each footprint."""
    logits = found.footprints.features[:, FEATURES.index("mean_prob")]
    prob: NDArray[np.float64] = 1 / (1 + np.exp(-logits))
    return prob


def join(regions: list[Found], without: int | None = None) -> RatedFootprints:
    """Join the footprints of regions whose labels are single buildings, but of one region."""
    chosen = [one.footprints.pick(~one.merged) for n, one in enumerate(regions) if n != without]
    return RatedFootprints(
        np.concatenate([one.features for one in chosen]),
        np.concatenate([one.found for one in chosen]),
        np.concatenate([one.place for one in chosen]),
    )


def rate_in_turn(regions: list[Found]) -> list[NDArray[np.float64]]:
    """Rate the footprints of each region by a rule that is fitted to all others."""
    rated = []
    for number, one in enumerate(regions):
        rule = fit_rule(join(regions, without=number))
        assert rule is not None
        rated.append(rate_footprints(rule, one.footprints.features))
    return rated


def fit_to_all(regions: list[Found]) -> dict[str, object]:
    """Fit a rule to all regions, and choose the least confidence."""
    footprints = join(regions)
    rule = fit_rule(footprints)
    assert rule is not None
    confidences = rate_footprints(rule, footprints.features)
    missed = [0 if one.merged.all() else one.missed for one in regions]
    least = choose_least_confidence(confidences, footprints, missed)
    return Thresholds(confidence=rule, min_confidence=least).model_dump(
        include={"confidence", "min_confidence"}
    )


def describe(name: str, regions: list[Found], confidences: list[NDArray[np.float64]]) -> str:
    """Return a table: reliability, and F1 with and without a least confidence."""
    lines = [
        f"\n{name}",
        "",
        "| region | footprints | ECE | above 0.8 | of these buildings | F1 | kept from 0.2 | 0.3 |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for region, one, own in zip(REGIONS, regions, confidences, strict=True):
        lines.append(_row(region, [one], [own]))
    single = [number for number, one in enumerate(regions) if not one.merged.all()]
    lines.append(_row("all", regions, confidences))
    lines.append(
        _row("single buildings", [regions[n] for n in single], [confidences[n] for n in single])
    )
    return "\n".join(lines)


def _row(name: str, regions: list[Found], confidences: list[NDArray[np.float64]]) -> str:
    joined = np.concatenate(confidences)
    hits = np.concatenate([one.footprints.found for one in regions])
    reliability, sure = measure_footprints(joined, hits), joined > _SURE
    share = f"{hits[sure].mean():.3f}" if sure.any() else ""
    scores = [np.mean([_f1(one, own, least) for one, own in zip(regions, confidences, strict=True)])
              for least in (0.0, 0.2, 0.3)]  # fmt: skip
    cells = [name, str(len(hits)), f"{reliability.ece:.3f}", str(sure.sum()), share]
    return f"| {' | '.join([*cells, *(f'{score:.3f}' for score in scores)])} |"


def _f1(found: Found, confidences: NDArray[np.float64], least: float) -> float:
    kept = confidences >= least
    true = found.footprints.found.sum() + found.missed
    hits = (found.footprints.found & kept).sum()
    return float(2 * hits / max(1, true + kept.sum()))


if __name__ == "__main__":
    main()
