"""Judging a network on ground that it has not learnt from.

`ground` puts predicted tiles together and counts their footprints, `tune` finds thresholds on it,
`calibration` a temperature.
"""

from geoseg.validate.calibration import BINS, Calibration, Reliability, calibrate
from geoseg.validate.ground import (
    Ground,
    Predict,
    ValidationGround,
    predict_tiles,
    read_labelled,
)
from geoseg.validate.tune import Tuned, tune_thresholds

__all__ = [
    "BINS",
    "Calibration",
    "Ground",
    "Predict",
    "Reliability",
    "Tuned",
    "ValidationGround",
    "calibrate",
    "predict_tiles",
    "read_labelled",
    "tune_thresholds",
]
