"""Averages of weights, by hand."""

import math

import pytest

from geoseg.training.weight_averaging import LateAverage, RunningAverage


def averaged(callback, values):
    """The average after values of one weight, one per step; it begins with the first of all."""
    kept = 1.0
    for step, value in enumerate(values, start=1):
        kept += callback.share(step) * (value - kept)
    return kept


def test_the_running_average_forgets_the_first_weights_soon():
    kept = averaged(RunningAverage(0.99), [0.0] * 40)
    # By hand: the product of (1 + n) / (10 + n) over the steps; 0.99 ** 40 would be 0.67.
    assert kept == pytest.approx(math.prod((1 + n) / (10 + n) for n in range(1, 41)))
    assert kept < 1e-4
    assert RunningAverage(0.99).share(10_000) == pytest.approx(0.01)


def test_the_late_average_is_the_mean_of_the_last_share():
    step = 0

    def progress():
        return step / 10

    late, kept = LateAverage(0.4, progress), 0.0
    for step, value in enumerate((9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 1.0, 2.0, 3.0, 6.0), start=1):
        kept += late.share(step) * (value - kept)
        if step <= 6:
            assert kept == value
    assert kept == pytest.approx((4 + 1 + 2 + 3 + 6) / 5)


def test_a_late_average_goes_on_from_its_state():
    late = LateAverage(0.5, lambda: 0.5)
    assert late.share(7) == 1.0
    again = LateAverage(0.5, lambda: 0.5)
    again.load_state_dict(late.state_dict())
    assert [again.share(step) for step in (8, 9)] == [0.5, pytest.approx(1 / 3)]
