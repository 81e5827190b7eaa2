"""Samplers: reproducible from seed and epoch, balanced, and split among processes."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geoseg.training.loading.sampling import (
    BalancedSampler,
    Draw,
    HardSampler,
    PlaceSampler,
    TileSampler,
    UniformSampler,
)


def tiles_of(sampler):
    return [draw.tile for draw in sampler]


def test_each_pass_shows_every_tile_once_in_a_new_order():
    sampler = UniformSampler(7, passes=3, seed=1)
    order = tiles_of(sampler)
    assert len(sampler) == len(order) == 21
    passes = [order[start : start + 7] for start in (0, 7, 14)]
    assert all(sorted(one) == list(range(7)) for one in passes)
    assert passes[0] != passes[1]
    assert all(draw == Draw(draw.tile, 0, 0) for draw in sampler)


def make(kind, **settings):
    pixels = np.array([[90, 10, 0], [100, 0, 0], [30, 0, 70], [0, 50, 50], [80, 20, 0]] * 3)
    samplers = {
        "uniform": lambda: UniformSampler(15, **settings),
        "balanced": lambda: BalancedSampler(pixels, exclusive=True, **settings),
        "hard": lambda: HardSampler(15, **settings),
        "places": lambda: PlaceSampler(np.repeat([0, 1, 2], [9, 4, 2]), np.ones(15), **settings),
    }
    return samplers[kind]()


kinds = pytest.mark.parametrize("kind", ["uniform", "balanced", "hard", "places"])


@kinds
def test_draws_depend_on_seed_and_epoch_only(kind):
    sampler, again = (make(kind, passes=2, jitter_px=9, seed=4) for _ in range(2))
    first = list(sampler)
    assert first == list(sampler) == list(again)
    sampler.set_epoch(1)
    assert list(sampler) != first
    again.set_epoch(1)
    assert list(again) == list(sampler)
    sampler.set_epoch(0)
    assert list(sampler) == first
    assert list(make(kind, passes=2, jitter_px=9, seed=5)) != first


@kinds
def test_draws_are_shifted_by_up_to_the_jitter_in_both_directions(kind):
    draws = np.array(list(make(kind, passes=200, jitter_px=3)))
    for moves in (draws[:, 1], draws[:, 2]):
        assert set(moves.tolist()) == set(range(-3, 4))
    assert abs(np.corrcoef(draws[:, 1], draws[:, 2])[0, 1]) < 0.1


@kinds
@given(world=st.integers(1, 4), batch=st.integers(1, 5), passes=st.integers(1, 4))
def test_processes_share_each_global_batch(kind, world, batch, passes):
    settings = {"passes": passes, "jitter_px": 5, "seed": 2}
    whole = list(make(kind, **settings))
    ranks = [make(kind, rank=r, world=world, batch_size=batch, **settings) for r in range(world)]
    parts = [list(sampler) for sampler in ranks]
    assert [len(part) for part in parts] == [len(sampler) for sampler in ranks]
    steps = len(whole) // (batch * world)
    for step in range(steps):
        together = [draw for part in parts for draw in part[step * batch : (step + 1) * batch]]
        start = step * batch * world
        assert together == whole[start : start + batch * world]
    if world > 1:
        assert all(len(part) == steps * batch for part in parts)


@given(built=st.integers(1, 60), bare=st.integers(1, 60), passes=st.integers(1, 20))
def test_half_of_the_draws_have_buildings(built, bare, passes):
    pixels = np.array([[90, 10]] * built + [[100, 0]] * bare)
    order = tiles_of(BalancedSampler(pixels, exclusive=False, passes=passes))
    counts = np.bincount(order, minlength=len(pixels))
    for part in (counts[:built], counts[built:]):
        expected = len(order) / 2 / len(part)
        assert (np.abs(part - expected) < 1).all()
    assert counts[:built].sum() == pytest.approx(len(order) / 2, abs=built)


def test_tiles_of_one_class_are_drawn_uniformly():
    for pixels in ([[90, 10]] * 6, [[100, 0]] * 6):
        order = tiles_of(BalancedSampler(np.array(pixels), exclusive=False, passes=3))
        assert np.bincount(order).tolist() == [3] * 6


def test_each_present_class_gets_an_equal_number_of_draws():
    # Tiles of one class each: 90, 9 and 1 of them; a fourth class has no pixel.
    pixels = np.zeros((100, 4))
    pixels[:90, 0] = pixels[90:99, 1] = pixels[99:, 2] = 64
    order = np.array(tiles_of(BalancedSampler(pixels, exclusive=True, passes=30)))
    counts = np.bincount(np.digitize(order, [90, 99]))
    np.testing.assert_allclose(counts, 1000, atol=60)
    # Tiles share a class by their pixels of it.
    pixels = np.array([[10, 30], [30, 10], [0, 0]])
    order = tiles_of(BalancedSampler(pixels, exclusive=True, passes=100))
    assert np.bincount(order).tolist() == [150, 150]


@given(
    st.lists(st.lists(st.floats(0.01, 1), min_size=1, max_size=40), min_size=1, max_size=6),
    st.integers(1, 5),
    st.integers(0, 9),
)
def test_places_are_drawn_by_the_square_root_of_their_valid_pixels(places, passes, seed):
    sizes = [len(valid) for valid in places]
    of_tile, valid = np.repeat(np.arange(len(places)), sizes), np.concatenate(places)
    mixed = np.random.default_rng(seed).permutation(len(valid))  # tiles of a place are scattered
    sampler = PlaceSampler(of_tile[mixed], valid[mixed], passes=passes, seed=seed)
    order = np.array(tiles_of(sampler))
    assert len(order) == len(sampler) == passes * len(valid)  # the epoch keeps its length
    roots = np.array([sum(valid) for valid in places]) ** 0.5
    expected = len(order) * roots / roots.sum()
    drawn = np.bincount(of_tile[mixed][order], minlength=len(places))
    assert (np.abs(drawn - expected) < 1 + 1e-6).all()
    of_tiles = np.bincount(order, minlength=len(valid))
    assert (np.abs(of_tiles - (expected / sizes)[of_tile[mixed]]) < 1 + 1e-6).all()


def test_a_place_of_one_percent_gets_nine_percent_of_the_draws():
    sampler = PlaceSampler(np.repeat([0, 1], [1, 99]), np.ones(100), passes=10)
    assert tiles_of(sampler).count(0) in (90, 91)
    alone = PlaceSampler(np.zeros(7, int), np.linspace(0.1, 1, 7), passes=3)
    assert np.bincount(tiles_of(alone)).tolist() == [3] * 7


def test_hard_tiles_are_drawn_more_often_and_all_tiles_are_drawn():
    sampler = HardSampler(10, passes=100)
    assert np.bincount(tiles_of(sampler)).tolist() == [100] * 10
    sampler.update(np.arange(10), np.array([9.0] + [0.0] * 8 + [np.nan]))
    counts = np.bincount(tiles_of(sampler), minlength=10)
    # By hand: half of 1000 uniformly; the other half by 9, 0 ..., and the mean 1 without a loss.
    np.testing.assert_allclose(counts, [50 + 450] + [50] * 8 + [50 + 50], atol=1)


def test_losses_are_a_moving_average():
    sampler = HardSampler(2, passes=50)
    sampler.update(np.array([0, 1, 0, 0]), np.array([4.0, 1.0, 2.0, np.inf]))
    # 4, then halfway to 2: weights 3/4 and 1/4 of the half that depends on losses.
    np.testing.assert_allclose(np.bincount(tiles_of(sampler)), [25 + 37.5, 25 + 12.5], atol=1)


def test_without_losses_draws_are_uniform():
    sampler = HardSampler(4)
    sampler.update(np.arange(4), np.zeros(4))
    assert sorted(tiles_of(sampler)) == [0, 1, 2, 3]


def test_a_resumed_run_draws_the_same():
    sampler = HardSampler(20, passes=3, seed=3)
    sampler.update(np.arange(15), np.random.default_rng(0).random(15))
    file = io.BytesIO()
    torch.save(sampler.state_dict(), file)
    sampler.set_epoch(5)
    order = list(sampler)
    file.seek(0)
    resumed = HardSampler(20, passes=3, seed=3)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    resumed.set_epoch(5)
    assert list(resumed) == order
    other = HardSampler(7)
    other.load_state_dict(sampler.state_dict())
    assert sorted(tiles_of(other)) == list(range(7))


def test_tile_sampler_returns_the_tiles_of_the_draws():
    draws = UniformSampler(5, passes=2, jitter_px=4, seed=1)
    tiles = TileSampler(draws)
    assert list(tiles) == tiles_of(draws)
    assert len(tiles) == 10
    tiles.set_epoch(3)
    assert draws.epoch == 3
