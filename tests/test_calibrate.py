"""Temperature scaling of logits whose temperature is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from geoseg.training.validation.calibration import (
    BINS,
    calibrate_counts,
    count_logits,
    fit_temperature,
    measure_reliability,
)


def draw(seed, temperature, count=40_000, spread=3.0, shift=0.0):
    """Probabilities of logits z, and labels that are true with probability sigmoid(z / T)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(shift, spread, count)
    return expit(logits), rng.random(count) < expit(logits / temperature)


@given(
    seed=st.integers(0, 2**32 - 1),
    temperature=st.floats(0.4, 4),
    spread=st.floats(1.5, 4),
    shift=st.floats(-1, 1),
)
def test_a_known_temperature_is_found(seed, temperature, spread, shift):
    found = fit_temperature(count_logits(*draw(seed, temperature, 40_000, spread, shift)))
    assert found == pytest.approx(temperature, rel=0.12)


@given(seed=st.integers(0, 2**32 - 1), temperature=st.sampled_from([0.4, 0.6, 1.0, 1.8, 3.0]))
def test_calibration_reduces_the_error(seed, temperature):
    found = calibrate_counts(count_logits(*draw(seed, temperature)))
    assert found.after.ece < 0.015
    if temperature == 1:
        assert found.temperature == pytest.approx(1, abs=0.06)
    else:
        assert found.after.ece < 0.5 * found.before.ece
    assert found.summary["temperature"] == found.temperature
    assert found.summary["ece_before"] == pytest.approx(found.before.ece, abs=1e-5)


@pytest.mark.parametrize(
    ("prob", "true"),
    [
        ([], []),
        ([0.1, 0.7, 0.9], [False, False, False]),
        ([0.1, 0.7, 0.9], [True, True, True]),
        ([0.1, 0.3, 0.8, 1.0], [False, False, True, True]),
        ([0.0, 0.0], [False, False]),
    ],
)
def test_without_information_the_temperature_is_1(prob, true):
    counts = count_logits(np.array(prob, dtype=np.float32), np.array(true, dtype=bool))
    assert counts.sum() == len(prob)
    found = calibrate_counts(counts)
    assert found.temperature == 1.0
    assert found.before.ece == found.after.ece


def test_ece_by_hand():
    # Two pixels of probability 0.9, of which one is true, and two of 0.1, of which none is.
    prob, true = np.array([0.9, 0.9, 0.1, 0.1]), np.array([True, False, False, False])
    found = measure_reliability(count_logits(prob, true))
    assert found.ece == pytest.approx((2 * 0.4 + 2 * 0.1) / 4, abs=1e-3)
    assert found.counts.tolist() == [0, 2] + [0] * 11 + [2, 0]
    assert len(found.predicted) == BINS
    assert np.isnan(found.predicted[0])
    assert found.predicted[13] == pytest.approx(0.9, abs=1e-3)
    assert found.observed[13] == 0.5


def test_certain_pixels_count():
    prob, true = np.array([0.0, 1.0, 1.0, 0.0]), np.array([False, True, False, True])
    counts = count_logits(prob, true)
    assert counts.sum(axis=1).tolist() == [2, 2]
    # Half of the certain pixels are wrong: the highest temperature allowed.
    assert fit_temperature(counts) == pytest.approx(10, rel=0.01)
