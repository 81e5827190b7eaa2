"""Loaders of training and validation tiles: processes, and how they start."""

import multiprocessing

import pytest
import torch

from geoseg.data.tiles import plan_tiles, tile_scenes
from geoseg.options import TileOptions, TrainOptions
from geoseg.training.dataset import TileDataset
from geoseg.training.loading.loaders import build_sampler, build_train_loader, build_val_loader
from geoseg.training.loading.mosaic import build_mosaic

CPU = torch.device("cpu")
OPTIONS = TrainOptions(batch_size=2, workers=1, augment=None)

pytestmark = pytest.mark.skipif(
    "forkserver" not in multiprocessing.get_all_start_methods(), reason="processes only spawn here"
)


@pytest.fixture
def tiles(make_scene, tmp_path):
    made = make_scene(height=96, width=160)
    options = TileOptions(size=32, overlap=0, gap=0)
    tile_scenes(plan_tiles([made.path], made.labels, options), tmp_path / "tiles")
    return TileDataset(tmp_path / "tiles", "train")


def assert_equal_batches(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_validation_tiles_are_loaded_by_threads(tiles):
    sampler = build_sampler(tiles, OPTIONS, 2)
    loader = build_val_loader(tiles, sampler, 4, CPU)
    assert loader.num_workers == 0
    again = TileDataset(tiles.folder, "train")
    for _ in range(2):  # from files, then from memory
        batches = list(loader)
        assert sum(len(batch["index"]) for batch in batches) == len(tiles)
        samples = [again[index] for index in range(4)]
        expected = {name: torch.stack([one[name] for one in samples]) for name in samples[0]}
        assert_equal_batches(batches[0], expected)


def test_only_workers_that_open_no_files_are_forked(tiles, tmp_path):
    sampler = build_sampler(tiles, OPTIONS, 2)
    mosaic = build_mosaic(tiles, tmp_path / "mosaic")
    methods = {
        name: build_train_loader(tiles, one, sampler, OPTIONS, CPU).multiprocessing_context
        for name, one in (("windows", mosaic), ("tiles", None))
    }
    assert {name: context.get_start_method() for name, context in methods.items()} == {
        "windows": "fork", "tiles": "forkserver",
    }  # fmt: skip
    alone = OPTIONS.model_copy(update={"workers": None})
    for one in (mosaic, None):
        assert build_train_loader(tiles, one, sampler, alone, CPU).num_workers == 0


@pytest.mark.slow  # imports everything in another process
def test_workers_that_open_files_give_the_same_batches(tiles):
    batches = {}
    for workers in (0, 1):
        sampler = build_sampler(tiles, OPTIONS, 2)
        options = OPTIONS.model_copy(update={"workers": workers})
        tiles[0]  # in memory, which workers must not get a copy of
        batches[workers] = list(build_train_loader(tiles, None, sampler, options, CPU))
    assert len(batches[0]) == len(batches[1]) > 1
    for one, other in zip(*batches.values(), strict=True):
        assert_equal_batches(one, other)
