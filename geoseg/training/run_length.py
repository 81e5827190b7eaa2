"""A hint at the end of runs that were too short."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from geoseg.options import TrainOptions

# Below this number of steps even easy scenes are not learnt. Ten minutes on two CPU cores, the
# shortest run of the shipped configurations, are about 600.
_FEW_STEPS = 200
_USUAL_STEPS = 600

# The speed of a short run says little, since other work may have slowed it down: minutes are
# multiplied by this at most, to this many unless the run was long already, and rounded up.
_MOST_TIMES, _MOST_MINUTES, _ROUND_MINUTES = 10, 60, 10

# A score that rises by more than this in the last third of the steps is not only noise, by which
# scores of some hundred buildings change by up to about 0.05.
_RISE = 0.08


def describe_short_run(
    rows: Sequence[Mapping[str, float]], options: TrainOptions, minutes: float
) -> str | None:
    """Say that a run was too short, and what to set to continue it.

    Args:
        rows: Rows of `metrics.csv`.
        options: Options of the run.
        minutes: Its duration.

    Returns:
        A line for the user; None if the run was long enough, as far as can be known.
    """
    if not rows:
        return None
    steps = int(rows[-1]["step"])
    rise = _measure_rise(rows)
    rising = "the validation score was still rising, from {:.2f} to {:.2f}".format(*rise or (0, 0))
    if steps < _FEW_STEPS:
        what = f"this run was too short: {steps} steps are few, some hundred are usual"
        what += " (ten minutes or more)"
        what += f", and {rising}" if rise else ""
    elif rise:
        what = f"{rising}, so a longer run may be better"
    else:
        return None
    factor = max(2.0, _USUAL_STEPS / max(steps, 1))
    return f"{what}; continue it with --resume {_longer(rows, options, minutes, factor)}"


def _measure_rise(rows: Sequence[Mapping[str, float]]) -> tuple[float, float] | None:
    """Return the best score of the first two thirds of a run and of all, if it rose by much."""
    scored = [row for row in rows if "val_score" in row]
    early = [row["val_score"] for row in scored if row["step"] <= rows[-1]["step"] * 2 / 3]
    if not early:
        return None
    best = max(row["val_score"] for row in scored)
    return (max(early), best) if best - max(early) > _RISE else None


def _longer(
    rows: Sequence[Mapping[str, float]], options: TrainOptions, minutes: float, factor: float
) -> str:
    """Return the setting that ended the run, with a larger value."""
    epochs = int(rows[-1]["epoch"])
    if epochs >= options.epochs:
        return f"--set train.epochs={math.ceil(epochs * factor)}"
    if options.max_minutes is not None and minutes >= options.max_minutes:
        return f"--set train.max_minutes={_longer_minutes(options.max_minutes, factor)}"
    return f"--set train.patience={math.ceil((options.patience or epochs) * factor)}"


def _longer_minutes(minutes: float, factor: float) -> int:
    longest = max(_MOST_MINUTES, 2 * minutes)
    wanted = min(minutes * min(factor, _MOST_TIMES), longest)
    return math.ceil(wanted / _ROUND_MINUTES) * _ROUND_MINUTES
