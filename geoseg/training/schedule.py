"""How the learning rate and the momentum go from the first step to the last."""

from __future__ import annotations

import math

from geoseg.options import TrainOptions

# One cycle (Smith and Topin, arXiv 1708.07120) begins with this share of the peak rate; while the
# rate rises, the momentum falls from the higher of two values to the lower, and back.
_FIRST_RATE = 1 / 25
_LOW, _HIGH = 0.85, 0.95

# The first step of a warm-up is not quite nothing, as a share of the peak rate.
_LEAST = 1e-3


def rate_share(progress: float, options: TrainOptions) -> float:
    """Share of the peak learning rate: it rises over the warm-up, then falls as scheduled.

    Args:
        progress: Share of the training that is done, 0..1.
        options: `schedule`, `warmup` and `poly_power` count.
    """
    warmup = options.warmup_share
    if progress < warmup:
        if options.schedule == "one_cycle":
            return 1 - (1 - _FIRST_RATE) * _half_wave(progress / warmup)
        return max(progress / warmup, _LEAST)
    passed = min(1.0, (progress - warmup) / (1 - warmup))
    if options.schedule == "constant":
        return 1.0
    if options.schedule == "poly":  # DeepLab's (arXiv 1606.00915)
        return float((1 - passed) ** options.poly_power)
    return _half_wave(passed)


def momentum(progress: float, options: TrainOptions) -> float:
    """Momentum of SGD, or the first beta of AdamW.

    Args:
        progress: Share of the training that is done, 0..1.
        options: `schedule`, `warmup` and `momentum` count.
    """
    if options.schedule != "one_cycle":
        return options.momentum
    warmup = options.warmup_share
    passed = progress / warmup if progress < warmup else (1 - progress) / (1 - warmup)
    return _LOW + (_HIGH - _LOW) * _half_wave(min(1.0, max(0.0, passed)))


def _half_wave(share: float) -> float:
    """From 1 at 0 down to 0 at 1, half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * share))
