"""Plans of tiles: every pixel is covered, weights are positive and meet in sum 1."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rasterio.windows import Window

from geoseg.errors import ConfigError
from geoseg.geo.tiling import BLENDS, Axis, Tile, TileGrid, blend_weights


@st.composite
def axes(draw):
    size = draw(st.integers(1, 40))
    return Axis(
        draw(st.integers(1, 200)), size, draw(st.integers(0, size // 2)),
        draw(st.sampled_from(sorted(BLENDS))),
    )  # fmt: skip


@given(axes())
def test_starts_are_a_regular_grid_whose_last_tile_shifts_inward(axis):
    starts, stride = axis.starts, axis.size - axis.overlap
    assert starts[0] == 0
    assert list(starts[:-1]) == [i * stride for i in range(len(starts) - 1)]
    assert starts[-1] == max(0, axis.length - axis.size)
    gaps = np.diff(starts)
    assert (gaps > 0).all()
    assert (gaps <= stride).all()


@pytest.mark.parametrize(
    ("length", "starts"),
    [(1, [0]), (256, [0]), (257, [0, 1]), (448, [0, 192]), (449, [0, 192, 193]),
     (700, [0, 192, 384, 444])],
)  # fmt: skip
def test_starts_by_hand(length, starts):
    assert list(Axis(length, 256, 64).starts) == starts


@given(axes())
def test_weights_of_all_tiles_sum_to_one(axis):
    total = np.zeros(axis.length)
    for index in range(len(axis)):
        weights, begin, end = axis.weights(index), axis.begin(index), axis.end(index)
        assert weights.dtype == np.float32
        assert axis.starts[index] <= begin < end <= axis.starts[index] + axis.size
        assert (weights >= 0).all()
        assert (weights <= 1).all()
        total[begin:end] += weights
    assert (total == 1).all()


@given(axes())
def test_pixels_are_settled_once_and_in_order(axis):
    spans = [(axis.begin(i), axis.complete_until(i)) for i in range(len(axis))]
    assert spans[0][0] == 0
    assert [end for _, end in spans] == [*(begin for begin, _ in spans[1:]), axis.length]
    assert all(begin < end for begin, end in spans)


@given(axes())
def test_the_scenes_border_counts_in_full(axis):
    assert axis.weights(0)[0] == 1
    assert axis.weights(len(axis) - 1)[-1] == 1


def test_weights_by_hand():
    flank = [0.1464466, 0.8535534]  # ½(1-cos(π/4)), ½(1-cos(3π/4))
    both = [*flank, 1, 1, *flank[::-1]]
    assert blend_weights(6, 2) == pytest.approx(both, abs=2e-4)
    assert blend_weights(6, 2, rises=False) == pytest.approx([1, 1, 1, 1, *flank[::-1]], abs=2e-4)
    assert blend_weights(6, 2, falls=False) == pytest.approx([*flank, 1, 1, 1, 1], abs=2e-4)
    assert blend_weights(6, 2, blend="mean").tolist() == [0.5, 0.5, 1, 1, 0.5, 0.5]
    assert blend_weights(7, 3, blend="crop").tolist() == [0, 0.5, 1, 1, 1, 0.5, 0]
    assert (blend_weights(6, 0) == 1).all()


@st.composite
def plans(draw):
    size = draw(st.integers(1, 24))
    return TileGrid(
        draw(st.integers(1, 60)), draw(st.integers(1, 60)), size, draw(st.integers(0, size // 2))
    )


@given(plans())
def test_a_plan_covers_the_scene_row_by_row(plan):
    tiles = list(plan)
    assert len(tiles) == len(plan) == len(plan.rows) * len(plan.columns)
    assert [(t.row, t.column) for t in tiles] == sorted({(t.row, t.column) for t in tiles})
    hits = np.zeros((plan.height, plan.width), dtype=int)
    for tile in tiles:
        rows, columns = tile.window.toslices()
        assert rows.stop <= plan.height
        assert columns.stop <= plan.width
        assert (tile.window.row_off, tile.window.col_off) == (
            plan.rows.starts[tile.row], plan.columns.starts[tile.column],
        )  # fmt: skip
        hits[rows, columns] += 1
    assert hits.min() >= 1
    if plan.overlap == 0 and plan.height % plan.size == plan.width % plan.size == 0:
        assert hits.max() == 1


def test_the_tiles_of_a_small_plan():
    assert list(TileGrid(10, 13, 8, 2)) == [
        Tile(0, 0, Window(0, 0, 8, 8)),
        Tile(0, 1, Window(5, 0, 8, 8)),
        Tile(1, 0, Window(0, 2, 8, 8)),
        Tile(1, 1, Window(5, 2, 8, 8)),
    ]
    assert list(TileGrid(3, 20, 8, 0))[-1] == Tile(0, 2, Window(12, 0, 8, 3))


@pytest.mark.parametrize(
    ("size", "overlap", "message"),
    [(0, 0, "at least 1 pixel, got 0"), (64, 33, r"half the tile size \(32\), got 33"),
     (64, -1, "between 0 and half")],
)  # fmt: skip
def test_plans_that_cannot_be(size, overlap, message):
    with pytest.raises(ConfigError, match=message):
        TileGrid(100, 200, size, overlap)
