"""U-Net's weights of pixels against every pair of distances, worked out one by one."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geoseg.networks.losses import WeightMap, burn_separation, separation_reach


def by_brute_force(ids, sigma_px):
    """255 times the exponential, from the distance of each ground to each building pixel."""
    exact = np.zeros(ids.shape)
    buildings = [np.argwhere(ids == number) for number in np.unique(ids[ids != 0])]
    if len(buildings) < 2:
        return exact
    for y, x in np.argwhere(ids == 0):
        nearest = sorted(np.hypot(*(pixels - (y, x)).T).min() for pixels in buildings)
        exact[y, x] = 255 * math.exp(-((nearest[0] + nearest[1]) ** 2) / (2 * sigma_px**2))
    return exact


def test_the_gap_between_two_walls_by_hand():
    ids = np.array([[1, 0, 0, 0, 2, 0, 0]])
    # Between the walls d1 + d2 is 4 in every pixel; beyond the second it is 1 + 5, 2 + 6.
    gap, beyond, farther = (255 * math.exp(-(d**2) / 50) for d in (4, 6, 8))
    expected = [[0, gap, gap, gap, 0, beyond, farther]]
    np.testing.assert_array_equal(burn_separation(ids, 5), np.rint(expected))
    assert burn_separation(ids, 5)[0, 1] == 185


def test_the_two_nearest_of_three_buildings_count():
    ids = np.zeros((3, 9), int)
    ids[:, 0], ids[:, 2], ids[:, 6] = 7, 3, 5
    # Column 3 is 1 from the second, 3 from the first and 3 from the third; column 5 is 1 from
    # the third and 3 from the second; column 8 is 2 and 6.
    found = burn_separation(ids, 3)
    for column, distance in ((1, 2), (3, 4), (4, 4), (5, 4), (7, 6), (8, 8)):
        assert (found[:, column] == round(255 * math.exp(-(distance**2) / 18))).all()
    assert (found[ids != 0] == 0).all()


def test_one_building_has_no_gap():
    ids = np.zeros((20, 31), int)
    assert (burn_separation(ids, 5) == 0).all()
    ids[4:9, 5:16] = 3
    assert (burn_separation(ids, 5) == 0).all()
    ids[15:, 20:] = 3  # another part of it
    assert (burn_separation(ids, 5) == 0).all()
    assert (burn_separation(np.full((4, 6), 2), 5) == 0).all()
    assert (burn_separation(np.array([[1, 1, 2], [1, 2, 2]]), 5) == 0).all()


@given(
    height=st.integers(1, 14),
    width=st.integers(1, 14),
    buildings=st.integers(0, 6),
    sigma_px=st.floats(0.4, 8),
    seed=st.integers(0, 2**31),
)
def test_it_is_what_brute_force_finds(height, width, buildings, sigma_px, seed):
    random = np.random.default_rng(seed)
    ids = np.zeros((height, width + 1), np.int32)
    for number in random.permutation(90)[:buildings] + 1:
        top, left = random.integers(height), random.integers(width + 1)
        ids[top : top + random.integers(1, 5), left : left + random.integers(1, 5)] = number
    found = burn_separation(ids, sigma_px).astype(float)
    # Rounded to the nearest byte, and no further off.
    assert np.abs(found - by_brute_force(ids, sigma_px)).max() <= 0.5 + 1e-6


def test_beyond_the_reach_nothing_is_left():
    for sigma_px in (0.7, 2, 5, 11.3):
        reach = separation_reach(sigma_px)
        left, before = (255 * math.exp(-(d**2) / (2 * sigma_px**2)) for d in (reach, reach - 1))
        assert left < 0.5 <= before
    assert separation_reach(5) == 18


def test_a_window_with_the_reach_around_it_is_as_good_as_the_whole():
    random = np.random.default_rng(3)
    ids = np.zeros((90, 120), int)
    for number in range(1, 40):
        top, left = random.integers(0, 82), random.integers(0, 110)
        ids[top : top + 8, left : left + 10] = number
    whole, reach = burn_separation(ids, 3), separation_reach(3)
    window = slice(30, 60), slice(45, 85)
    wide = slice(30 - reach, 60 + reach), slice(45 - reach, 85 + reach)
    cut = burn_separation(ids[wide], 3)[reach:-reach, reach:-reach]
    np.testing.assert_array_equal(cut, whole[window])
    assert 0.05 < (cut > 0).mean() < 0.95


# w(x)


def test_weights_by_hand():
    separation = torch.tensor([[[[0, 51, 255], [0, 0, 102]]]], dtype=torch.uint8)
    target = torch.tensor([[[[1, 0, 0], [1, 1, 0]]]], dtype=torch.uint8).repeat(1, 2, 1, 1)
    found = WeightMap(10, [0.2, None])(target, separation)
    # w_c of a building is 0.5/0.2, of the ground 0.5/0.8.
    expected = [[2.5, 0.625 + 2, 0.625 + 10], [2.5, 2.5, 0.625 + 4]]
    torch.testing.assert_close(found[0, 0], torch.tensor(expected))
    torch.testing.assert_close(found[0, 1], torch.tensor([[1.0, 3, 11], [1, 1, 5]]))


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.9])
def test_both_sides_weigh_the_same_and_a_pixel_1_on_average(share):
    target = (torch.arange(2000).view(1, 1, 40, 50) < 2000 * share).to(torch.uint8)
    weights = WeightMap(10, [share])(target, torch.zeros_like(target))
    assert weights.mean().item() == pytest.approx(1, rel=1e-5)
    assert weights[target == 1].sum().item() == pytest.approx(1000, rel=1e-5)


@pytest.mark.parametrize("share", [None, 0.0, 1.0])
def test_where_one_side_is_missing_nothing_is_balanced(share):
    target = torch.tensor([[[[0, 1, 0]]]], dtype=torch.uint8)
    assert (WeightMap(10, [share])(target, torch.zeros_like(target)) == 1).all()


def test_weights_are_no_part_of_the_state():
    assert WeightMap(10, [0.2, None]).state_dict() == {}


def test_weights_move_with_the_module():
    separation = torch.zeros(1, 1, 4, 6, dtype=torch.uint8, device="meta")
    found = WeightMap(10, [0.2, None]).to("meta")(separation.expand(1, 2, 4, 6), separation)
    assert (found.device.type, found.shape) == ("meta", (1, 2, 4, 6))
