"""Tiles blended into rows: what is cut and stitched again is what it was."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from geoseg.stitch import RollingBand, stitch_rows
from geoseg.tiling import TilePlan


@st.composite
def plans(draw):
    size = draw(st.integers(1, 24))
    return TilePlan(
        draw(st.integers(1, 60)), draw(st.integers(1, 60)), size, draw(st.integers(0, size // 2))
    )


def cut(plan, array):
    for tile in plan:
        yield tile, array[(..., *tile.window.toslices())]


def stitch(plan, tiles, channels):
    blocks, row = [], 0
    for start, block in stitch_rows(plan, tiles, channels):
        assert start == row
        assert block.dtype == np.float32
        assert 0 < block.shape[1] <= plan.size
        blocks.append(block)
        row += block.shape[1]
    assert row == plan.height
    return np.concatenate(blocks, axis=1)


@given(plans(), st.integers(1, 3), st.integers(0, 1000))
def test_what_is_cut_and_stitched_is_what_it_was(plan, channels, seed):
    array = np.random.default_rng(seed).random((channels, plan.height, plan.width), np.float32)
    found = stitch(plan, cut(plan, array), channels)
    np.testing.assert_allclose(found, array, atol=1e-6, rtol=1e-6)


@given(plans(), st.floats(0, 1, width=32))
def test_a_constant_stays_constant_to_the_very_border(plan, value):
    array = np.full((1, plan.height, plan.width), value, dtype=np.float32)
    found = stitch(plan, cut(plan, array), 1)
    np.testing.assert_allclose(found, value, atol=1e-6, rtol=0)


@given(plans(), st.data())
def test_a_blend_lies_between_what_the_tiles_say(plan, data):
    shape = (len(plan),)
    values = data.draw(nps.arrays(np.float32, shape, elements=st.floats(0, 1, width=32)))
    tiles = [
        (tile, np.full((1, int(tile.window.height), int(tile.window.width)), value))
        for tile, value in zip(plan, values, strict=True)
    ]
    found = stitch(plan, tiles, 1)[0]
    low, high = np.full_like(found, np.inf), np.full_like(found, -np.inf)
    for tile, prob in tiles:
        place = tile.window.toslices()
        low[place], high[place] = np.minimum(low[place], prob[0]), np.maximum(high[place], prob[0])
    assert (found >= low - 1e-6).all()
    assert (found <= high + 1e-6).all()


@given(plans(), st.data())
def test_tiles_that_are_left_out_leave_zero_where_nobody_else_covers(plan, data):
    kept = data.draw(st.lists(st.booleans(), min_size=len(plan), max_size=len(plan)))
    tiles = [pair for pair, keep in zip(cut(plan, np.ones((1, 60, 60))), kept, strict=True) if keep]
    covered = np.zeros((plan.height, plan.width), dtype=bool)
    for tile, _ in tiles:
        covered[tile.window.toslices()] = True
    np.testing.assert_allclose(stitch(plan, tiles, 1)[0], covered, atol=1e-6)


def test_two_tiles_meet_in_a_cosine():
    plan = TilePlan(3, 10, 6, 2)
    tiles = [(tile, np.full((1, 3, 6), tile.column, dtype=np.float32)) for tile in plan]
    found = stitch(plan, tiles, 1)[0, 1]
    assert found == pytest.approx([0, 0, 0, 0, 0.1464466, 0.8535534, 1, 1, 1, 1], abs=1e-6)


def test_the_band_holds_no_more_than_a_tile_row():
    band = RollingBand(2, 8, 30)
    band.add(np.ones((2, 8, 8), np.float32), np.ones((8, 8), np.float32), 22)
    first = band.advance(3)
    assert first.shape == (2, 3, 30)
    assert first[0, 0].tolist() == [0] * 22 + [1] * 8
    band.add(np.zeros((2, 8, 8), np.float32), np.ones((8, 8), np.float32), 22)
    assert band.advance(8)[1, :, 25].tolist() == [0.5] * 5 + [0] * 3
    assert band.advance(8).sum() == 0
