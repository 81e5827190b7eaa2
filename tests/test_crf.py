"""Dense CRF, compared with the exact sum over all pairs of pixels and with blocks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from geoseg.errors import GridMismatchError
from geoseg.options import CRFOptions
from geoseg.prediction.crf.blockwise import block_windows, refine_block
from geoseg.prediction.crf.lattice import Lattice
from geoseg.prediction.crf.mean_field import refine

DEEPLAB = CRFOptions(gaussian_sigma=1, bilateral_sigma=67, colour_sigma=3)
DEMO = CRFOptions(bilateral_weight=10, bilateral_sigma=80, colour_sigma=13, iterations=5)


def exact_mean_field(prob, image, valid, options):
    """Krähenbühl and Koltun's update by the sum over all pairs of pixels, the pixel itself
    included, with both kernels normalised symmetrically; in double precision."""
    rows, columns = np.nonzero(valid)
    places = np.stack([rows, columns], axis=1).astype(np.float64)
    colours = image[:, valid].T.astype(np.float64)
    known = prob[:, valid].astype(np.float64)
    labels = np.concatenate([known, 1 - known]) if len(known) == 1 else known
    labels = labels.clip(1e-5, 1 - 1e-5)
    apart = ((places[:, None] - places[None]) ** 2).sum(-1)
    unlike = ((colours[:, None] - colours[None]) ** 2).sum(-1)
    smooth = np.exp(-apart / (2 * options.gaussian_sigma**2))
    bilateral = np.exp(
        -apart / (2 * options.bilateral_sigma**2) - unlike / (2 * options.colour_sigma**2)
    )
    pairs = np.zeros_like(apart)
    for weight, kernel in (
        (options.gaussian_weight, smooth),
        (options.bilateral_weight, bilateral),
    ):
        norm = 1 / np.sqrt(kernel.sum(axis=1))
        pairs += weight * norm[:, None] * kernel * norm
    unary = np.log(labels)
    q = softmax(unary, axis=0)
    for _ in range(options.iterations):
        q = softmax(unary + q @ pairs, axis=0)
    refined = prob.astype(np.float64)
    refined[:, valid] = q[: len(prob)]
    return refined


def coloured_fields(seed, height, width, bands, classes):
    """Return rectangles of distinct colours, and uncertain probabilities of their classes."""
    rng = np.random.default_rng(seed)
    field = np.zeros((height, width), dtype=int)
    for number in range(1, 5):
        h, w = rng.integers(8, 20, 2)
        y, x = rng.integers(0, height - h), rng.integers(0, width - w)
        field[y : y + h, x : x + w] = number
    palette = np.stack([rng.permutation(5) for _ in range(bands)]) * 40 + 40
    image = np.clip(np.rint(palette[:, field] + rng.normal(0, 3, (bands, height, width))), 0, 255)
    truth = field % classes
    scores = np.eye(classes)[truth].transpose(2, 0, 1) * 2.5
    prob = softmax(scores + rng.normal(0, 0.7, scores.shape), axis=0).astype(np.float32)
    return image.astype(np.float32), prob if classes > 2 else prob[1:], truth


def winners(prob):
    """The label of each pixel: of one class, whether it is more likely than not."""
    return prob[0] >= 0.5 if len(prob) == 1 else prob.argmax(axis=0)


SHAPES = {2: (32, 41), 3: (40, 36), 4: (48, 33)}


@pytest.mark.parametrize("options", [CRFOptions(), DEEPLAB, DEMO])
@pytest.mark.parametrize("bands", [1, 3, 4])
@pytest.mark.parametrize("classes", [2, 3, 4])
def test_labels_agree_with_the_exact_mean_field(options, bands, classes):
    height, width = SHAPES[classes]
    valid = np.ones((height, width), dtype=bool)
    for seed in range(3):
        image, prob, truth = coloured_fields(seed, height, width, bands, classes)
        exact = exact_mean_field(prob, image, valid, options)
        found = refine(prob, image, valid, options)
        assert (winners(found) == winners(exact)).all()
        assert np.abs(found - exact).mean() < 0.001
        assert (winners(found) != truth).mean() < 0.2 * (winners(prob) != truth).mean()


@pytest.mark.parametrize("options", [CRFOptions(), DEEPLAB, DEMO])
@pytest.mark.parametrize("bands", [1, 4])
def test_a_single_iteration_agrees_with_the_exact_one(options, bands):
    once = options.model_copy(update={"iterations": 1})
    image, prob, _ = coloured_fields(7, 38, 44, bands, 3)
    valid = np.random.default_rng(0).random((38, 44)) < 0.9
    exact = exact_mean_field(prob, image, valid, once)
    found = refine(prob, image, valid, once)
    assert np.abs(exact - prob)[:, valid].mean() > 0.1
    assert np.abs(found - exact).max() < 0.1
    assert np.abs(found - exact).mean() < 0.005


@given(st.integers(1, 6), st.integers(0, 10_000))
def test_sums_over_the_lattice_approximate_the_exact_sums(dimensions, seed):
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 4, (dimensions, 200))
    lattice = Lattice(points)
    kernel = lattice(np.eye(200, dtype=np.float32))
    true = np.exp(-0.5 * ((points[:, :, None] - points[:, None]) ** 2).sum(axis=0))
    # Of 1,500 sets of points the worst was 0.049 off in 5 dimensions, and 0.056 in 6.
    np.testing.assert_allclose(np.diag(kernel), 1, atol=0.05 if dimensions < 6 else 0.07)
    assert np.sqrt(((kernel - kernel.T) ** 2).mean()) < 0.005
    assert np.sqrt(((kernel - true) ** 2).mean()) < 0.03
    values = rng.random((2, 200)).astype(np.float32)
    np.testing.assert_allclose(lattice(values), values @ kernel, rtol=1e-4, atol=1e-4)


@given(st.integers(0, 10_000), st.sampled_from([2, 3]))
@settings(max_examples=10)
def test_the_order_of_labels_does_not_matter(seed, classes):
    image, prob, _ = coloured_fields(seed, 24, 31, 3, classes)
    valid = np.ones((24, 31), dtype=bool)
    found = refine(prob, image, valid)
    if classes == 2:
        np.testing.assert_allclose(refine(1 - prob, image, valid), 1 - found, atol=1e-3)
    else:
        order = [2, 0, 1]
        np.testing.assert_allclose(refine(prob[order], image, valid), found[order], atol=1e-3)
        np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)


def test_nodata_does_not_change_or_influence_pixels():
    image, prob, _ = coloured_fields(3, 40, 31, 3, 2)
    valid = np.ones((40, 31), dtype=bool)
    valid[:, 20:] = False
    found = refine(prob, image, valid)
    assert (found[:, ~valid] == prob[:, ~valid]).all()
    image[:, ~valid], other = np.nan, prob.copy()
    other[:, ~valid] = np.nan
    assert (refine(other, image, valid)[:, valid] == found[:, valid]).all()
    np.testing.assert_allclose(
        found[:, :, :20],
        refine(prob[:, :, :20], image[:, :, :20], valid[:, :20]),
        atol=1e-4,
    )
    nowhere = np.zeros_like(valid)
    assert (refine(prob, image, nowhere) == prob).all()


def test_kernels_of_weight_0_do_not_change_probabilities():
    image, prob, _ = coloured_fields(5, 26, 30, 3, 3)
    off = CRFOptions(gaussian_weight=0, bilateral_weight=0)
    valid = np.ones((26, 30), dtype=bool)
    np.testing.assert_allclose(refine(prob, image, valid, off), prob, atol=1e-6)


def test_an_outline_moves_to_the_edge_in_the_colours():
    image = np.full((3, 60, 80), 90.0, dtype=np.float32)
    image[:, 20:42, 25:55] = 160
    prob = np.full((1, 60, 80), 0.1, dtype=np.float32)
    prob[:, 23:45, 22:52] = 0.9  # three pixels off on both axes
    found = refine(prob, image, np.ones((60, 80), dtype=bool), CRFOptions(bilateral_weight=10))
    assert ((found[0] > 0.5) == (image[0] == 160)).all()


def test_different_shapes_are_refused():
    image, prob, _ = coloured_fields(0, 24, 30, 3, 2)
    with pytest.raises(GridMismatchError, match=r"24, 30.*24, 29"):
        refine(prob, image, np.ones((24, 29), dtype=bool))


def test_blocks_agree_with_the_whole_scene():
    options = CRFOptions(bilateral_sigma=8)
    image, prob, _ = coloured_fields(11, 150, 190, 3, 2)
    valid = np.random.default_rng(1).random((150, 190)) < 0.98
    whole = refine(prob, image, valid, options)

    def read(window):
        part = (slice(None), *window.toslices())
        return prob[part], image[part], valid[part[1:]]

    found = np.full_like(whole, np.nan)
    windows = block_windows((150, 190), 64)
    assert len(windows) == 9
    for window in windows:
        rows, columns = window.toslices()
        found[:, rows, columns] = refine_block(read, window, (150, 190), options)
    assert (winners(found) == winners(whole)).mean() > 0.9999
    assert np.abs(found - whole).mean() < 1e-4


@pytest.mark.parametrize("options", [CRFOptions(), DEEPLAB])
def test_it_agrees_with_pydensecrf(options):
    pydensecrf = pytest.importorskip("pydensecrf.densecrf", reason="no pydensecrf2 is installed")
    image, prob, _ = coloured_fields(2, 40, 36, 3, 3)
    model = pydensecrf.DenseCRF2D(36, 40, 3)
    model.setUnaryEnergy(-np.log(prob.reshape(3, -1).clip(1e-5, 1 - 1e-5)))
    model.addPairwiseGaussian(sxy=options.gaussian_sigma, compat=options.gaussian_weight)
    model.addPairwiseBilateral(
        sxy=options.bilateral_sigma,
        srgb=options.colour_sigma,
        rgbim=np.ascontiguousarray(image.transpose(1, 2, 0).astype(np.uint8)),
        compat=options.bilateral_weight,
    )
    theirs = np.array(model.inference(options.iterations)).reshape(prob.shape)
    found = refine(prob, image, np.ones((40, 36), dtype=bool), options)
    assert (winners(found) == winners(theirs)).all()
