"""Tiles → a model: `train`, and `find_lr` before it.

`setup` puts tiles, network and loss together, `loop` is Lightning's, `segmenter` is what a step
does; `run` is the way from one to the next, and `finish` what a run ends with.
"""

from geoseg.train.lr_finder import FoundRate, find_lr
from geoseg.train.run import TrainResult, check_run, train

__all__ = [
    "FoundRate",
    "TrainResult",
    "check_run",
    "find_lr",
    "train",
]
