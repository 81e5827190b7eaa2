"""Plans of tiles: every pixel is covered, weights are positive and meet in sum 1."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rasterio.windows import Window

from geoseg.errors import ConfigError
from geoseg.tiling import Tile, TilePlan, blend_weights, tile_starts


@st.composite
def axes(draw):
    """Length, size, overlap of one axis."""
    size = draw(st.integers(1, 40))
    return draw(st.integers(1, 200)), size, draw(st.integers(0, size // 2))


@given(axes())
def test_starts_are_a_regular_grid_whose_last_tile_shifts_inward(axis):
    length, size, overlap = axis
    starts = tile_starts(length, size, overlap)
    assert starts[0] == 0
    assert starts[:-1] == [i * (size - overlap) for i in range(len(starts) - 1)]
    assert starts[-1] == max(0, length - size)
    gaps = np.diff(starts)
    assert (gaps > 0).all()
    assert (gaps <= size - overlap).all()


@pytest.mark.parametrize(
    ("length", "starts"),
    [(1, [0]), (256, [0]), (257, [0, 1]), (448, [0, 192]), (449, [0, 192, 193]),
     (700, [0, 192, 384, 444])],
)  # fmt: skip
def test_starts_by_hand(length, starts):
    assert tile_starts(length, 256, 64) == starts


@given(axes())
def test_weights_of_an_axis_are_positive_and_meet_in_one(axis):
    length, size, overlap = axis
    starts = tile_starts(length, size, overlap)
    total = np.zeros(max(length, size))
    for index, start in enumerate(starts):
        weights = blend_weights(starts, index, size, overlap)
        assert weights.dtype == np.float32
        assert (weights > 0).all()
        assert (weights <= 1).all()
        total[start : start + size] += weights
    assert (total[:length] > 0).all()
    # Up to where the last tile was shifted inward, flanks meet exactly.
    regular = starts[-1] if len(starts) > 1 else length
    np.testing.assert_allclose(total[:regular], 1, atol=1e-6)


def test_weights_by_hand():
    starts = [0, 4, 8]
    flank = [0.1464466, 0.8535534]  # ½(1-cos(π/4)), ½(1-cos(3π/4))
    assert blend_weights(starts, 0, 6, 2) == pytest.approx([1, 1, 1, 1, *flank[::-1]], abs=1e-6)
    assert blend_weights(starts, 1, 6, 2) == pytest.approx([*flank, 1, 1, *flank[::-1]], abs=1e-6)
    assert blend_weights(starts, 2, 6, 2) == pytest.approx([*flank, 1, 1, 1, 1], abs=1e-6)
    assert (blend_weights([0], 0, 6, 2) == 1).all()
    assert (blend_weights(starts, 1, 6, 0) == 1).all()


@st.composite
def plans(draw):
    size = draw(st.integers(1, 24))
    return TilePlan(
        draw(st.integers(1, 60)), draw(st.integers(1, 60)), size, draw(st.integers(0, size // 2))
    )


@given(plans())
def test_a_plan_covers_the_scene_row_by_row(plan):
    tiles = list(plan)
    assert len(tiles) == len(plan) == len(plan.rows) * len(plan.columns)
    assert [(t.row, t.column) for t in tiles] == sorted({(t.row, t.column) for t in tiles})
    hits = np.zeros((plan.height, plan.width), dtype=int)
    weight = np.zeros((plan.height, plan.width))
    for tile in tiles:
        rows, columns = tile.window.toslices()
        assert rows.stop <= plan.height
        assert columns.stop <= plan.width
        assert (tile.window.row_off, tile.window.col_off) == (
            plan.rows[tile.row], plan.columns[tile.column],
        )  # fmt: skip
        assert plan.weights(tile).shape == hits[rows, columns].shape
        hits[rows, columns] += 1
        weight[rows, columns] += plan.weights(tile)
    assert hits.min() >= 1
    assert weight.min() > 0
    if plan.overlap == 0 and plan.height % plan.size == plan.width % plan.size == 0:
        assert hits.max() == 1


def test_the_tiles_of_a_small_plan():
    assert list(TilePlan(10, 13, 8, 2)) == [
        Tile(0, 0, Window(0, 0, 8, 8)),
        Tile(0, 1, Window(5, 0, 8, 8)),
        Tile(1, 0, Window(0, 2, 8, 8)),
        Tile(1, 1, Window(5, 2, 8, 8)),
    ]
    assert list(TilePlan(3, 20, 8, 0))[-1] == Tile(0, 2, Window(12, 0, 8, 3))


@pytest.mark.parametrize(
    ("size", "overlap", "message"),
    [(0, 0, "at least 1 pixel, got 0"), (64, 33, r"half the tile size \(32\), got 33"),
     (64, -1, "between 0 and half")],
)  # fmt: skip
def test_plans_that_cannot_be(size, overlap, message):
    with pytest.raises(ConfigError, match=message):
        TilePlan(100, 200, size, overlap)
