"""Datasets of tiles: values on disk, nodata ignored, every pass the same."""

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

import geoseg.training.dataset
from geoseg.data.tiles import plan_tiles, tile_scenes, tile_window
from geoseg.errors import EmptyDatasetError, SceneReadError
from geoseg.networks.losses import burn_separation
from geoseg.networks.normalization import normalise
from geoseg.options import TileOptions
from geoseg.training.dataset import TileDataset


@pytest.fixture
def tiles(make_scene, tmp_path):
    """A scene with a corner of nodata and the folder of its tiles."""
    made = make_scene(bands=4, dtype="uint16", nodata=0, holes=[(0, 0, 20, 10)])
    options = TileOptions(size=32, overlap=8, fractions=(0.6, 0.2, 0.2), gap=0)
    plan = plan_tiles([made.path], made.labels, options)
    tile_scenes(plan, tmp_path / "tiles")
    return made, tmp_path / "tiles"


def test_a_sample_holds_the_pixels_of_the_scene(tiles):
    made, folder = tiles
    for split, count in (("train", 16), ("val", 4), ("test", 4)):
        dataset = TileDataset(folder, split)
        assert len(dataset) == count
        for index, tile in enumerate(dataset.tiles.itertuples()):
            sample = dataset[index]
            place = tile_window(tile).toslices()
            valid = made.valid[place]
            assert {name: (tensor.shape, tensor.dtype) for name, tensor in sample.items()} == {
                "image": ((4, 32, 32), torch.float32),
                "target": ((2, 32, 32), torch.uint8),
                "valid": ((1, 32, 32), torch.bool),
                "index": ((), torch.int64),
            }
            assert sample["index"] == index
            np.testing.assert_array_equal(sample["valid"][0], valid)
            np.testing.assert_array_equal(sample["image"], (made.data[(..., *place)] * valid))
            expected = np.where(valid, made.mask[place], 255)
            np.testing.assert_array_equal(sample["target"][0], expected)
            assert (sample["target"][1].numpy()[~valid] == 255).all()


@pytest.mark.parametrize("cache", [0, 2 * 32 * 32 * 11, 2**30])
def test_every_pass_is_the_same_however_much_is_cached(tiles, cache, monkeypatch):
    monkeypatch.setattr(geoseg.training.dataset, "CACHE_BYTES", cache)
    dataset = TileDataset(tiles[1], "train")
    passes = [list(DataLoader(dataset, batch_size=5)) for _ in range(2)]
    assert [len(batch["image"]) for batch in passes[0]] == [5, 5, 5, 1]
    for first, second in zip(*passes, strict=True):
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_changing_a_sample_does_not_change_the_cache(tiles):
    dataset = TileDataset(tiles[1], "train")
    before = {name: tensor.clone() for name, tensor in dataset[0].items()}
    for tensor in dataset[0].values():
        tensor.zero_()
    assert all(torch.equal(before[name], dataset[0][name]) for name in before)


def test_separation_equals_that_of_the_whole_scene(tiles):
    made, folder = tiles
    ids = np.zeros(made.grid.shape, int)
    for number, (left, top, right, bottom) in enumerate(made.boxes, start=1):
        ids[top:bottom, left:right] = number
    whole = burn_separation(ids, 6)
    for split in ("train", "val"):
        dataset, plain = TileDataset(folder, split, sigma_px=6), TileDataset(folder, split)
        for index, tile in enumerate(dataset.tiles.itertuples()):
            sample = dataset[index]
            found = sample.pop("separation")
            assert (found.shape, found.dtype) == ((1, 32, 32), torch.uint8)
            assert found.max() > 0
            np.testing.assert_array_equal(found[0], whole[tile_window(tile).toslices()])
            assert all(torch.equal(sample[name], array) for name, array in plain[index].items())
            assert torch.equal(dataset[index]["separation"], found)  # from the cache


def test_separation_of_two_scenes_uses_the_footprints_of_each(make_scene, tmp_path):
    # In two CRSs; in the second every other building is missing.
    first = make_scene("first")
    second = make_scene("second", crs="EPSG:32644", origin=(500_000.0, 2_000_000.0),
                        buildings=first.boxes[::2])  # fmt: skip
    frames = [gpd.read_file(made.labels).to_crs(4326) for made in (first, second)]
    gpd.GeoDataFrame(pd.concat(frames)).to_file(tmp_path / "both.gpkg")
    options = TileOptions(size=32, overlap=8, fractions=(0.6, 0.2, 0.2), gap=0)
    plan = plan_tiles([first.path, second.path], tmp_path / "both.gpkg", options)
    tile_scenes(plan, tmp_path / "both")
    dataset = TileDataset(tmp_path / "both", "train", sigma_px=6)
    wholes = {}
    for made in (first, second):
        ids = np.zeros(made.grid.shape, int)
        for number, (left, top, right, bottom) in enumerate(made.boxes, start=1):
            ids[top:bottom, left:right] = number
        wholes[str(made.path)] = burn_separation(ids, 6)
    assert set(dataset.tiles.scene) == set(wholes)
    for index, tile in enumerate(dataset.tiles.itertuples()):
        expected = wholes[tile.scene][tile_window(tile).toslices()]
        np.testing.assert_array_equal(dataset[index]["separation"][0], expected)


def test_separation_needs_the_footprints(tiles):
    (tiles[1] / "footprints.parquet").unlink()
    TileDataset(tiles[1], "train")
    with pytest.raises(EmptyDatasetError, match=r"footprints\.parquet: is missing, but polygons"):
        TileDataset(tiles[1], "train", sigma_px=5)


def test_building_share_counts_pixels(tiles):
    dataset = TileDataset(tiles[1], "train")
    targets = torch.stack([dataset[index]["target"][0] for index in range(len(dataset))])
    assert (targets == 255).any()
    expected = (targets == 1).sum() / (targets != 255).sum()
    assert dataset.building_share == pytest.approx(expected.item())


def test_a_split_without_tiles_is_refused(make_scene, tmp_path):
    made = make_scene()
    options = TileOptions(size=32, overlap=8, fractions=(0.5, 0.5, 0), gap=0)
    tile_scenes(plan_tiles([made.path], made.labels, options), tmp_path / "tiles")
    with pytest.raises(EmptyDatasetError, match="split test has no tiles; tile again"):
        TileDataset(tmp_path / "tiles", "test")


def test_a_folder_without_tiles_is_refused(tmp_path):
    with pytest.raises(EmptyDatasetError, match="is not a tiles folder, since it has no tiles"):
        TileDataset(tmp_path, "train")


def test_a_missing_tile_is_an_error(tiles):
    dataset = TileDataset(tiles[1], "val")
    (tiles[1] / "images" / f"{dataset.tiles.id[1]}.tif").unlink()
    dataset[0]
    with pytest.raises(SceneReadError, match="no such file"):
        dataset[1]


def test_normalised_bands_have_mean_0_and_deviation_1(tiles):
    dataset = TileDataset(tiles[1], "train")
    batch = next(iter(DataLoader(dataset, batch_size=16)))
    mean, std = torch.tensor(dataset.info.mean), torch.tensor(dataset.info.std)
    found = normalise(batch["image"], batch["valid"], mean, std)
    assert found.shape == (16, 4, 32, 32)
    valid = batch["valid"].expand_as(found)
    for band in range(4):
        values = found[:, band][valid[:, band]]
        assert values.mean() == pytest.approx(0, abs=1e-4)
        assert values.std() == pytest.approx(1, abs=1e-3)
    assert (found[~valid] == 0).all()


def test_normalise_by_hand():
    image = torch.tensor([[[[10.0, 20.0]], [[5.0, 7.0]]]])
    valid = torch.tensor([[[[True, False]]]])
    found = normalise(image, valid, torch.tensor([4.0, 7.0]), torch.tensor([2.0, 4.0]))
    assert found.tolist() == [[[[3.0, 0.0]], [[-0.5, 0.0]]]]
