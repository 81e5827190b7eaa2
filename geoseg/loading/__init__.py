"""How training comes by its batches: ground put together, what is drawn of it, who cuts it out.

`ground` lays tiles out in `blocks`, which windows are cut from; `sampling` says which come in which
step; `loaders` has them ready when the device asks.
"""

from geoseg.loading.ground import GroundDataset, gather_ground, remove_ground
from geoseg.loading.loaders import (
    LossesOfTiles,
    build_sampler,
    build_train_loader,
    build_val_loader,
    window_side,
    words_of_worker,
)
from geoseg.loading.sampling import DrawSampler, HardSampler

__all__ = [
    "DrawSampler",
    "GroundDataset",
    "HardSampler",
    "LossesOfTiles",
    "build_sampler",
    "build_train_loader",
    "build_val_loader",
    "gather_ground",
    "remove_ground",
    "window_side",
    "words_of_worker",
]
