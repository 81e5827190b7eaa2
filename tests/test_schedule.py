"""How rates and momenta go from the first step to the last."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from geoseg.options import TrainOptions
from geoseg.training.schedule import momentum, rate_share

SCHEDULES = ("cosine", "poly", "one_cycle", "constant")


@given(st.sampled_from(SCHEDULES), st.floats(0, 0.5), st.floats(0, 1), st.floats(0, 1))
@example("cosine", 1e-4, 0.0, 5e-5)
def test_rates_rise_over_the_warm_up_and_never_rise_again(schedule, warmup, one, other):
    options = TrainOptions(schedule=schedule, warmup=warmup)
    early, late = sorted((one, other))
    if late < warmup:
        assert rate_share(early, options) <= rate_share(late, options)
    if early >= warmup:
        assert rate_share(early, options) >= rate_share(late, options)
    assert 0 <= rate_share(one, options) <= 1
    assert rate_share(warmup, options) == pytest.approx(1.0)


@pytest.mark.parametrize("schedule", SCHEDULES[:3])
def test_rates_end_at_nothing(schedule):
    assert rate_share(1.0, TrainOptions(schedule=schedule)) == pytest.approx(0.0)


def test_rates_by_hand():
    assert rate_share(0.5, TrainOptions(schedule="poly", warmup=0)) == pytest.approx(0.5**0.9)
    assert rate_share(0.5, TrainOptions(schedule="cosine", warmup=0)) == pytest.approx(0.5)
    assert rate_share(0.1, TrainOptions(schedule="cosine", warmup=0.2)) == pytest.approx(0.5)
    cycle = TrainOptions(schedule="one_cycle")
    assert cycle.warmup_share == 0.3
    assert rate_share(0.0, cycle) == pytest.approx(1 / 25)
    assert rate_share(0.15, cycle) == pytest.approx((1 + 1 / 25) / 2)
    assert rate_share(0.65, cycle) == pytest.approx(0.5)
    assert rate_share(0.99, TrainOptions(schedule="constant")) == 1.0


def test_one_cycle_lowers_the_momentum_while_the_rate_is_high():
    cycle = TrainOptions(schedule="one_cycle", warmup=0.25)
    assert [momentum(p, cycle) for p in (0, 0.25, 1)] == pytest.approx([0.95, 0.85, 0.95])
    assert momentum(0.125, cycle) == pytest.approx(0.9)
    assert math.isclose(momentum(0.4, TrainOptions(momentum=0.7)), 0.7)
