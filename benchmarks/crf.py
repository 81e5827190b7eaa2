"""Benchmark of the dense CRF: seconds per megapixel, compared with a lower bound and pydensecrf2.

    python benchmarks/crf.py [--scene SCENE] [--side 512] [--repeat 3]

Prints one JSON line per setting: the seconds per megapixel, the ratio to a lower bound (one
Gaussian blur of the same pixels per iteration), and, if pydensecrf2 is installed, the ratio to it
and the share of pixels with the same label. Times are the minimum of some repeats on one core.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import click
import numpy as np
from rasterio.windows import Window
from scipy.ndimage import gaussian_filter

from geoseg.geo.raster import Scene
from geoseg.options import CRFOptions
from geoseg.prediction.crf.mean_field import refine
from geoseg.town import build_town

SETTINGS = {
    "default": CRFOptions(),
    "deeplab": CRFOptions(gaussian_sigma=1, bilateral_sigma=67, colour_sigma=3),
    "densecrf": CRFOptions(
        bilateral_weight=10, bilateral_sigma=80, colour_sigma=13, iterations=5
    ),
}  # fmt: skip


@click.command()
@click.option(
    "--scene",
    type=Path,
    help="Scene.  [default: synthetic town]",
)
@click.option("--side", default=512, show_default=True, help="Side in pixels.")
@click.option("--repeat", default=3, show_default=True, help="Repeats; the fastest counts.")
def main(scene: Path | None, side: int, repeat: int) -> None:
    """Time all settings on one image."""
    image = read_image(scene, side)
    prob = make_prob(image)
    for name, options in SETTINGS.items():
        click.echo(json.dumps({"setting": name, **compare(prob, image, options, repeat)}))


def read_image(scene: Path | None, side: int) -> np.ndarray:
    """Read the central square of a scene, or build a town, as uint8 (3, H, W)."""
    if scene is None:
        return build_town(side, side + 64, seed=7).image[:3]
    with Scene(scene) as source:
        height, width = source.grid.shape
        left, top = max(0, (width - side) // 2), max(0, (height - side) // 2)
        data, _ = source.read(Window(left, top, min(side, width), min(side, height)))
    return data[:3].astype(np.uint8)


def make_prob(image: np.ndarray) -> np.ndarray:
    """Make noisy probabilities (1, H, W) from the brightness of an image."""
    bright = gaussian_filter(image.mean(axis=0), 2)
    score = (bright - bright.mean()) / bright.std()
    noise = np.random.default_rng(0).normal(0, 1, score.shape)
    prob: np.ndarray = 1 / (1 + np.exp(-(score + noise)))
    return prob[None].astype(np.float32)


def compare(
    prob: np.ndarray, image: np.ndarray, options: CRFOptions, repeat: int
) -> dict[str, float]:
    """Measure one setting: seconds per megapixel and ratios."""
    valid = np.ones(prob.shape[1:], dtype=bool)
    seconds, ours = measure(lambda: refine(prob, image, valid, options), repeat)
    sigma = options.bilateral_sigma

    def blurs() -> np.ndarray:
        blurred = prob[0]
        for _ in range(options.iterations):
            blurred = gaussian_filter(prob[0], sigma, truncate=2)
        return blurred

    figures = {
        "s_per_megapixel": seconds / valid.size * 1e6,
        "to_blurs": seconds / measure(blurs, repeat)[0],
    }
    if find_spec("pydensecrf") is None:
        return round_all(figures)
    theirs_seconds, theirs = measure(lambda: refine_by_pydensecrf(prob, image, options), repeat)
    figures["to_pydensecrf2"] = seconds / theirs_seconds
    figures["same_labels"] = float(((ours[0] > 0.5) == (theirs > 0.5)).mean())
    return round_all(figures)


def refine_by_pydensecrf(prob: np.ndarray, image: np.ndarray, options: CRFOptions) -> np.ndarray:
    """Refine probabilities by pydensecrf2, (H, W)."""
    import pydensecrf.densecrf as densecrf

    _, height, width = prob.shape
    known = np.concatenate([prob, 1 - prob]).reshape(2, -1).clip(1e-5, 1 - 1e-5)
    model = densecrf.DenseCRF2D(width, height, 2)
    model.setUnaryEnergy(np.ascontiguousarray(-np.log(known)))
    model.addPairwiseGaussian(sxy=options.gaussian_sigma, compat=options.gaussian_weight)
    model.addPairwiseBilateral(
        sxy=options.bilateral_sigma,
        srgb=options.colour_sigma,
        rgbim=np.ascontiguousarray(image.transpose(1, 2, 0)),
        compat=options.bilateral_weight,
    )
    return np.array(model.inference(options.iterations))[0].reshape(height, width)


def measure(function: Callable[[], np.ndarray], repeat: int) -> tuple[float, np.ndarray]:
    """Return the minimum CPU seconds of some runs, and the result."""
    best, result = float("inf"), np.empty(0)
    for _ in range(repeat):
        start = time.process_time()
        result = function()
        best = min(best, time.process_time() - start)
    return best, result


def round_all(figures: dict[str, float]) -> dict[str, float]:
    """Round to four significant digits."""
    return {name: float(f"{figure:.4g}") for name, figure in figures.items()}


if __name__ == "__main__":
    main()
