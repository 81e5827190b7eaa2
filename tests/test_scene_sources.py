"""Scenes from servers and STAC: the same results as from a file, clear errors, no credentials."""

import json
import logging
import shutil
from datetime import UTC, datetime

import pandas as pd
import pytest
import rasterio
from click.testing import CliRunner
from servers import serve_files, serve_s3
from small_models import PIXELWISE, make_model

import geoseg
from geoseg.cli import cli
from geoseg.credentials import get_logger, hide_credentials
from geoseg.errors import GeosegError, OutputExistsError, SceneReadError, one_line
from geoseg.geo.raster import read_date
from geoseg.geo.scene_names import FoundScene, expand_scene_names, find_scenes
from geoseg.options import PredictOptions
from geoseg.town import build_town, write_town

DATE = datetime(2023, 6, 1, 10, 30, tzinfo=UTC)
TIFF = "image/tiff; application=geotiff; profile=cloud-optimized"
USER = "Basic dXNlcjpTRUNSRVQ="  # user:SECRET
OPTIONS = PredictOptions(device="cpu", footprints=False)


def make_item(name, assets, **properties):
    """A STAC item whose assets are given as `key: (href, roles, type)`."""
    return {
        "type": "Feature", "stac_version": "1.0.0", "id": name, "geometry": None, "links": [],
        "properties": {"datetime": "2023-06-01T10:30:00Z"} | properties,
        "assets": {
            key: {"href": href, "roles": roles or [], "type": kind}
            for key, (href, roles, kind) in assets.items()
        },
    }  # fmt: skip


def make_catalog(**links):
    """A static catalog with links `rel: [href, ...]`."""
    return {
        "type": "Catalog", "stac_version": "1.0.0", "id": "catalog", "description": "",
        "links": [{"rel": rel, "href": href} for rel, hrefs in links.items() for href in hrefs],
    }  # fmt: skip


def make_collection(items):
    return {"type": "FeatureCollection", "features": items}


def write_json(path, document):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


SCENE = {
    "image": ("./scene.tif", ["data"], TIFF),
    "small": ("small.png", ["thumbnail"], "image/png"),
}


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """A folder with a scene of 150 x 190 pixels, its footprints, a model and STAC documents."""
    folder = tmp_path_factory.mktemp("town")
    scene, labels = write_town(build_town(150, 190, seed=5, gsd_m=0.5), folder)
    scene.rename(folder / "scene.tif")
    labels.rename(folder / f"labels{labels.suffix}")
    make_model(folder / "model.safetensors", PIXELWISE)
    item = make_item("one", SCENE)
    write_json(folder / "item.json", item)
    write_json(folder / "items.geojson", make_collection([item]))
    write_json(folder / "deep" / "items" / "item.json", make_item(
        "deep", {"image": ("../../scene.tif", None, TIFF)}
    ))  # fmt: skip
    write_json(folder / "deep" / "catalog.json", make_catalog(
        item=["./items/item.json"], child=["../catalog.json"]
    ))  # fmt: skip
    write_json(folder / "catalog.json", make_catalog(child=["deep/catalog.json"]))
    return folder


@pytest.fixture(scope="module")
def expected(town):
    geoseg.predict(
        town / "scene.tif", town / "out", model=town / "model.safetensors", options=OPTIONS
    )
    return (town / "out" / "prob.tif").read_bytes()


def predict(town, output, *scenes, options=OPTIONS):
    result = geoseg.predict(scenes, output, model=town / "model.safetensors", options=options)
    return result, (output / "prob.tif").read_bytes()


def run(town, output, *scenes, more=()):
    return CliRunner().invoke(
        cli,
        ["predict", *map(str, scenes), "-m", str(town / "model.safetensors"), "-o", str(output),
         "--rasters-only", "--device", "cpu", *more],
    )  # fmt: skip


@pytest.mark.parametrize(
    "name", ["item.json", "items.geojson", "catalog.json", "deep/catalog.json"]
)
def test_stac_files_give_the_bytes_of_the_scene(town, expected, tmp_path, name):
    result, prob = predict(town, tmp_path / "out", town / name)
    assert prob == expected
    assert result.scene == str(town / "scene.tif")


@pytest.mark.parametrize(
    "name", ["scene.tif", "item.json", "items.geojson", "catalog.json", "scene.tif?signature=x1"]
)
def test_addresses_give_the_bytes_of_the_scene(town, expected, tmp_path, name):
    with serve_files(town) as server:
        result, prob = predict(town, tmp_path / "out", f"{server.url}/{name}")
    assert prob == expected
    assert result.scene == f"{server.url}/scene.tif"


def test_buckets_give_the_bytes_of_the_scene(town, expected, tmp_path, monkeypatch):
    pytest.importorskip("moto.server")
    with serve_s3("bucket", {"a/scene.tif": town / "scene.tif"}) as address:
        for name, value in {
            "AWS_S3_ENDPOINT": address, "AWS_HTTPS": "NO", "AWS_VIRTUAL_HOSTING": "FALSE",
            "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        result, prob = predict(town, tmp_path / "out", "s3://bucket/a/scene.tif")
        assert prob == expected
        assert result.scene == "s3://bucket/a/scene.tif"
        item = make_item("s3", {"image": ("s3://bucket/a/scene.tif", ["data"], TIFF)})
        _, prob = predict(town, tmp_path / "b", write_json(tmp_path / "item.json", item))
        assert prob == expected
        # As a part of a mosaic, which GDAL opens by itself; the other part does not exist.
        done = run(town, tmp_path / "c", "s3://bucket/a/scene.tif", "s3://bucket/none.tif")
        assert done.exit_code == 3
        assert "left out: s3://bucket/none.tif; reasons are above" in done.stderr
        assert (tmp_path / "c" / "scenes" / "scene_prob.tif").read_bytes() == expected
        tiles = tile(town, tmp_path / "tiles", "s3://bucket/a/scene.tif")
        assert set(tiles.scene) == {"s3://bucket/a/scene.tif"}
        with pytest.raises(SceneReadError, match=r"s3://bucket/none\.tif: cannot be opened"):
            predict(town, tmp_path / "d", "s3://bucket/none.tif")


@pytest.mark.parametrize("name", ["/vsicurl/{}/account/box/scene.tif", "gs://box/scene.tif",
                                  "az://box/scene.tif"])  # fmt: skip
def test_other_names_of_gdal_give_the_bytes_of_the_scene(
    town, expected, tmp_path, monkeypatch, name
):
    box = tmp_path / "files" / "account" / "box"
    box.mkdir(parents=True)
    shutil.copy(town / "scene.tif", box)
    with serve_files(tmp_path / "files") as server:
        account = f"{server.url}/account"
        azure = f"AccountName=account;AccountKey=c2VjcmV0;BlobEndpoint={account}"
        for key, value in {
            "CPL_GS_ENDPOINT": f"{account}/", "GS_NO_SIGN_REQUEST": "YES",
            "AZURE_STORAGE_CONNECTION_STRING": azure,
        }.items():  # fmt: skip
            monkeypatch.setenv(key, value)
        name = name.format(server.url)
        result, prob = predict(town, tmp_path / "out", name)
        assert prob == expected
        assert result.scene == name
        if name.startswith("/vsi"):  # the others are only opened differently
            assert set(tile(town, tmp_path / "tiles", name).scene) == {name}
        gone = name.replace("scene", "gone")
        with pytest.raises(SceneReadError, match=r"gone\.tif: cannot be opened as a raster"):
            predict(town, tmp_path / "none", gone)


def tile(town, output, *scenes):
    options = geoseg.TileOptions(size=32, split="blocks", block=32, gap=0)
    geoseg.tile(list(scenes), next(town.glob("labels.*")), output, options=options)
    return pd.read_parquet(output / "tiles.parquet")


def test_tiles_are_those_of_the_scene_and_keep_no_credentials(town, tmp_path):
    expected = tile(town, tmp_path / "file", town / "scene.tif")
    with serve_files(town) as server:
        server.set_rules(authorization=USER)
        tiles = tile(
            town, tmp_path / "tiles", f"http://user:SECRET@{server.host}/scene.tif?key=SECRET"
        )
        assert set(tiles.scene) == {f"{server.url}/scene.tif"}
        tile(town, tmp_path / "item", f"http://user:SECRET@{server.host}/item.json")
    pd.testing.assert_frame_equal(
        tiles.drop(columns=["scene", "geometry"]), expected.drop(columns=["scene", "geometry"])
    )
    for folder in ("tiles", "item"):
        for path in (tmp_path / folder).rglob("*"):
            assert path.is_dir() or b"SECRET" not in path.read_bytes(), path
    for one in expected.id:
        name = f"images/{one}.tif"
        assert (tmp_path / "tiles" / name).read_bytes() == (tmp_path / "file" / name).read_bytes()


def test_outputs_and_lines_have_no_credentials(town, tmp_path, caplog, capfd):
    caplog.set_level(logging.INFO, "geoseg")
    with serve_files(town) as server:
        query = "signature=" + "SECRET" * 200  # too long for the name of a file
        server.set_rules(query=query)
        scenes = [f"{server.url}/{name}.tif?{query}" for name in ("scene", "gone")]
        done = run(town, tmp_path / "out", *scenes)
        assert done.exit_code == 3
        assert f"left out: {server.url}/gone.tif; reasons" in done.stderr
        alone = run(town, tmp_path / "alone", scenes[0])
        assert alone.exit_code == 0
        assert alone.stdout.startswith(f"{server.url}/scene.tif → ")
        described = run(town, tmp_path / "dry", scenes[0], more=["--dry-run"])
        server.set_rules(authorization=USER)
        user = run(town, tmp_path / "user", f"http://user:SECRET@{server.host}/item.json")
        assert user.exit_code == 0
    for one in (done, alone, described, user):
        assert "SECRET" not in one.output
    assert "SECRET" not in caplog.text
    assert "SECRET" not in "".join(capfd.readouterr())
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 6
    assert [path for path in written if b"SECRET" in path.read_bytes()] == []


@pytest.mark.parametrize("status", [401, 403, 404])
@pytest.mark.parametrize("name", ["scene.tif", "item.json"])
def test_what_a_server_refuses_is_named_in_a_line(
    town, tmp_path, monkeypatch, capsys, status, name
):
    with serve_files(town) as server:
        server.set_rules(refused={f"/{name}": status})
        address = f"{server.url}/{name}"
        arguments = ["geoseg", "predict", f"{address}?key=SECRET", "-o", str(tmp_path / "out")]
        monkeypatch.setattr("sys.argv", [*arguments, "-m", str(town / "model.safetensors")])
        with pytest.raises(SystemExit) as ended:
            geoseg.cli.main()
        assert ended.value.code == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert lines[0].startswith(f"geoseg: {address}: cannot be ")
        assert str(status) in lines[0] or status == 404
        assert "SECRET" not in lines[0]
        done = run(town, tmp_path / "out", town / "scene.tif", f"{address}?key=SECRET")
        assert done.exit_code == 3
        assert f"left out: {address}; reasons are above" in done.stderr


def test_items_without_a_scene_are_left_out(town, expected, tmp_path, caplog):
    lacking = make_item(
        "two", {"B02": ("b2.tif", ["data"], TIFF), "B03": ("b3.tif", ["data"], TIFF)}
    )
    damaged = make_item("three", SCENE, datetime="yesterday")
    good = json.loads((town / "item.json").read_text())
    shutil.copy(town / "scene.tif", tmp_path)
    path = write_json(tmp_path / "items.json", make_collection([lacking, damaged, good]))
    done = run(town, tmp_path / "out", path)
    assert done.exit_code == 3
    assert f"left out: {path}, feature 2, {path}, item two; reasons are above" in done.stderr
    assert (
        f"left out: {path}, item two: no asset is the only one of the role data or visual, or the "
        "only GeoTIFF; its assets are B02, B03, choose one with --asset"
    ) in caplog.messages
    assert (tmp_path / "out" / "scenes" / "scene_prob.tif").read_bytes() == expected
    path = write_json(tmp_path / "item.json", lacking)
    done = run(town, tmp_path / "none", path)
    assert isinstance(done.exception, SceneReadError)
    assert "its assets are B02, B03" in str(done.exception)
    done = run(town, tmp_path / "none", path, more=["--asset", "B04"])
    assert str(done.exception) == f"{path}, item two: has no asset B04; its assets are B02, B03"
    with pytest.raises(SceneReadError, match="item two: no asset is the only one"):
        tile(town, tmp_path / "tiles", path)


def test_a_document_is_not_replaced_by_the_output(town, tmp_path):
    path = shutil.copy(town / "items.geojson", tmp_path)
    shutil.copy(town / "scene.tif", tmp_path)
    before = (tmp_path / "items.geojson").read_bytes()
    with pytest.raises(OutputExistsError, match="contains the input"):
        geoseg.predict(path, path, model=town / "model.safetensors", overwrite=True)
    assert (tmp_path / "items.geojson").read_bytes() == before


@pytest.mark.parametrize(
    ("assets", "key", "chosen"),
    [
        ({"a": ("a.tif", ["visual"], TIFF), "b": ("b.tif", ["data"], TIFF)}, None, "b.tif"),
        ({"a": ("a.tif", ["visual"], TIFF), "b": ("b.tif", ["data"], TIFF)}, "a", "a.tif"),
        ({"a": ("a.csv", ["data"], "text/csv"), "b": ("b", ["data"], "image/jp2")}, None, "b"),
        ({"a": ("a.csv", ["data"], None), "b": ("b.TIF", None, None)}, None, "b.TIF"),
        (
            {"a": ("1.tif", ["data"], None), "b": ("2.tif", ["data"], None),
             "c": ("3.tif", ["visual"], None)},
            None, "3.tif",
        ),
        ({"a": ("a.tif", ["overview"], TIFF), "b": ("b.tif", None, TIFF)}, None, "b.tif"),
        ({"a": ("https://host/a.tif?x=1", None, TIFF)}, None, "https://host/a.tif?x=1"),
        ({"a": ("/vsis3/bucket/a.tif", None, TIFF)}, None, "/vsis3/bucket/a.tif"),
    ],
)  # fmt: skip
def test_the_asset_is_chosen_by_key_role_and_type(tmp_path, assets, key, chosen):
    path = write_json(tmp_path / "item.json", make_item("one", assets))
    name = chosen if "/" in chosen else str(tmp_path / chosen)
    assert find_scenes(path, key) == [FoundScene(name, DATE)]
    assert expand_scene_names([path], key) == [name]


def test_relative_names_are_resolved_where_the_document_is(tmp_path):
    item = make_item("one", {"image": ("a.tif", None, TIFF)})
    item["links"] = [{"rel": "self", "href": "https://host/x/one.json"}]
    own = "https://host/x/a.tif"
    path = write_json(tmp_path / "item.json", item)
    assert expand_scene_names(path) == [own]  # a copy without the scene
    (tmp_path / "a.tif").touch()
    assert expand_scene_names(path) == [str(tmp_path / "a.tif")]
    write_json(tmp_path / "items.json", make_collection([item]))
    with serve_files(tmp_path) as server:
        assert expand_scene_names(f"{server.url}/item.json") == [f"{server.url}/a.tif"]
        assert expand_scene_names(f"{server.url}/items.json") == [own]
        item["assets"]["image"]["href"] = "file:///etc/a.tif"
        write_json(tmp_path / "item.json", item)
        with pytest.raises(SceneReadError, match="which is not on a server"):
            expand_scene_names(f"{server.url}/item.json")


def test_pages_of_a_search_are_followed(tmp_path, caplog):
    first = make_collection([make_item("one", {"image": ("https://host/1.tif", None, TIFF)})])
    second = make_collection([make_item("two", {"image": ("https://host/2.tif", None, TIFF)})])
    first["links"] = [{"rel": "next", "href": "second.json"}]
    second["links"] = [{"rel": "next", "href": "https://host/search", "method": "POST"}]
    write_json(tmp_path / "search", first)
    write_json(tmp_path / "second.json", second)
    with serve_files(tmp_path) as server:
        found = find_scenes(f"{server.url}/search?limit=1")
    assert [scene.name for scene in found] == ["https://host/1.tif", "https://host/2.tif"]
    assert "has more pages, which only a POST request returns" in caplog.text


def test_an_item_of_a_catalog_that_is_missing_is_left_out(town, expected, tmp_path):
    shutil.copytree(town / "deep", tmp_path / "deep")
    shutil.copy(town / "scene.tif", tmp_path)
    path = tmp_path / "deep" / "catalog.json"
    write_json(path, make_catalog(item=["none.json", "./items/item.json"]))
    done = run(town, tmp_path / "out", path)
    assert done.exit_code == 3
    assert (tmp_path / "out" / "scenes" / "scene_prob.tif").read_bytes() == expected
    with pytest.raises(SceneReadError, match=r"none\.json: no such file"):
        expand_scene_names(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "is not a raster, and as JSON it is not a STAC item"),
        ("[1, 2]", "is not a raster, and as JSON it is not a STAC item"),
        ('{"type": "FeatureCollection", "features": [{"type": "Feature"}]}', "is not a raster"),
        ("no JSON", "is not a raster, and not JSON"),
        ("[" * 100_000, "is not a raster, and not JSON"),
        ('{"type": "FeatureCollection", "features": []}', "has no STAC items"),
        (json.dumps(make_catalog()), "has no STAC items"),
        ('{"type": "Feature", "stac_version": "1.0.0"}', "is not valid STAC"),
        ('{"type": "Feature", "stac_version": "1.0.0", "assets": 5}', "is not valid STAC"),
        ('{"type": "Catalog", "stac_version": 7, "links": [3]}', "is not valid STAC"),
    ],
)  # fmt: skip
def test_other_json_is_refused_in_a_line(tmp_path, text, message):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(SceneReadError) as refusal:
        find_scenes(path)
    assert str(refusal.value).startswith(f"{path}: {message}")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("https://host/a.tif?sig=SECRET: is no raster", "https://host/a.tif: is no raster"),
        ("'/vsicurl/https://u:SECRET@h/a.tif?x=SECRET' gone.", "'/vsicurl/https://h/a.tif' gone."),
        ("(s3://SECRET:SECRET@bucket/a.tif), b", "(s3://bucket/a.tif), b"),
        ("/vsicurl?url=https%3A%2F%2Fh&header.x=SECRET is", "/vsicurl is"),
        ("<File>https://h/a?b=SECRET&amp;c=SECRET</File>", "<File>https://h/a</File>"),
        ("https://h/a.tif?SECRET, https://h/b?SECRET; c", "https://h/a.tif, https://h/b; c"),
        ("2023/a?.tif: what? see a@b.c", "2023/a?.tif: what? see a@b.c"),
        ("tcp://host:8786", "tcp://host:8786"),
    ],
)  # fmt: skip
def test_credentials_are_hidden(caplog, text, hidden):
    assert hide_credentials(text) == hidden
    assert hide_credentials(hidden) == hidden
    assert str(GeosegError(text)) == str(SceneReadError(text)) == hidden
    assert one_line(ValueError(f"{text}{' x' * 100}")).startswith(hidden[:20])
    get_logger("geoseg.test").warning("%s", text)
    assert caplog.messages == [hidden]
    long = ValueError(f"https://user:{'SECRET' * 40}@host/a.tif")
    assert "SECRET" not in one_line(long)


@pytest.mark.parametrize(
    ("domain", "tags", "expected"),
    [
        (None, {"TIFFTAG_DATETIME": "2023:06:01 10:30:00"}, DATE),
        ("IMAGERY", {"ACQUISITIONDATETIME": "2023-06-01 10:30:00"}, DATE),
        (None, {"ACQUISITION_DATE": "2023-06-01", "TIFFTAG_DATETIME": "2024:01:01 00:00:00"},
         datetime(2023, 6, 1, tzinfo=UTC)),
        (None, {"ACQUISITION_DATE": "June", "TIFFTAG_DATETIME": "2023:06:01 10:30:00"}, DATE),
        (None, {"TIFFTAG_DATETIME": "2023:13:01 10:30:00"}, None),
        (None, {"TIFFTAG_DATETIME": "0000:00:00 00:00:00"}, None),
        (None, {}, None),
    ],
)  # fmt: skip
def test_dates_are_read_from_metadata(tmp_path, domain, tags, expected):
    profile = {"driver": "GTiff", "width": 4, "height": 3, "count": 1, "dtype": "uint8"}
    path = tmp_path / "a.tif"
    with rasterio.open(path, "w", **profile, crs="EPSG:32633",
                       transform=rasterio.Affine(2, 0, 0, 0, -2, 9)) as sink:  # fmt: skip
        sink.update_tags(ns=domain, **tags)
    assert read_date(path) == expected
    with pytest.raises(SceneReadError, match="no such file"):
        read_date(tmp_path / "b.tif")
