"""How training comes by its batches: ground put together, what is drawn of it, who cuts it out.

`ground` lays tiles out as one array and cuts windows; `sampling` says which come in which step;
`loaders` has them ready when the device asks.
"""

from geoseg.loading.ground import Ground, GroundDataset, cut_window, gather_ground, remove_ground
from geoseg.loading.loaders import (
    LossesOfTiles,
    build_sampler,
    build_train_loader,
    build_val_loader,
    window_side,
    words_of_worker,
)
from geoseg.loading.sampling import (
    BalancedSampler,
    Draw,
    DrawSampler,
    HardSampler,
    TileSampler,
    UniformSampler,
)

__all__ = [
    "BalancedSampler",
    "Draw",
    "DrawSampler",
    "Ground",
    "GroundDataset",
    "HardSampler",
    "LossesOfTiles",
    "TileSampler",
    "UniformSampler",
    "build_sampler",
    "build_train_loader",
    "build_val_loader",
    "cut_window",
    "gather_ground",
    "remove_ground",
    "window_side",
    "words_of_worker",
]
