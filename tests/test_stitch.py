"""Stitching of tiles: cutting an array into tiles and stitching them gives the array."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from geoseg.geo.tiling import BLENDS, TileGrid
from geoseg.prediction.stitching import Stitcher, TileBlock


@st.composite
def plans(draw):
    size = draw(st.integers(1, 24))
    return TileGrid(
        draw(st.integers(1, 60)), draw(st.integers(1, 60)), size,
        draw(st.integers(0, size // 2)), draw(st.sampled_from(sorted(BLENDS))),
    )  # fmt: skip


def part_of(draw, count):
    first = draw(st.integers(0, count - 1))
    return first, draw(st.integers(first + 1, count))


def cut(plan, tile, array):
    """A tile's part of an array (C, H, W), filled up to the tile's size."""
    part = array[(..., *tile.window.toslices())]
    pads = [(0, plan.size - length) for length in part.shape[1:]]
    return torch.from_numpy(np.pad(part, [(0, 0), *pads], constant_values=7))


def stitch(block, probs, channels):
    """Return the stitched block (C, h, w), and its slices of the scene."""
    stitcher = Stitcher(block, channels)
    strips = [block.strip(row) for row in range(*block.rows)]
    top, left, width = strips[0].row_off, strips[0].col_off, strips[0].width
    found = np.full((channels, sum(strip.height for strip in strips), width), np.nan, np.float32)
    for tile in block:
        window, blended = stitcher.add(tile, probs(tile))
        assert blended.shape == (channels, window.height, window.width)
        if block.contains(tile):
            rows, columns = window.toslices()
            place = (
                slice(None),
                slice(rows.start - top, rows.stop - top),
                slice(columns.start - left, columns.stop - left),
            )
            assert np.isnan(found[place]).all()  # each pixel becomes final once
            found[place] = blended.numpy()
    assert not np.isnan(found).any()
    return found, (slice(top, top + found.shape[1]), slice(left, left + width))


@given(plans(), st.integers(1, 3), st.integers(0, 1000))
def test_cut_and_stitched_arrays_are_unchanged(plan, channels, seed):
    array = np.random.default_rng(seed).random((channels, plan.height, plan.width), np.float32)
    found, _ = stitch(TileBlock.whole(plan), lambda tile: cut(plan, tile, array), channels)
    assert found.shape == array.shape
    np.testing.assert_allclose(found, array, atol=1e-6, rtol=1e-6)


@given(plans(), st.floats(0, 1, width=32))
def test_a_constant_stays_constant_up_to_the_border(plan, value):
    tile = torch.full((1, plan.size, plan.size), value)
    found, _ = stitch(TileBlock.whole(plan), lambda _: tile, 1)
    np.testing.assert_allclose(found, value, atol=1e-7, rtol=0)


@given(st.data())
def test_a_block_has_the_same_bytes_as_the_whole_scene(data):
    plan = data.draw(plans())
    values = np.random.default_rng(data.draw(st.integers(0, 99)))
    probs = {
        tile.window: torch.from_numpy(values.random((2, plan.size, plan.size), np.float32))
        for tile in plan
    }
    whole, _ = stitch(TileBlock.whole(plan), lambda tile: probs[tile.window], 2)
    rows = part_of(data.draw, len(plan.rows))
    columns = part_of(data.draw, len(plan.columns))
    found, place = stitch(TileBlock(plan, rows, columns), lambda tile: probs[tile.window], 2)
    assert np.array_equal(found, whole[(slice(None), *place)])


@given(plans(), st.data())
def test_blended_values_are_between_those_of_the_tiles(plan, data):
    shape = (len(plan),)
    values = data.draw(nps.arrays(np.float32, shape, elements=st.floats(0, 1, width=32)))
    constants = dict(zip((tile.window for tile in plan), values, strict=True))
    found, _ = stitch(
        TileBlock.whole(plan),
        lambda tile: torch.full((1, plan.size, plan.size), float(constants[tile.window])),
        1,
    )
    low, high = np.full_like(found[0], np.inf), np.full_like(found[0], -np.inf)
    for window, value in constants.items():
        place = window.toslices()
        low[place], high[place] = np.minimum(low[place], value), np.maximum(high[place], value)
    assert (found[0] >= low - 1e-6).all()
    assert (found[0] <= high + 1e-6).all()


@given(plans(), st.data())
def test_empty_tiles_add_nothing(plan, data):
    kept = data.draw(st.lists(st.booleans(), min_size=len(plan), max_size=len(plan)))
    chosen = dict(zip((tile.window for tile in plan), kept, strict=True))
    ones = torch.ones((1, plan.size, plan.size))
    found, _ = stitch(TileBlock.whole(plan), lambda tile: ones if chosen[tile.window] else None, 1)
    covered = np.zeros((plan.height, plan.width), dtype=bool)
    alone = np.ones((plan.height, plan.width), dtype=bool)
    for window, keep in chosen.items():
        covered[window.toslices()] |= keep
        alone[window.toslices()] &= keep
    assert (found[0][~covered] == 0).all()
    np.testing.assert_allclose(found[0][alone], 1, atol=1e-6)


@pytest.mark.parametrize(
    ("blend", "flank"),
    [("cosine", [0.1464466, 0.8535534]), ("crop", [0, 1]), ("mean", [0.5, 0.5])],
)
def test_weights_between_two_tiles(blend, flank):
    plan = TileGrid(3, 10, 6, 2, blend)
    found, _ = stitch(
        TileBlock.whole(plan), lambda tile: torch.full((1, 6, 6), float(tile.column)), 1
    )
    assert found[0, 1] == pytest.approx([0, 0, 0, 0, *flank, 1, 1, 1, 1], abs=2e-4)


def test_the_last_tile_is_blended_at_the_end_of_the_one_before():
    # Starts 0, 4, 5: the third tile overlaps most of the second one, but they are blended only in
    # the last two pixels of the second.
    plan = TileGrid(6, 11, 6, 2)
    found, _ = stitch(
        TileBlock.whole(plan), lambda tile: torch.full((1, 6, 6), float(tile.column)), 1
    )
    rise, fall = 0.8535534, 0.1464466
    assert found[0, 3] == pytest.approx(
        [0, 0, 0, 0, fall, rise, 1, 1, 1 + fall, 1 + rise, 2], abs=2e-4
    )
