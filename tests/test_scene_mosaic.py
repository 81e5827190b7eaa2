"""Scenes of one pixel grid joined into one, and the names by which scenes are given."""

from __future__ import annotations

import re
from dataclasses import replace

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from affine import Affine
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.windows import Window
from scene_parts import cut_scene
from small_models import DEEPGLOBE, make_model

import geoseg
from geoseg.cli import cli
from geoseg.errors import ConfigError, GridMismatchError, OutputExistsError, SceneReadError
from geoseg.geo.grid import Grid
from geoseg.geo.raster import Scene, mark_all_blank_areas, mark_blank_areas, read_info
from geoseg.geo.raster.scene_mosaic import join_grids, write_scene_mosaic
from geoseg.geo.scene_names import expand_scene_names
from geoseg.options import PredictOptions
from geoseg.town import build_town, write_town

CRS = rasterio.CRS.from_epsg(32633)
WHOLE = Grid(CRS, Affine(0.3, 0, 500_000, 0, -0.3, 5_000_000), 60, 83)
NAMES = ("red", "green", "blue")


def write(path, grid, pixels, *, mask=None, alpha=None, **profile):
    """Write (C, H, W) with a mask band, or an alpha band."""
    if alpha is not None:
        pixels = np.concatenate([pixels, alpha[None]])
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(
        path, "w", driver="GTiff", crs=grid.crs, transform=grid.transform, count=len(pixels),
        height=grid.height, width=grid.width, dtype=pixels.dtype, **profile,
    ) as sink:  # fmt: skip
        sink.write(pixels)
        if mask is not None:
            sink.write_mask(mask)
        if alpha is not None:
            sink.colorinterp = [*sink.colorinterp[:-1], rasterio.enums.ColorInterp.alpha]
    return path


def read_mosaic(folder, scenes, names=NAMES):
    path = folder / "scenes.vrt"
    write_scene_mosaic(path, scenes, names)
    with Scene(path) as scene:
        return scene.info, *scene.read()


windows = st.builds(
    lambda top, left, height, width: Window(left, top, height=height, width=width),
    st.integers(0, 40), st.integers(0, 50), st.integers(1, 20), st.integers(1, 33),
)  # fmt: skip


@settings(max_examples=25)
@given(
    st.lists(windows, min_size=2, max_size=4),
    st.sampled_from(["none", "sentinel", "colour", "mask", "alpha", "nan", "two sentinels"]),
    st.integers(0, 2**16),
)
def test_the_first_valid_scene_counts(tmp_path_factory, windows, kind, seed):
    folder, rng = tmp_path_factory.mktemp("parts"), np.random.default_rng(seed)
    dtype = "float32" if kind == "nan" else "uint8"
    expected = np.zeros((3, *WHOLE.shape), dtype)
    valid = np.zeros(WHOLE.shape, bool)
    scenes = []
    for number, window in enumerate(windows):
        grid = WHOLE.window_grid(window)
        pixels = rng.integers(1, 200, (3, *grid.shape)).astype(dtype)
        good = rng.random(grid.shape) < 0.7 if kind != "none" else np.ones(grid.shape, bool)
        stored, more = pixels.copy(), {}
        if kind == "sentinel":
            more = {"nodata": 201}
            stored[rng.integers(3), ~good] = 201
        elif kind == "colour":  # 0 counts in all bands together only
            more = {"nodata": 0}
            stored[0, rng.random(grid.shape) < 0.2] = pixels[0, stored[0] == 0] = 0
            stored[:, ~good], pixels = 0, np.where(good, stored, 0)
        elif kind == "two sentinels":
            more = {"nodata": 201 + number}
            stored[1, ~good] = 201 + number
        elif kind == "nan":
            stored[2, ~good] = np.nan
        elif kind in ("mask", "alpha"):
            more = {kind: (good * 255).astype("uint8")}
        scenes.append(read_info(write(folder / f"{number}.tif", grid, stored, **more)))
        part = window.toslices()
        new = good & ~valid[part]
        expected[(slice(None), *part)][:, new] = pixels[:, new]
        valid[part] |= good
    info, data, found = read_mosaic(folder, scenes)
    grid, _ = join_grids(scenes)
    assert info.grid == grid
    assert info.bands == NAMES
    column, row = np.rint(~WHOLE.transform * (grid.transform.c, grid.transform.f)).astype(int)
    part = slice(row, row + grid.height), slice(column, column + grid.width)
    np.testing.assert_array_equal(found, valid[part])
    np.testing.assert_array_equal(data, expected[(slice(None), *part)])


def test_a_blank_area_is_not_over_another_scene(tmp_path):
    rng = np.random.default_rng(3)
    left, right = WHOLE, replace(WHOLE, transform=WHOLE.transform * Affine.translation(60, 5))
    shape = (3, 140, 150)
    left, right = (replace(grid, height=shape[1], width=shape[2]) for grid in (left, right))
    image = rng.integers(1, 200, shape).astype("uint8")
    blank = image.copy()
    blank[:, :, 70:] = 255
    write(tmp_path / "left.tif", left, blank)
    write(tmp_path / "right.tif", right, image)
    scenes = [mark_blank_areas(read_info(tmp_path / f"{name}.tif")) for name in ("left", "right")]
    assert scenes[0].blank
    assert not scenes[1].blank
    _, data, valid = read_mosaic(tmp_path, scenes)
    np.testing.assert_array_equal(data[:, 5:140, 70:210], image[:, :135, 10:])
    assert valid[5:140].all()
    assert not valid[:5, 70:].any()


def test_a_palette_is_joined_as_colours(tmp_path):
    grid = WHOLE.window_grid(Window(0, 0, 20, 10))
    pixels = np.arange(200, dtype="uint8").reshape(1, 10, 20) % 3
    write(tmp_path / "a.tif", grid, pixels, photometric="palette", nodata=2)
    with rasterio.open(tmp_path / "a.tif", "r+") as sink:
        sink.write_colormap(1, {0: (1, 2, 3), 1: (4, 5, 6), 2: (7, 8, 9)})
    _, data, valid = read_mosaic(tmp_path, [read_info(tmp_path / "a.tif")])
    np.testing.assert_array_equal(valid, pixels[0] != 2)
    colours = np.array([[1, 4, 0], [2, 5, 0], [3, 6, 0]])
    np.testing.assert_array_equal(data, colours[:, pixels[0]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crs": rasterio.CRS.from_epsg(32634)}, "has the CRS EPSG:32634"),
        ({"transform": WHOLE.transform * Affine.scale(1.01)}, r"has pixels of 0\.3031\d* m"),
        ({"transform": WHOLE.transform * Affine.translation(3.5, 1)}, "a part of a pixel beside"),
        ({"transform": WHOLE.transform * Affine.rotation(1)}, "rotated differently"),
        ({"dtype": "uint16"}, "has uint16 pixels"),
    ],
)
def test_scenes_that_cannot_be_joined_are_refused(tmp_path, change, message):
    dtype = change.pop("dtype", "uint8")
    pixels = np.ones((3, *WHOLE.shape), "uint8")
    first = read_info(write(tmp_path / "a.tif", WHOLE, pixels))
    other = write(tmp_path / "b.tif", replace(WHOLE, **change), pixels.astype(dtype))
    with pytest.raises(GridMismatchError, match=message) as refusal:
        write_scene_mosaic(tmp_path / "scenes.vrt", [first, read_info(other)], NAMES)
    assert str(refusal.value).startswith(f"{other}: ")
    assert not (tmp_path / "scenes.vrt").exists()


def test_scenes_that_are_far_apart_are_refused(tmp_path):
    pixels = np.ones((3, *WHOLE.shape), "uint8")
    infos = []
    for number, columns in enumerate((0, 80, 160, 200_000)):
        grid = replace(WHOLE, transform=WHOLE.transform * Affine.translation(columns, 0))
        infos.append(read_info(write(tmp_path / f"{number}.tif", grid, pixels)))
    join_grids(infos[:3])
    with pytest.raises(GridMismatchError, match=r"3\.tif: is far from the other scenes, which all"):
        join_grids(infos)


def test_what_geoseg_does_not_use_as_nodata_is_valid(tmp_path):
    grid = WHOLE.window_grid(Window(0, 0, 30, 20))
    pixels = np.random.default_rng(1).integers(1, 200, (3, *grid.shape)).astype("uint8")
    alpha = (np.arange(600).reshape(20, 30) % 3 * 100).astype("uint8")
    path = write(tmp_path / "rgba.tif", grid, pixels, alpha=alpha)
    info = read_info(path, bands=[1, 2, 3, 4])  # alpha as data
    _, data, valid = read_mosaic(tmp_path, [info], ["a", "b", "c", "d"])
    assert valid.all()
    np.testing.assert_array_equal(data, np.concatenate([pixels, alpha[None]]))
    pixels[0, :7] = 0
    write(tmp_path / "half.tif", grid, pixels)
    with rasterio.open(tmp_path / "half.tif", "r+") as sink:
        sink.nodata = 0
    info = read_info(tmp_path / "half.tif", bands=[2, 3])
    _, data, valid = read_mosaic(tmp_path, [info], ["b", "c"])
    assert valid.all()
    np.testing.assert_array_equal(data, pixels[1:])


def test_names_that_only_rasterio_knows_are_joined(tmp_path):
    pixels = np.random.default_rng(1).integers(1, 200, (3, *WHOLE.shape)).astype("uint8")
    path = write(tmp_path / "a b.tif", WHOLE, pixels)
    _, data, _ = read_mosaic(tmp_path, [read_info(f"file://{path}")])
    np.testing.assert_array_equal(data, pixels)


def test_a_scene_of_one_value_is_blank_among_others(tmp_path):
    grid = replace(WHOLE, height=150, width=160)
    image = np.random.default_rng(2).integers(1, 200, (3, 150, 160)).astype("uint8")
    white = write(tmp_path / "white.tif", grid, np.full_like(image, 255))
    infos = [read_info(white), read_info(write(tmp_path / "image.tif", grid, image))]
    assert mark_blank_areas(infos[0]).blank is None
    _, data, valid = read_mosaic(tmp_path, mark_all_blank_areas(infos, are_parts=True))
    assert valid.all()
    np.testing.assert_array_equal(data, image)


def test_pixels_are_compared_at_the_far_corner(tmp_path):
    pixels = np.ones((3, *WHOLE.shape), "uint8")
    first = read_info(write(tmp_path / "a.tif", WHOLE, pixels))
    # 1e-5 of 83 pixels is nothing; of 10,000 it is a tenth of a pixel.
    wide = replace(WHOLE, transform=WHOLE.transform * Affine.scale(1 + 1e-5))
    join_grids([first, replace(first, grid=wide)])
    with pytest.raises(GridMismatchError, match="has pixels of"):
        join_grids([first, replace(first, grid=replace(wide, width=10_000))])


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """A scene, the same in 3 x 4 overlapping parts, and a model."""
    folder = tmp_path_factory.mktemp("town")
    scene, _ = write_town(build_town(300, 370, seed=5, gsd_m=0.5), folder)
    model = make_model(folder / "model.safetensors", DEEPGLOBE)
    columns = [(0, 90), (80, 200), (160, 280), (270, 370)]
    cut_scene(scene, folder / "parts", [(0, 120), (90, 210), (200, 300)], columns)
    return folder, scene, model


def predict_one_raster(scenes, model, output, **more):
    options = PredictOptions(device="cpu")
    return geoseg.predict(scenes, output, model=model, options=options, **more)


def test_scenes_are_predicted_into_one_raster(town, tmp_path):
    folder, scene, model = town
    predict_one_raster(scene, model, tmp_path / "one.tif")
    result = predict_one_raster(folder / "parts", model, tmp_path / "twelve.tif")
    assert (result.scene, result.left_out) == ("12 scenes", {})
    assert (tmp_path / "twelve.tif").read_bytes() == (tmp_path / "one.tif").read_bytes()
    # In processes of their own, which join the scenes from their files.
    order = sorted((folder / "parts").iterdir(), reverse=True)
    predict_one_raster(order, model, tmp_path / "two.tif", workers=geoseg.Workers(processes=2))
    assert (tmp_path / "two.tif").read_bytes() == (tmp_path / "one.tif").read_bytes()


def test_an_interrupted_prediction_of_scenes_continues(town, tmp_path, caplog):
    folder, _, model = town
    names = [str(folder / "parts"), str(folder / "parts" / "00.tif")]  # named twice, used once
    options = PredictOptions(device="cpu", batch_size=4)
    done = []

    def interrupt(tiles, *_):
        if tiles >= 40:  # in the fifth of seven rows of 8; the second is written by then
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        geoseg.predict(names, tmp_path / "a.tif", model=model, options=options, progress=interrupt)
    assert not (tmp_path / "a.tif").exists()
    geoseg.predict(
        names, tmp_path / "a.tif", model=model, options=options,
        progress=lambda tiles, *_: done.append(tiles),
    )  # fmt: skip
    assert done[0] > 8  # finished strips are kept; without one, this is the first batch
    assert "continuing an interrupted job" in caplog.text
    geoseg.predict(names, tmp_path / "b.tif", model=model, options=options)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()
    # The order of scenes is a part of the job.
    with pytest.raises(KeyboardInterrupt):
        geoseg.predict(names, tmp_path / "c.tif", model=model, options=options, progress=interrupt)
    names = sorted((folder / "parts").iterdir(), reverse=True)
    geoseg.predict(names, tmp_path / "c.tif", model=model, options=options)
    assert "an interrupted job had other settings or inputs" in caplog.text


def test_scenes_that_cannot_be_read_are_named_and_left_out(town, tmp_path, caplog):
    folder, _, model = town
    (tmp_path / "text.tif").write_text("no raster")
    with rasterio.open(folder / "parts" / "00.tif") as source:
        one = source.read(1)[None]
        write(tmp_path / "pan.tif", read_info(source.name).grid, one)
    arguments = ["predict", str(tmp_path), str(folder / "parts"), "-m", str(model)]
    done = CliRunner().invoke(cli, [*arguments, "-o", str(tmp_path / "out" / ""), "--rasters-only"])
    assert done.exit_code == 3
    assert done.stdout.startswith("12 scenes → ")
    left_out = [line for line in caplog.messages if line.startswith("left out: ")]
    assert len(left_out) == 2
    pan, text = tmp_path / "pan.tif", tmp_path / "text.tif"
    assert f"geoseg: left out: {pan}, {text}; reasons are above" in done.stderr
    assert f"{tmp_path / 'pan.tif'}: has 1 band (band1), the model needs 3" in left_out[0]
    assert f"{tmp_path / 'text.tif'}: GDAL cannot read this as a raster" in left_out[1]
    assert (tmp_path / "out" / "prob.vrt").is_file()
    index = gpd.read_file(tmp_path / "out" / "index.gpkg")
    assert index["status"].tolist() == ["predicted"] * 12 + ["left out"] * 2
    assert index["source"].tolist()[-2:] == [str(pan), str(text)]
    assert index["reason"][13].startswith("GDAL cannot read this as a raster")
    # It is the same with chosen bands, and a scene that was left out is not replaced.
    chosen = [*arguments, "--bands", "1,2,3", "--dry-run"]
    assert CliRunner().invoke(cli, [*chosen, "-o", str(tmp_path / "new")]).exit_code == 3
    before = pan.read_bytes()
    done = CliRunner().invoke(cli, [*arguments, "--overwrite", "-o", str(pan)])
    assert isinstance(done.exception, OutputExistsError)
    assert pan.read_bytes() == before
    # Nothing is written if no scene is left, and the first reason is given.
    arguments = ["predict", str(tmp_path / "*.tif"), "-m", str(model), "-o", str(tmp_path / "new")]
    done = CliRunner().invoke(cli, arguments)
    assert isinstance(done.exception, GridMismatchError)
    assert not (tmp_path / "new").exists()


def test_a_dry_run_describes_the_joined_scenes(town, tmp_path):
    folder, _, model = town
    arguments = ["predict", str(folder / "parts" / "1*.tif"), "-m", str(model), "--dry-run"]
    done = CliRunner().invoke(cli, [*arguments, "-o", str(tmp_path / "out")])
    assert done.output.startswith("4 scenes: 120 rows x 370 columns at 0.5 m, 24 tiles of 64 ")
    first, whole, time = done.output.splitlines()
    assert first.startswith("4 scenes: 120 rows x 370 columns at 0.5 m, 24 tiles of 64 ")
    assert whole.startswith("4 scenes: 1 mosaic of one pixel grid each, 24 tiles; rasters of 0 ")
    assert re.fullmatch(
        r"\S+ tiles per second on this machine: about \d+ seconds for the network, without "
        r"reading, rasters and footprints; up to 4 GB of memory per process", time,
    )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_names_of_scenes_are_expanded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "b.tif",
        "a.TIF",
        "notes.txt",
        ".hidden.tif",
        "deep/c.tif",
        "deep/d.jp2",
        "x[1].tif",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert expand_scene_names("b.tif") == ["b.tif"]
    assert expand_scene_names(["deep", "b.tif"]) == ["deep/c.tif", "deep/d.jp2", "b.tif"]
    assert expand_scene_names(".") == ["a.TIF", "b.tif", "x[1].tif"]
    assert expand_scene_names("x[1].tif") == ["x[1].tif"]
    assert expand_scene_names("*b*") == ["b.tif"]
    assert expand_scene_names("**/*.tif") == ["b.tif", "deep/c.tif", "x[1].tif"]
    assert expand_scene_names([tmp_path / "b.tif", "b.tif", "deep"]) == [
        f"{tmp_path}/b.tif",
        "b.tif", "deep/c.tif", "deep/d.jp2",
    ]  # fmt: skip
    remote = ["s3://bucket/a.tif", "/vsizip/a.zip/*.tif", "https://host/a.tif?x=[1]"]
    assert expand_scene_names(remote) == remote
    assert expand_scene_names(["GTIFF_DIR:1:b.tif"]) == ["GTIFF_DIR:1:b.tif"]
    (tmp_path / "grid.txt").write_text("0 1 5\n1 1 6\n0 0 7\n1 0 8\n")  # an ASCII gridded XYZ
    assert expand_scene_names("grid.txt") == ["grid.txt"]
    (tmp_path / "deep" / "list.txt").write_text(
        "\ufeff# old ones\n  c.tif \n\n../b.tif\ns3://bucket/a.tif\n*.jp2\n", encoding="utf-8"
    )
    assert expand_scene_names("deep/list.txt") == [
        "deep/c.tif", "deep/../b.tif", "s3://bucket/a.tif", "deep/d.jp2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none/*.tif", "none/*.tif: matches no raster; check the pattern"),
        ("*", "*: matches no raster; check the pattern"),
        ("", "no scene was given"),
        ("lists.txt", "lists.txt, line 1: comments.txt is a list, too; name its scenes"),
        ("empty", "empty: is a folder without a raster directly in it; give a file"),
        ("typo.txt", "typo.txt, line 3: bb.tif: no such file; check the path"),
        ("comments.txt", "comments.txt: lists no scene; write one per line"),
        ("latin.txt", "latin.txt: is no text in UTF-8; save it as such"),
        ([], "no scene was given"),
    ],
)
def test_names_that_mean_no_scene_are_refused(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "lists.txt").write_text("comments.txt")
    (tmp_path / "typo.txt").write_text("# scenes\n\nbb.tif\n")
    (tmp_path / "comments.txt").write_text("# a.tif\n\n")
    (tmp_path / "latin.txt").write_bytes("ä.tif".encode("latin-1"))
    with pytest.raises((SceneReadError, ConfigError), match=re.escape(message)):
        expand_scene_names(name)


def test_blank_areas_of_many_scenes_are_named_in_a_few_lines(tmp_path, caplog):
    image = np.random.default_rng(2).integers(1, 200, (3, 150, 160)).astype("uint8")
    image[:, :, 90:] = 0
    grid = replace(WHOLE, height=150, width=160)
    infos = [read_info(write(tmp_path / f"{n}.tif", grid, image)) for n in range(5)]
    assert all(info.blank for info in mark_all_blank_areas(infos))
    lines = caplog.messages
    assert [line.partition(": ")[0] for line in lines[:3]] == [info.path for info in infos[:3]]
    assert lines[3:] == ["2 more scenes have blank areas"]
