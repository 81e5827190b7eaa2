"""Schedules of learning rate and momentum."""

from __future__ import annotations

import math

from geoseg.options import TrainOptions

# The one-cycle schedule (Smith and Topin, arXiv 1708.07120) begins at this share of the peak rate.
# While the rate rises, the momentum falls from the higher value to the lower, and back afterwards.
_FIRST_RATE = 1 / 25
_LOW, _HIGH = 0.85, 0.95

# Share of the peak rate at the first step of a warm-up, which must not be 0.
_LEAST = 1e-3


def rate_share(progress: float, options: TrainOptions) -> float:
    """Return the share of the peak learning rate: rising during warm-up, then by schedule.

    Args:
        progress: Completed share of the training, 0..1.
        options: Uses `schedule`, `warmup` and `poly_power`.
    """
    warmup = options.warmup_share
    if progress < warmup:
        if options.schedule == "one_cycle":
            return 1 - (1 - _FIRST_RATE) * _half_wave(progress / warmup)
        return max(progress / warmup, _LEAST)
    passed = min(1.0, (progress - warmup) / (1 - warmup))
    if options.schedule == "constant":
        return 1.0
    if options.schedule == "poly":  # as in DeepLab (arXiv 1606.00915)
        return float((1 - passed) ** options.poly_power)
    return _half_wave(passed)


def momentum(progress: float, options: TrainOptions) -> float:
    """Return the momentum of SGD, or the first beta of AdamW.

    Args:
        progress: Completed share of the training, 0..1.
        options: Uses `schedule`, `warmup` and `momentum`.
    """
    if options.schedule != "one_cycle":
        return options.momentum
    warmup = options.warmup_share
    passed = progress / warmup if progress < warmup else (1 - progress) / (1 - warmup)
    return _LOW + (_HIGH - _LOW) * _half_wave(min(1.0, max(0.0, passed)))


def _half_wave(share: float) -> float:
    """Return half a cosine wave, from 1 at 0 down to 0 at 1."""
    return 0.5 * (1 + math.cos(math.pi * share))
