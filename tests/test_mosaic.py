"""Mosaics of tiles: windows hold pixels of the scene, and none of another split."""

import json
from copy import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import geoseg.training.loading.mosaic
from geoseg.data.tiles import plan_tiles, tile_scenes, tile_window
from geoseg.errors import DiskFullError, SceneReadError
from geoseg.networks.normalization import normalise
from geoseg.options import TileOptions, TrainOptions
from geoseg.town import build_town, write_town
from geoseg.training.dataset import TileDataset
from geoseg.training.loading.block_store import Group, read_window, write_rect
from geoseg.training.loading.loaders import build_sampler, build_train_loader, window_side
from geoseg.training.loading.mosaic import MosaicDataset, build_mosaic, remove_mosaic
from geoseg.training.loading.sampling import Draw

SIZE = 32


def cut_tiles(scene, labels, folder, **options):
    chosen = {"size": SIZE, "overlap": 16, "fractions": (0.6, 0.2, 0.2), "gap": 0} | options
    tile_scenes(plan_tiles([scene], labels, TileOptions(**chosen)), folder)
    return folder


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """A town with a corner of nodata, its tiles split by blocks, and their mosaic."""
    folder = tmp_path_factory.mktemp("town")
    scene, labels = write_town(build_town(200, 330, seed=3, nodata_corner=True), folder)
    tiles = cut_tiles(scene, labels, folder / "tiles", split="blocks", keep_empty=0.5)
    with rasterio.open(scene) as source:
        data = source.read()
    dataset = TileDataset(tiles, "train")
    return data, dataset, build_mosaic(dataset, folder / "mosaic")


def assemble(dataset, data):
    """The target, valid and covered pixels of a split's tiles, on the scene's grid."""
    height, width = data.shape[-2:]
    target = np.full((len(dataset.info.targets), height, width), 255, np.uint8)
    valid = np.zeros((1, height, width), bool)
    covered = np.zeros((height, width), bool)
    for index, tile in enumerate(dataset.tiles.itertuples()):
        place = (..., *tile_window(tile).toslices())
        rows, columns = tile.height, tile.width
        target[place] = dataset[index]["target"][:, :rows, :columns]
        valid[place] = dataset[index]["valid"][:, :rows, :columns]
        covered[place] = True
    return target, valid, covered


def test_windows_are_slices_of_the_scene(town):
    data, dataset, mosaic = town
    target, valid, covered = assemble(dataset, data)
    assert (~covered).any()
    assert (covered & ~valid[0]).any()
    windows = MosaicDataset(mosaic, 48)
    inside = 0
    for index, tile in enumerate(dataset.tiles.itertuples()):
        top, left = tile.row_off - 8, tile.col_off - 8
        found = windows[Draw(index)]
        assert (found["image"].dtype, found["target"].dtype) == (torch.uint8, torch.uint8)
        assert found["tile"].item() == index
        _, row, column = mosaic.places[index]
        group = mosaic.groups[mosaic.places[index, 0]]
        if min(row, column) < 8 or row + 40 > group.height or column + 40 > group.width:
            continue
        inside += 1
        place = (..., slice(top, top + 48), slice(left, left + 48))
        np.testing.assert_array_equal(found["valid"], valid[place])
        np.testing.assert_array_equal(found["target"], target[place])
        np.testing.assert_array_equal(found["image"], data[place] * valid[place])
    assert inside > 3


def test_the_centre_of_a_window_is_the_tile(town):
    _, dataset, mosaic = town
    windows = MosaicDataset(mosaic, 48)
    for index in range(len(dataset)):
        batch = windows.__getitems__([Draw(index)])
        sample = dataset[index]
        assert sample.pop("index") == batch.pop("tile") == index
        for name, tensor in sample.items():
            np.testing.assert_array_equal(batch[name][0, :, 8:-8, 8:-8], tensor)


draws = st.tuples(st.integers(0, 10**6), st.integers(-40, 40), st.integers(-40, 40))


@given(chosen=st.lists(draws, min_size=1, max_size=4), window=st.sampled_from([32, 40, 48, 64]))
def test_no_pixel_of_another_split_is_valid(town, chosen, window):
    data, dataset, _ = town
    # Each pixel holds its position in the scene instead of its colour.
    mosaic = numbered(town)
    _, _, covered = assemble(dataset, data)
    chosen = [Draw(tile % len(dataset), dy, dx) for tile, dy, dx in chosen]
    batch = MosaicDataset(mosaic, window).__getitems__(chosen)
    places = batch["image"].numpy()[:, 0].astype(int)
    valid = batch["valid"].numpy()[:, 0]
    assert covered.ravel()[places[valid] - 1].all()
    assert (places[valid] > 0).all()
    assert (batch["target"].numpy()[~np.broadcast_to(valid[:, None], batch["target"].shape)]
            == 255).all()  # fmt: skip


def numbered(town):
    """The mosaic with images that hold the position of each covered pixel in the scene, from 1."""
    data, dataset, mosaic = town
    width = data.shape[-1]
    image = np.zeros((len(mosaic.stores["image"]), 1, SIZE, SIZE), np.float32)
    for index, tile in enumerate(dataset.tiles.itertuples()):
        number, row, column = mosaic.places[index].tolist()
        lines = np.arange(tile.row_off, tile.row_off + tile.height)[:, None]
        numbers = lines * width + np.arange(tile.col_off, tile.col_off + tile.width) + 1
        box = row, column, tile.height, tile.width
        write_rect(mosaic.groups[number], box, {"image": image}, {"image": numbers[None]})
    return replace(mosaic, stores={**mosaic.stores, "image": image})


def store(source, side, boxes=None):
    """Store an array (bands, H, W) in the blocks that boxes cover; in all blocks when None."""
    _, height, width = source.shape
    everywhere = (0, 0, height, width)
    group = Group.from_rects(np.array([everywhere] if boxes is None else boxes), side)
    stores = {"x": np.zeros((group.blocks + 1, len(source), side, side), source.dtype)}
    for box in [everywhere] if boxes is None else boxes:
        top, left, rows, columns = box
        found = source[:, top : top + rows, left : left + columns]
        write_rect(group, box, stores, {"x": found})
    return group, stores


def cut(group, stores, top, left, height, width):
    out = {"x": np.full((stores["x"].shape[1], height, width), -1, stores["x"].dtype)}
    read_window(group, stores, top, left, out)
    return out["x"]


@st.composite
def spans(draw):
    """Length of a source, first line and length of a window that is mostly inside."""
    length = draw(st.integers(1, 9))
    begin = draw(st.integers(0, length - 1))
    end = draw(st.integers(begin + 1, length))
    most = 20 if (begin, end) == (0, length) else end - begin - 1
    before = draw(st.integers(0, most)) if begin == 0 else 0
    after = draw(st.integers(0, most)) if end == length else 0
    return length, begin - before, end - begin + before + after


@given(rows=spans(), columns=spans(), side=st.integers(1, 10))
def test_windows_over_blocks_are_mirrored_as_numpy_pads(rows, columns, side):
    (height, top, high), (width, left, wide) = rows, columns
    source = np.arange(2 * height * width).reshape(2, height, width)
    found = cut(*store(source, side), top, left, high, wide)
    padded = np.pad(source, [(0, 0), (20, 20), (20, 20)], mode="reflect")
    y, x = 20 + top, 20 + left
    np.testing.assert_array_equal(found, padded[:, y : y + high, x : x + wide])


@st.composite
def strips(draw):
    """A chain of boxes from 0, each at a corner or an edge of the previous one."""
    boxes, top, left = [], 0, 0
    for _ in range(draw(st.integers(1, 6))):
        rows, columns = draw(st.tuples(st.integers(2, 9), st.integers(2, 9)))
        boxes.append((top, left, rows, columns))
        top, left = draw(st.sampled_from([(top + rows, left), (top, left + columns),
                                          (top + rows, left + columns)]))  # fmt: skip
    return boxes


@given(boxes=strips(), side=st.integers(1, 8), data=st.data())
def test_windows_of_strips_equal_those_of_a_plain_array(boxes, side, data):
    height, width = (max(box[axis] + box[axis + 2] for box in boxes) for axis in (0, 1))
    source = np.zeros((2, height, width), int)
    numbers = 1 + np.arange(source.size).reshape(source.shape)
    blocks = set()
    for top, left, rows, columns in boxes:
        place = (..., slice(top, top + rows), slice(left, left + columns))
        source[place] = numbers[place]
        blocks |= {
            (row // side, column // side)
            for row in range(top, top + rows)
            for column in range(left, left + columns)
        }
    group, stores = store(source, side, boxes)
    assert group.blocks == len(blocks) == len(stores["x"]) - 1
    top, left, rows, columns = data.draw(st.sampled_from(boxes))
    down, across = (rows - 1) // 2, (columns - 1) // 2
    y = data.draw(st.integers(top - down, top + down))
    x = data.draw(st.integers(left - across, left + across))
    padded = np.pad(source, [(0, 0), (20, 20), (20, 20)], mode="reflect")
    expected = padded[:, 20 + y : 20 + y + rows, 20 + x : 20 + x + columns]
    np.testing.assert_array_equal(cut(group, stores, y, x, rows, columns), expected)


@pytest.mark.parametrize("side", [2, 3, 8])
def test_mirrored_edges_by_hand(side):
    found = cut(*store(np.arange(12).reshape(1, 3, 4), side), -1, -2, 5, 7)
    assert found[0].tolist() == [
        [6, 5, 4, 5, 6, 7, 6],
        [2, 1, 0, 1, 2, 3, 2],
        [6, 5, 4, 5, 6, 7, 6],
        [10, 9, 8, 9, 10, 11, 10],
        [6, 5, 4, 5, 6, 7, 6],
    ]
    assert (cut(*store(np.full((1, 1, 1), 7), side), -1, -1, 3, 4) == 7).all()


def test_shifted_tiles_stay_inside_their_group(town):
    _, dataset, mosaic = town
    for index in range(len(dataset)):
        number, row, column = mosaic.places[index].tolist()
        height, width = mosaic.groups[number].height, mosaic.groups[number].width
        assert mosaic.locate(Draw(index, 3, -2))[1:] == (
            min(max(0, row + 3), height - SIZE), min(max(0, column - 2), width - SIZE),
        )  # fmt: skip
        assert mosaic.locate(Draw(index, 9999, -9999))[1:] == (height - SIZE, 0)


def test_memory_and_files_hold_the_same(town, tmp_path):
    _, dataset, mosaic = town
    filed = build_mosaic(dataset, tmp_path / "mosaic", memory_bytes=0)
    assert filed.folder == tmp_path / "mosaic"
    assert mosaic.folder is None
    for one, other in zip(mosaic.groups, filed.groups, strict=True):
        assert (one.height, one.width) == (other.height, other.width)
        np.testing.assert_array_equal(one.table, other.table)
    assert filed.stores.keys() == mosaic.stores.keys()
    for name, array in filed.stores.items():
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable
        np.testing.assert_array_equal(array, mosaic.stores[name], strict=True)
    chosen = [Draw(index, 5, -3) for index in range(len(dataset))]
    batches = [MosaicDataset(one, 48).__getitems__(chosen) for one in (mosaic, filed)]
    assert batches[0].keys() == batches[1].keys()
    assert all(torch.equal(batches[0][name], batches[1][name]) for name in batches[0])
    remove_mosaic(tmp_path / "mosaic")
    assert not (tmp_path / "mosaic").exists()


@pytest.mark.parametrize("memory_bytes", [None, 0])
@pytest.mark.parametrize("step", [(32, 32), (20, 29), (0, 27)])
def test_a_chain_of_tiles_needs_room_for_these_tiles_only(
    town, tmp_path, monkeypatch, step, memory_bytes
):
    count = 400
    dataset = copy(town[1])
    dataset.tiles = dataset.tiles.iloc[[0] * count].reset_index(drop=True)
    dataset.tiles["row_off"] = 7 + step[0] * np.arange(count)
    dataset.tiles["col_off"] = 5 + step[1] * np.arange(count)
    dataset.tiles["height"] = dataset.tiles["width"] = SIZE
    monkeypatch.setattr(TileDataset, "read", lambda self, index: {
        "image": np.full((3, SIZE, SIZE), 1 + index % 200, np.uint8),
        "target": np.zeros((len(self.info.targets), SIZE, SIZE), np.uint8),
        "valid": np.ones((1, SIZE, SIZE), bool),
    })  # fmt: skip
    mosaic = build_mosaic(dataset, tmp_path / "mosaic", memory_bytes=memory_bytes)
    assert len(mosaic.groups) == 1
    covered = mosaic.stores["valid"].sum()
    assert covered > 0.5 * count * SIZE**2
    assert mosaic.stores["valid"].size < 4.1 * covered
    if all(step):
        assert mosaic.groups[0].height * mosaic.groups[0].width > 50 * mosaic.stores["valid"].size
        windows = MosaicDataset(mosaic, SIZE + 64)
        batch = windows.__getitems__([Draw(150)])
        middle = slice(SIZE, 2 * SIZE)
        assert batch["valid"][0, 0, middle, middle].all()
        assert (batch["image"][0, :, middle, middle] == 151).any()
        for name, bare in (("image", 0), ("target", 255), ("valid", 0)):
            for corner in (batch[name][0, :, :12, -12:], batch[name][0, :, -12:, :12]):
                assert (corner == bare).all()


def test_files_are_reused_only_if_complete_and_of_the_same_tiles(town, tmp_path, monkeypatch):
    _, dataset, _ = town
    folder = tmp_path / "mosaic"
    reads = []
    read = TileDataset.read
    monkeypatch.setattr(TileDataset, "read", lambda *a: reads.append(a) or read(*a))
    gather = partial(build_mosaic, folder=folder, memory_bytes=0)
    gather(dataset)
    assert 0 < len(reads) <= len(dataset)
    count = len(reads)
    gather(dataset)
    assert len(reads) == count
    (folder / "mosaic.json").unlink()
    gather(dataset)
    assert len(reads) == 2 * count
    (folder / "mosaic.json").write_text(json.dumps({"job": "another"}))
    gather(dataset)
    assert len(reads) == 3 * count
    gather(TileDataset(dataset.folder, "val"))
    assert len(reads) > 3 * count
    (folder / "mine.txt").touch()
    remove_mosaic(folder)
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]


def test_a_full_disk_is_refused_before_anything_is_written(town, tmp_path, monkeypatch):
    monkeypatch.setattr(geoseg.training.loading.mosaic, "free_space", lambda _: 5)
    with pytest.raises(DiskFullError, match=r"train\.max_memory_gb"):
        build_mosaic(town[1], tmp_path / "mosaic", memory_bytes=0)
    assert not (tmp_path / "mosaic").exists()


def test_tiles_covered_by_others_are_not_decoded(make_scene, tmp_path, monkeypatch):
    made = make_scene(height=160, width=192)
    dataset = TileDataset(cut_tiles(made.path, made.labels, tmp_path / "tiles"), "train")
    reads = []
    read = TileDataset.read
    monkeypatch.setattr(TileDataset, "read", lambda self, i: reads.append(i) or read(self, i))
    mosaic = build_mosaic(dataset, tmp_path)
    assert len(reads) < 0.6 * len(dataset)
    held = mosaic.stores["valid"].sum()
    assert held == sum(group.height * group.width for group in mosaic.groups)


def test_a_missing_tile_is_an_error(make_scene, tmp_path):
    made = make_scene()
    dataset = TileDataset(cut_tiles(made.path, made.labels, tmp_path / "tiles"), "train")
    (dataset.folder / "images" / f"{dataset.tiles.id[0]}.tif").unlink()
    with pytest.raises(SceneReadError, match="no such file"):
        build_mosaic(dataset, tmp_path / "mosaic")


def test_uint16_becomes_float32_and_separation_is_included(make_scene, tmp_path):
    made = make_scene(bands=4, dtype="uint16", nodata=0, holes=[(0, 0, 20, 10)])
    folder = cut_tiles(made.path, made.labels, tmp_path / "tiles")
    dataset = TileDataset(folder, "train", sigma_px=6)
    mosaic = build_mosaic(dataset, tmp_path / "mosaic")
    assert mosaic.stores["image"].dtype == np.uint16
    windows = MosaicDataset(mosaic, SIZE)
    batch = windows.__getitems__([Draw(index) for index in range(len(dataset))])
    assert batch["image"].dtype == torch.float32
    assert batch["separation"].dtype == torch.uint8
    for index in range(len(dataset)):
        sample = dataset[index]
        assert sample.pop("index") == batch["tile"][index]
        for name, tensor in sample.items():
            np.testing.assert_array_equal(batch[name][index], tensor)


def test_tiles_smaller_than_the_window_are_mirrored(make_scene, tmp_path):
    # Tiles of fewer rows than the window.
    made = make_scene(height=24, width=160, buildings=[(5, 6, 17, 15), (60, 3, 70, 12)])
    dataset = TileDataset(cut_tiles(made.path, made.labels, tmp_path / "tiles"), "train")
    assert (dataset.tiles.height == 24).all()
    mosaic = build_mosaic(dataset, tmp_path / "mosaic")
    found = MosaicDataset(mosaic, SIZE)[Draw(0, 7, 0)]
    np.testing.assert_array_equal(found["image"][:, :24], dataset[0]["image"][:, :24])
    np.testing.assert_array_equal(found["image"][:, 24:], found["image"][:, 15:23].flip(1))
    assert found["valid"].all()


def test_scenes_are_separate_groups(make_scene, tmp_path):
    first, second = make_scene("first"), make_scene("second", seed=1, origin=(520_000.0, 3e6))
    labels = tmp_path / "{}.gpkg"
    plan = plan_tiles([first.path, second.path], labels, TileOptions(size=SIZE, gap=0))
    tile_scenes(plan, tmp_path / "tiles")
    dataset = TileDataset(tmp_path / "tiles", "train")
    mosaic = build_mosaic(dataset, tmp_path / "mosaic")
    windows = MosaicDataset(mosaic, SIZE)
    by_scene = {str(made.path): made for made in (first, second)}
    for index, tile in enumerate(dataset.tiles.itertuples()):
        expected = by_scene[tile.scene].data[(..., *tile_window(tile).toslices())]
        np.testing.assert_array_equal(windows[Draw(index)]["image"], expected)
    scenes = dataset.tiles.scene.to_numpy()
    assert not set(mosaic.places[scenes == scenes[0], 0]) & set(
        mosaic.places[scenes != scenes[0], 0]
    )


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_workers_load_the_same_batches(town):
    _, dataset, mosaic = town
    batches = []
    for workers in (0, 2):
        options = TrainOptions(workers=workers, batch_size=3, seed=2)
        sampler = build_sampler(dataset, options, 3)
        loader = build_train_loader(dataset, mosaic, sampler, options, torch.device("cpu"))
        assert isinstance(loader, DataLoader)
        batches.append(list(loader))
    assert len(batches[0]) == len(batches[1]) == len(sampler) // 3 >= 25
    for one, other in zip(*batches, strict=True):
        assert one["image"].shape == (3, 3, 48, 48)
        assert one.keys() == other.keys() == {"image", "target", "valid", "tile"}
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("changes", "side", "jitter"),
    [
        ({}, 48, 8),
        ({"augment": "light"}, 32, 8),
        ({"augment": {"preset": "light", "free_share": 0.5, "elastic_px": 2}}, 48, 8),
        ({"augment": "none"}, 32, 0),
        ({"mosaic": False}, 32, 0),
    ],
)
def test_windows_are_larger_only_if_augmentation_rotates_or_deforms(town, changes, side, jitter):
    options = TrainOptions(**changes)
    assert window_side(options, SIZE) == side
    assert build_sampler(town[1], options, 8).jitter_px == jitter
    assert window_side(options, 50) % 2 == 0


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.float32])
def test_integers_are_normalised_like_floats(dtype):
    image = torch.randint(0, 100, (2, 3, 4, 6)).to(dtype)
    before, valid = image.clone(), torch.rand(2, 1, 4, 6) < 0.7
    mean, std = torch.rand(3) * 50, torch.rand(3) + 1
    expected = normalise(image.float(), valid, mean, std)
    assert torch.equal(normalise(image, valid, mean, std), expected)
    assert torch.equal(image, before)
