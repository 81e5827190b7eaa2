"""Files made to do harm: whatever their bytes, a command ends with 0, or with 2 and one line.

A short count runs by default; `GEOSEG_HOSTILE_FILES=2000 pytest tests/test_hostile_files.py` runs
so many files of each kind, prints how they ended, and names every fault.
"""

import contextlib
import io
import json
import math
import os
import resource
import shutil
import struct
import sys
import time
import traceback
import warnings
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import torch
import yaml
from affine import Affine
from click.testing import CliRunner
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mutations import DEEP, VALUES, changed_bytes, changed_json, to_text
from rasterio.crs import CRS
from safetensors.torch import load_file, save_file
from small_models import PIXELWISE, make_model

import geoseg
import geoseg.training.loading.loaders
from geoseg import cli
from geoseg.api import predict as predict_api
from geoseg.config import load_config
from geoseg.data.tiles.tile_table import check_table
from geoseg.errors import EmptyDatasetError, GeosegError, ModelFileError, VectorReadError
from geoseg.geo.grid import Grid
from geoseg.geo.raster import is_raster
from geoseg.geo.vector import ParquetParts, list_layers, read_footprints
from geoseg.jobs.manifest import MANIFEST_NAME, find_foreign_file, read_manifest
from geoseg.jobs.memory import resident_bytes
from geoseg.networks.model_file import ModelSpec, load_spec
from geoseg.networks.models import load_network
from geoseg.networks.models.sketch import check_tile_memory, least_tile_bytes
from geoseg.town import build_town, write_town
from geoseg.training.dataset import TileDataset
from geoseg.training.loading.mosaic import build_mosaic
from geoseg.training.state_file import read_state
from geoseg.training.validation.areas import ValidationAreas

COUNT = int(os.environ.get("GEOSEG_HOSTILE_FILES", "0"))
# Files of each kind in the default suite, and of kinds that take long.
_SHORT, _FEW = 8, 3
# A training takes as long as many other files: only some are given to one.
_TRAIN_EVERY = 20
# More than any of these small files needs, bytes and seconds.
_MEMORY, _SECONDS = 3_000_000_000, 20.0

KINDS = {}
TURNS = count(1)


@dataclass
class Valid:
    """Valid files, from which harmful ones are made."""

    folder: Path
    scene: Path
    labels: Path
    tiles: Path
    model: Path
    out: Path
    run: Path
    work: Path


@dataclass
class Kind:
    """Harmful files of one kind.

    Attributes:
        files: Strategy of what `give` gets.
        give: Writes a file into an empty folder, and gives it to the commands.
        short: How many are tried by default.
    """

    files: object
    give: object
    short: int = _SHORT


@dataclass
class Report:
    """How commands ended that were given harmful files."""

    ends: Counter = field(default_factory=Counter)
    faults: dict = field(default_factory=dict)
    slowest: float = 0.0

    def __str__(self):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        ends = ", ".join(f"{times} x {end}" for end, times in sorted(self.ends.items()))
        return f"{ends}; slowest {self.slowest:.1f} s, peak of the process {peak:.2f} GB"


class FaultError(AssertionError):
    """A command that did not end as promised."""


def kind(function):
    KINDS[function.__name__.replace("_", " ")] = function
    return function


def command(*arguments):
    """The exit code of a command, which must be 0 or 2, the latter with one line."""
    said = io.StringIO()
    given, sys.argv = sys.argv, ["geoseg", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            code = cli._run()
    finally:
        sys.argv = given
    lines = [line for line in said.getvalue().splitlines() if line.startswith("geoseg: ")]
    if code not in (0, 2) or (code == 2 and len(lines) != 1):
        raise FaultError(f"{arguments[0]} ends with {code}: {said.getvalue()[-500:]}")
    if "out of memory" in said.getvalue():
        raise FaultError(f"{arguments[0]}: {said.getvalue()[-500:]}")
    return code


def succeed(*arguments):
    """Run a command that must not fail."""
    result = CliRunner().invoke(cli.cli, [str(one) for one in arguments])
    assert result.exit_code == 0, result.exception


def refusable(function, *arguments):
    """Call a function, which may refuse; 0, or 2 if it did."""
    try:
        function(*arguments)
    except GeosegError as error:
        message = str(error)
    else:
        return 0
    assert len(message.splitlines()) == 1, message
    return 2


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    folder = tmp_path_factory.mktemp("valid")
    scene, labels = write_town(build_town(64, 320, seed=4, nodata_corner=False), folder)
    tiles, out, run = folder / "tiles", folder / "out", folder / "run"
    size = ("--size", 32, "--overlap", 0, "--set", "tile.gap=0")
    succeed("tile", scene, "--labels", labels, "-o", tiles, *size)
    spec = PIXELWISE.model_copy(update={"size": 32, "overlap": 8})
    model = make_model(folder / "model.safetensors", spec)
    succeed("predict", scene, "-m", model, "-o", out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(geoseg.training.loading.loaders, "_LEAST_STEPS", 1)
        succeed("train", tiles, "-o", run, *TRAIN)
    work = interrupted(folder, scene, model)
    return Valid(folder, Path(scene), Path(labels), tiles, model, out, run, work)


TRAIN = (
    "--set", "model.arch=pixelwise", "--set", "train.epochs=1", "--set", "train.batch_size=2",
    "--set", "train.precision=32-true",
)  # fmt: skip


def interrupted(folder, scene, model):
    """The working folder of a prediction that was killed before its footprints."""
    out = folder / "killed"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict_api, "find_outputs", None)
        patch.setattr("geoseg.vectorization.layer.write_layer", _kill)
        with pytest.raises(KeyboardInterrupt):
            predict_api.predict(scene, out, model=model)
    return folder / ".killed.partial"


def _kill(*_, **__):
    raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(geoseg.training.loading.loaders, "_LEAST_STEPS", 1)


@pytest.fixture(autouse=True)
def limited_memory():
    """A limit of the memory that this process may get, where the system has one."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    used = int(Path("/proc/self/status").read_text().split("VmData:")[1].split()[0]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (used + _MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, before)


# Models


def read_safetensors(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = json.loads(header["__metadata__"]["geoseg"])
    return header, data[8 + length :]


def write_safetensors(path, header, data):
    if isinstance(header, dict) and isinstance(header.get("__metadata__"), dict):
        header = header | {"__metadata__": {"geoseg": to_text(header["__metadata__"])}}
    text = to_text(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


@kind
def headers_of_models(valid):
    header, data = read_safetensors(valid.model)
    spec = header.pop("__metadata__")
    files = st.one_of(
        changed_json(spec).map(lambda changed: header | {"__metadata__": changed}),
        changed_json(spec).map(lambda changed: header | {"__metadata__": changed}),
        changed_json(header).map(
            lambda changed: (
                changed | {"__metadata__": spec} if isinstance(changed, dict) else changed
            )
        ),
    )

    def give(folder, changed):
        return use_model(valid, write_safetensors(folder / "m.safetensors", changed, data))

    return Kind(files, give)


@kind
def bytes_of_models(valid):
    def give(folder, data):
        (folder / "m.safetensors").write_bytes(data)
        return use_model(valid, folder / "m.safetensors")

    return Kind(changed_bytes(valid.model.read_bytes()), give)


def use_model(valid, model):
    return (
        command("info", model),
        command("predict", valid.scene, "-m", model, "-o", model.parent / "out"),
        command("export", model, "-o", model.parent / "m.json"),
    )


# Tiles


def copy_tiles(valid, folder):
    shutil.copytree(valid.tiles, folder / "tiles", copy_function=os.link)
    return folder / "tiles"


def use_tiles(tiles):
    codes = (
        command("info", tiles),
        command("train", tiles, "-o", tiles.parent / "run", "--dry-run", *TRAIN),
        refusable(read_all, tiles),
    )
    if codes == (0, 0, 0) and next(TURNS) % _TRAIN_EVERY == 0:
        codes += (command("train", tiles, "-o", tiles.parent / "run", *TRAIN),)
    return codes


def read_all(tiles):
    """Read every tile as training and validation do."""
    for split in ("train", "val"):
        dataset = TileDataset(tiles, split)
        for index in range(len(dataset)):
            dataset[index]
        build_mosaic(dataset, tiles.parent / "mosaic", memory_bytes=1e8)
        if not dataset.info.exclusive:
            ValidationAreas(dataset)


@kind
def tiles_json(valid):
    document = json.loads((valid.tiles / "tiles.json").read_text())

    def give(folder, changed):
        tiles = copy_tiles(valid, folder)
        (tiles / "tiles.json").unlink()
        (tiles / "tiles.json").write_text(to_text(changed))
        return use_tiles(tiles)

    return Kind(changed_json(document), give, _FEW)


@kind
def label_reports(valid):
    document = json.loads((valid.tiles / "labels.json").read_text())

    def give(folder, changed):
        tiles = copy_tiles(valid, folder)
        (tiles / "labels.json").unlink()
        (tiles / "labels.json").write_text(to_text(changed))
        return (command("info", tiles),)

    return Kind(changed_json(document), give)


def changed_tables(table):
    """A table with changed cells, columns dropped, of another kind, or rows repeated."""
    cells = st.tuples(
        st.just("cell"), st.sampled_from(list(table.columns)), st.integers(0, len(table) - 1),
        st.sampled_from(range(len(VALUES))),
    )  # fmt: skip
    columns = st.tuples(
        st.sampled_from(("drop", "all", "text", "float")), st.sampled_from(list(table.columns)),
        st.just(0), st.sampled_from(range(len(VALUES))),
    )  # fmt: skip
    rows = st.tuples(st.sampled_from(("repeat", "none")), st.just(""), st.just(0), st.just(0))
    return st.lists(st.one_of(cells, cells, columns, rows), min_size=1, max_size=2)


def change_table(table, changes):
    table = table.copy()
    for what, column, row, number in changes:
        value = VALUES[number]
        if what == "none":
            table = table.iloc[:0]
        elif what == "repeat":
            table = pd.concat([table, table], ignore_index=True)
        elif column not in table or not len(table):
            continue
        elif what == "drop":
            table = table.drop(columns=column)
        elif what in ("text", "float"):
            table[column] = table[column].astype("object" if what == "text" else "float64")
        elif what == "all":
            table[column] = [value] * len(table)
        else:
            table[column] = [
                value if i == row else old for i, old in enumerate(table[column].tolist())
            ]
    return table


def write_changed_table(source, path, changes):
    """False if the format itself cannot hold the change."""
    path.unlink()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            change_table(gpd.read_parquet(source), changes).to_parquet(path)
    except Exception:  # noqa: BLE001 - of any kind
        return False
    return True


@kind
def tables_of_tiles(valid):
    table = gpd.read_parquet(valid.tiles / "tiles.parquet")

    def give(folder, changes):
        tiles = copy_tiles(valid, folder)
        name = "tiles.parquet"
        if not write_changed_table(valid.tiles / name, tiles / name, changes):
            return ()
        return use_tiles(tiles)

    return Kind(changed_tables(table.drop(columns="geometry")), give, _FEW)


def bytes_of_tiles(valid, name):
    def give(folder, data):
        tiles = copy_tiles(valid, folder)
        (tiles / name).unlink()
        (tiles / name).write_bytes(data)
        return use_tiles(tiles)

    return Kind(changed_bytes((valid.tiles / name).read_bytes()), give, _FEW)


@kind
def bytes_of_tables_of_tiles(valid):
    return bytes_of_tiles(valid, "tiles.parquet")


@kind
def bytes_of_footprints_of_tiles(valid):
    return bytes_of_tiles(valid, "footprints.parquet")


@kind
def bytes_of_tile_images(valid):
    first = sorted((valid.tiles / "images").iterdir())[0].name
    return bytes_of_tiles(valid, f"images/{first}")


# Runs


def give_state(valid, folder, write):
    run = folder / "run"
    shutil.copytree(valid.run, run)
    (run / "best.ckpt").unlink()
    write(run / "last.ckpt")
    more = ("--resume", "--set", "train.epochs=2")
    codes = (command("train", valid.tiles, "-o", run, *TRAIN, *more, "--dry-run"),)
    if codes == (0,) and next(TURNS) % (_TRAIN_EVERY // 5) == 0:
        codes += (command("train", valid.tiles, "-o", run, *TRAIN, *more),)
    return codes


def hostile_tensors(tensor):
    yield torch.full_like(tensor, float("nan")) if tensor.is_floating_point() else tensor - 10
    yield tensor.new_zeros(1).expand(10**6, 10**5)
    yield tensor.flatten()[:0]
    yield tensor.double() if tensor.is_floating_point() else tensor.float()
    yield tensor.new_zeros(3, 5)


@kind
def states_of_runs(valid):
    state = torch.load(valid.run / "last.ckpt", weights_only=True)
    places = list(places_of(state))

    def give(folder, changes):
        changed = torch.load(valid.run / "last.ckpt", weights_only=True)
        for place, number, removes in changes:
            change_place(changed, places[place], number, removes)
        return give_state(valid, folder, lambda path: torch.save(changed, path))

    change = st.tuples(
        st.integers(0, len(places) - 1), st.integers(0, len(VALUES) - 1), st.booleans()
    )
    return Kind(st.lists(change, min_size=1, max_size=2), give, _FEW)


def places_of(tree, above=()):
    keys = list(tree) if isinstance(tree, dict) else range(len(tree))
    for key in keys:
        yield (*above, key)
        if isinstance(tree[key], dict | list):
            yield from places_of(tree[key], (*above, key))


def change_place(tree, place, number, removes):
    for key in place[:-1]:
        if not isinstance(tree, dict | list) or (isinstance(tree, dict) and key not in tree):
            return
        tree = tree[key]
    if not isinstance(tree, dict) or place[-1] not in tree:
        return
    old = tree[place[-1]]
    if removes and number % 4 == 0:
        del tree[place[-1]]
    elif isinstance(old, torch.Tensor) and number % 2:
        choices = list(hostile_tensors(old))
        tree[place[-1]] = choices[number % len(choices)]
    else:
        tree[place[-1]] = VALUES[number]


@kind
def bytes_of_states(valid):
    data = (valid.run / "last.ckpt").read_bytes()

    def give(folder, changed):
        return give_state(valid, folder, lambda path: path.write_bytes(changed))

    return Kind(changed_bytes(data), give)


# Jobs


@kind
def journals(valid):
    lines = [json.loads(line) for line in (valid.work / "journal.jsonl").read_text().splitlines()]

    def give(folder, changed):
        work = valid.folder / ".killed.partial"
        texts = map(to_text, changed) if isinstance(changed, list) else [to_text(changed)]
        (work / "journal.jsonl").write_text("".join(f"{text}\n" for text in texts))
        return use_work(valid)

    return Kind(changed_json(lines), give)


@kind
def bytes_of_working_folders(valid):
    names = sorted(
        path.relative_to(valid.work)
        for path in valid.work.rglob("*")
        if path.is_file() and path.stat().st_size
    )
    choice = st.sampled_from(names).flatmap(
        lambda name: st.tuples(st.just(name), changed_bytes((valid.work / name).read_bytes()))
    )

    def give(folder, changed):
        name, data = changed
        (valid.work / name).write_bytes(data)
        return use_work(valid)

    return Kind(choice, give, _FEW)


def use_work(valid):
    """Continue the killed job, and restore its working folder."""
    try:
        code = command("predict", valid.scene, "-m", valid.model, "-o", valid.folder / "killed")
    finally:
        shutil.rmtree(valid.work, ignore_errors=True)
        shutil.rmtree(valid.folder / "killed", ignore_errors=True)
        shutil.copytree(valid.folder / "kept", valid.work)
    return (code,)


@kind
def manifests(valid):
    document = json.loads((valid.out / MANIFEST_NAME).read_text())

    def give(folder, changed):
        out = folder / "a" / "out"
        shutil.copytree(valid.out, out)
        for place in (folder, folder / "a"):
            (place / "mine.txt").write_text("mine")
        (out / MANIFEST_NAME).write_text(to_text(changed))
        again = ("predict", valid.scene, "-m", valid.model, "-o", out, "--overwrite")
        codes = (command(*again), command("train", valid.tiles, "-o", out, *TRAIN, "--dry-run"))
        for place in (folder, folder / "a"):
            assert (place / "mine.txt").read_text() == "mine"
        return codes

    return Kind(
        changed_json(
            document | {"files": [*document["files"], "x/", "./", "../mine.txt", "../../"]}
        ),
        give,
    )


# Rasters


@kind
def tags_of_probabilities(valid):
    with rasterio.open(valid.out / "prob.tif") as source:
        tags = source.tags()
    tags = {"GEOSEG_CLASSES": '{"names": ["a", "b"], "background": "a"}'} | tags
    parsed = {
        name: json.loads(text) if text.startswith("{") else text for name, text in tags.items()
    }

    def give(folder, changed):
        prob, (outer, scales) = folder / "prob.tif", changed
        shutil.copy(valid.out / "prob.tif", prob)
        if not isinstance(outer, dict):
            return ()
        texts = {
            name: value if isinstance(value, str) else to_text(value)
            for name, value in outer.items()
        }
        texts = {n: t for n, t in texts.items() if n.isidentifier() and "\0" not in t}
        with rasterio.open(prob, "r+", ignore_cog_layout_break="yes") as sink:
            sink.update_tags(**dict.fromkeys(tags, ""))
            try:
                sink.update_tags(**texts)
            except UnicodeEncodeError:  # half a character, which no file holds
                return ()
            if scales:
                sink.scales = [scales] * sink.count
        return (command("info", prob), command("vectorize", prob, "-o", folder / "a.geojson"))

    scales = st.sampled_from((None, None, None, 0.0, -1.0, 1e300, float("nan"), float("inf")))
    return Kind(st.tuples(changed_json(parsed), scales), give)


@kind
def bytes_of_probabilities(valid):
    def give(folder, data):
        (folder / "prob.tif").write_bytes(data)
        prob = folder / "prob.tif"
        return (command("info", prob), command("vectorize", prob, "-o", folder / "a.geojson"))

    return Kind(changed_bytes((valid.out / "prob.tif").read_bytes()), give)


@kind
def bytes_of_scenes(valid):
    def give(folder, data):
        scene = folder / "scene.tif"
        scene.write_bytes(data)
        return (
            command("info", scene),
            command("predict", scene, "-m", valid.model, "-o", folder / "out"),
        )

    return Kind(changed_bytes(Path(valid.scene).read_bytes()), give)


# Layers


def bytes_of_layers(valid, name, write):
    path = valid.folder / name
    if not path.exists():
        write(gpd.read_file(valid.labels), path)

    def give(folder, data):
        (folder / name).write_bytes(data)
        return use_layer(valid, folder / name)

    return Kind(changed_bytes(path.read_bytes()), give, _FEW)


def use_layer(valid, layer):
    tiles = layer.parent / "tiles"
    options = ("--size", 32, "--overlap", 0, "--set", "tile.gap=0")
    return (
        command("info", layer),
        command("tile", valid.scene, "--labels", layer, "-o", tiles, *options),
        command("evaluate", layer, "--truth", valid.labels, "-o", layer.parent / "report"),
    )


def to_file(frame, path):
    frame.to_file(path)


@kind
def geojson(valid):
    path = valid.folder / "a.geojson"
    gpd.read_file(valid.labels).to_crs(4326).to_file(path)
    document = json.loads(path.read_text())
    document["features"] = document["features"][:3]

    def give(folder, changed):
        (folder / "a.geojson").write_text(to_text(changed))
        return use_layer(valid, folder / "a.geojson")

    return Kind(changed_json(document), give, _FEW)


@kind
def bytes_of_geopackages(valid):
    return bytes_of_layers(valid, "a.gpkg", to_file)


@kind
def bytes_of_flatgeobuf(valid):
    return bytes_of_layers(valid, "a.fgb", to_file)


@kind
def bytes_of_geoparquet(valid):
    return bytes_of_layers(valid, "a.parquet", gpd.GeoDataFrame.to_parquet)


def write_zip(frame, path):
    frame.to_file(path.with_name("b.shp"))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for suffix in (".shp", ".shx", ".dbf", ".prj"):
            archive.write(path.with_name(f"b{suffix}"), f"b{suffix}")


@kind
def bytes_of_zips(valid):
    return bytes_of_layers(valid, "b.zip", write_zip)


@kind
def bytes_of_spacenet_csv(valid):
    rows = ["ImageId,BuildingId,PolygonWKT_Pix,Confidence"]
    rows += [f'AOI_{i},{i},"POLYGON ((0 0, {i} 0, {i} 9, 0 0))",0.5' for i in range(1, 5)]

    def give(folder, data):
        (folder / "a.csv").write_bytes(data)
        (folder / "b.csv").write_text("\n".join(rows))
        a, b = folder / "a.csv", folder / "b.csv"
        return (command("evaluate", a, "--truth", b, "-o", folder / "report"),)

    return Kind(changed_bytes("\n".join(rows).encode()), give)


# Settings


@kind
def settings_files(valid):
    document = load_config(None, ["model.arch=pixelwise"]).model_dump(mode="json")

    def give(folder, changed):
        (folder / "a.yaml").write_text(
            yaml.safe_dump(changed) if not isinstance(changed, str) else changed
        )
        path = folder / "a.yaml"
        return (
            command(
                "train", valid.tiles, "-o", folder / "run", "--dry-run", "--config", path, *TRAIN
            ),
        )

    return Kind(changed_json(document), give)


# rasterio's logger cannot decode GDAL's message if that quotes the bytes of a damaged file.
@pytest.mark.filterwarnings("ignore:Exception ignored in. 'rasterio._env.log_error'")
@pytest.mark.parametrize("name", KINDS)
def test_whatever_is_in_a_file_the_command_ends_in_order(valid, tmp_path, name):
    if not (valid.folder / "kept").exists():
        shutil.copytree(valid.work, valid.folder / "kept")
    one, report = KINDS[name](valid), Report()
    chosen = {
        "max_examples": COUNT or one.short, "derandomize": True, "deadline": None, "database": None,
        "phases": [Phase.generate], "suppress_health_check": list(HealthCheck),
    }  # fmt: skip

    @settings(**chosen)
    @given(one.files)
    def explore(changed):
        give(one, changed, tmp_path / "case", report)

    explore()
    lines = [f"{name}: {report}"]
    for what, (times, example, trace) in report.faults.items():
        lines.append(f"  FAULT x {times}: {what}\n    {example}\n{trace}")
    if COUNT:
        sys.stderr.write("\n".join(("", *lines, "")))
    assert not report.faults, "\n".join(lines)


def give(one, changed, folder, report):
    """Give one file to the commands, and note how they ended."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    # Of this process, as other processes may keep it waiting.
    begin = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            codes = one.give(folder, changed)
        report.ends[" ".join(map(str, codes)) or "no file"] += 1
    except (Exception, SystemExit) as error:  # noqa: BLE001 - all of them are faults
        trace = traceback.extract_tb(error.__traceback__)
        last = next((f for f in reversed(trace) if "/geoseg/" in f.filename), trace[-1])
        what = f"{type(error).__name__} in {Path(last.filename).name}:{last.name}"
        text = "".join(traceback.format_exception(error)[-12:])
        times = report.faults.get(what, (0,))[0] + 1
        report.faults[what] = (times, f"{changed!r:.400}", text[-1800:])
    spent = time.process_time() - begin
    report.slowest = max(report.slowest, spent)
    if spent > _SECONDS:
        report.faults.setdefault(f"took {spent:.0f} s", (1, f"{changed!r:.400}", ""))


# Known values of refusals


def header_of(valid, **changes):
    return PIXELWISE.model_dump(mode="json") | {"size": 32, "overlap": 8} | changes


def refusal(*arguments):
    """The error with which a command ends."""
    result = CliRunner().invoke(cli.cli, [str(one) for one in arguments])
    assert isinstance(result.exception, GeosegError), result.exception
    return str(result.exception)


def refused_model(valid, folder, header, weights=None):
    weights = weights or load_file(valid.model)
    save_file(weights, folder / "m.safetensors", metadata={"geoseg": to_text(header)})
    arguments = ("-m", folder / "m.safetensors", "-o", folder / "out")
    message = refusal("predict", valid.scene, *arguments)
    assert not (folder / "out").exists()
    return message


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"size": 10**9}, "size: Input should be less than or equal to 4096"),
        ({"size": 0}, "size: "),
        ({"overlap": 17}, "overlap must be at most half the size (16)"),
        ({"std": [1.0, 0.0, 1.0]}, "std.1: "),
        ({"std": [1.0, math.nan, 1.0]}, "std.1: "),
        ({"std": [1.0, -1.0, 1.0]}, "std.1: "),
        ({"mean": [1.0, 1e38, 1.0]}, "mean.1: "),
        ({"gsd_m": math.inf}, "gsd_m: "),
        ({"gsd_m": 0}, "gsd_m: "),
        ({"bands": []}, "bands: "),
        ({"bands": ["a", "b"]}, "bands, mean and std must have the same length"),
        ({"dtype": "object"}, "dtype: "),
        ({"classes": ["a"] * 2}, "two classes have the same name"),
        ({"classes": [f"c{i}" for i in range(256)]}, "classes: "),
        ({"background": "sea"}, "background must be one of the classes"),
        ({"colours": ["red"]}, "colours.0: "),
        ({"thresholds": {"split_m": 1e300}}, "thresholds.split_m: "),
        ({"options": {"width": 10**9}}, "width: must be a number up to 8192"),
        ({"options": {"rates": [1] * 1000}}, "rates: must be a number"),
        ({"options": {"checkpoint_path": "a.pth"}}, "checkpoint_path: is not an argument"),
        ({"options": {"pretrained_cfg": "a"}}, "pretrained_cfg: is not an argument"),
        ({"provenance": {"a": DEEP}}, "recursion limit exceeded"),
        ({"provenance": {"a": "x" * 10_000_001}}, "it has 10 MB"),
    ],
)  # fmt: skip
def test_a_header_out_of_range_names_the_key(valid, tmp_path, changes, problem):
    message = refused_model(valid, tmp_path, header_of(valid, **changes))
    assert problem in message
    assert "does not fit this version of geoseg" in message


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_weights_that_are_no_numbers(valid, tmp_path, number):
    weights = load_file(valid.model)
    weights["encoder.weight"][0, 1] = number
    message = refused_model(valid, tmp_path, header_of(valid), weights)
    assert "the weights are not all finite (encoder.weight)" in message


def test_weights_that_are_finite_but_give_no_numbers(valid, tmp_path, monkeypatch):
    def one_pixel(network, image):
        prob = torch.full((len(image), 2, *image.shape[2:]), 0.5)
        prob[:, 1, 28, 30] = math.nan
        return prob

    # Whether infinity minus infinity is not a number depends on the kernel of a convolution.
    monkeypatch.setattr("geoseg.prediction.predictor.Network.prob", one_pixel)
    message = refused_model(valid, tmp_path, header_of(valid))
    assert "the network returns values that are not numbers" in message
    spec = load_spec(valid.model)
    grid = Grid(CRS.from_epsg(32645), Affine(0.5, 0, 5e5, 0, -0.5, 3e6), 40, 50)
    with pytest.raises(ModelFileError, match="not numbers"):
        geoseg.load_model(valid.model).predict(np.zeros((3, 40, 50), spec.dtype), grid)


@pytest.mark.parametrize(
    "changes",
    [
        {"arch": "unet", "options": {"width": 8192}},
        {"arch": "unet", "options": {"width": 8192, "depth": 12}},
        {"arch": "deepglobe", "encoder": "resnet18", "options": {"aspp_channels": 8192}},
        {"arch": "smp-unet", "encoder": "resnet152"},
        {"bands": ["a"] * 4096, "mean": [0.0] * 4096, "std": [1.0] * 4096},
    ],
)
def test_a_network_is_compared_with_its_weights_before_it_takes_memory(valid, changes):
    spec = ModelSpec.model_validate(header_of(valid, **changes))
    before = resident_bytes()
    with pytest.raises(ModelFileError, match="do not fit"):
        load_network(spec, load_file(valid.model))
    assert resident_bytes() - before < 300_000_000


@pytest.mark.parametrize("value", [[[1, 2], [3, 4, 5]], {"rates": [6, 12]}, [[8192] * 32] * 32])
def test_arguments_are_lists_of_lists(valid, value):
    spec = ModelSpec.model_validate(header_of(valid, options={"rates": value}))
    assert spec.options == {"rates": value}


@pytest.mark.parametrize("value", [[[[1]]], [[1, 8193]], [[1] * 33], "a" * 201, {"a": {"b": [1]}}])
def test_arguments_beyond_the_limits(valid, value):
    message = "rates: must be a number up to 8192, a text up to 200 characters, or up to 32 of them"
    with pytest.raises(ValueError, match=message):
        ModelSpec.model_validate(header_of(valid, options={"rates": value}))


def test_lengths_fit_the_largest_pixels(valid):
    thresholds = {"simplify_m": 5e3, "split_m": 1e6}
    spec = ModelSpec.model_validate(header_of(valid, gsd_m=1e6, thresholds=thresholds))
    assert (spec.gsd_m, spec.thresholds.simplify_m, spec.thresholds.split_m) == (1e6, 5e3, 1e6)
    with pytest.raises(ValueError, match="simplify_m"):
        ModelSpec.model_validate(header_of(valid, thresholds={"simplify_m": 1.1e6}))


def test_a_tile_that_does_not_fit_into_memory(valid, monkeypatch):
    spec = ModelSpec.model_validate(
        header_of(valid, arch="unet", options={"width": 64}, size=4096, overlap=8)
    )
    # The first convolution takes 3 bands and returns 64, the last one but one 128 and 64.
    assert least_tile_bytes(spec, 4096) == 4 * 4096**2 * (128 + 64)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=8e9))
    with pytest.raises(ModelFileError, match=r"one tile of 4096 pixels needs at least 12\.9 GB"):
        check_tile_memory(spec, 4096)


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("id", "../../a", "column id may only have letters"),
        ("col_off", -32, "column col_off may only have whole numbers from 0"),
        ("row_off", 2**40, "column row_off"),
        ("width", 0, "column width may only have whole numbers from 1 to 32"),
        ("height", 33, "column height"),
        ("valid_fraction", math.nan, "column valid_fraction may only have numbers from 0 to 1"),
        ("building_fraction", 1.5, "column building_fraction"),
        ("split", "all", "column split may only have one of train, val, test"),
        ("class_pixels", [-1, 2], "column class_pixels"),
        ("scene", None, "column scene"),
    ],
)
def test_a_table_of_tiles_out_of_range(valid, tmp_path, column, value, problem):
    tiles = copy_tiles(valid, tmp_path)
    table = gpd.read_parquet(tiles / "tiles.parquet")
    cells = table[column].tolist()
    table[column] = [value, *cells[1:]]
    (tiles / "tiles.parquet").unlink()
    table.to_parquet(tiles / "tiles.parquet")
    message = refusal("train", tiles, "-o", tmp_path / "run", *TRAIN)
    assert f"tiles.parquet: is damaged ({problem}" in message
    assert not (tmp_path / "run").exists()


def test_two_tiles_of_one_id_and_many_in_one_place(valid):
    table = gpd.read_parquet(valid.tiles / "tiles.parquet")
    with pytest.raises(ValueError, match="two tiles have the same id"):
        check_table(pd.concat([table, table]), 32, 32)
    many = pd.concat([table.iloc[:1]] * 101, ignore_index=True)
    many["id"] = [str(number) for number in many.index]
    check_table(many.iloc[:100], 32, 32)
    with pytest.raises(ValueError, match="too many tiles have one position"):
        check_table(many, 32, 32)


def test_a_tile_file_that_is_larger_than_it_should_be(valid, tmp_path):
    tiles = copy_tiles(valid, tmp_path)
    first = sorted((tiles / "images").iterdir())[0]
    with rasterio.open(first) as source:
        profile = source.profile | {"height": 30_000, "width": 90_000, "sparse_ok": True}
    first.unlink()
    with rasterio.open(first, "w", **profile):
        pass
    with pytest.raises(EmptyDatasetError, match="3 bands of uint8 in 30000 x 90000 pixels, but"):
        read_all(tiles)


def test_a_tile_file_with_one_band(valid, tmp_path):
    tiles = copy_tiles(valid, tmp_path)
    first = sorted((tiles / "images").iterdir())[0]
    with rasterio.open(first) as source:
        profile = source.profile | {"count": 1, "height": 16, "photometric": None}
    first.unlink()
    with rasterio.open(first, "w", **profile):
        pass
    message = "has 1 band of uint8 in 16 x 32 pixels, but tiles.json says 3 bands of uint8"
    with pytest.raises(EmptyDatasetError, match=message):
        read_all(tiles)


def test_blocks_of_gigabytes(valid, tmp_path):
    path = tmp_path / "blocks.tif"
    with rasterio.open(valid.scene) as source:
        profile = source.profile | {"height": 60_000, "width": 70_000, "sparse_ok": True}
    profile |= {"tiled": True, "blockxsize": 32_768, "blockysize": 16_384, "compress": "deflate"}
    with rasterio.open(path, "w", **profile):
        pass
    assert path.stat().st_size < 1000
    message = refusal("predict", path, "-m", valid.model, "-o", tmp_path / "out")
    assert "blocks of 16384 x 32768 pixels, 1.6 GB each" in message


def test_states_that_unpack_or_spread(valid, tmp_path):
    state = torch.load(valid.run / "last.ckpt", weights_only=True)
    path = tmp_path / "last.ckpt"
    with (
        zipfile.ZipFile(valid.run / "last.ckpt") as source,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in source.namelist():
            packed.writestr(name, source.read(name))
    with pytest.raises(ModelFileError, match="it is compressed"):
        read_state(path)
    spread = torch.zeros(1).expand(10**9, 10**6)
    for change, problem in (
        ({"optimizer_states": [{"state": {0: {"step": spread}}}]}, "larger than its file"),
        ({"epoch": -1}, "epoch: "),
        ({"epoch": 10**6}, "counters of epochs differ"),
        ({"state_dict": {"a": torch.tensor(math.nan)}}, "not all finite"),
        ({"callbacks": {}}, "callbacks.History: Field required"),
    ):
        torch.save(state | change, path)
        with pytest.raises(ModelFileError, match=problem):
            read_state(path)
    assert read_state(valid.run / "last.ckpt").epoch == 0


def test_a_damaged_journal_costs_time_only(valid, tmp_path):
    """Records that cannot be are done again, and the result is the same."""
    work = valid.work
    kept = tmp_path / "kept"
    shutil.copytree(work, kept)
    job, *records = (work / "journal.jsonl").read_text().splitlines()
    assert [json.loads(record)[0] for record in records] == ["panels 0", "step"]
    damaged = [job, '["panels 0", "many"]', '["step", ["cpu", -1]]', "7"]
    (work / "journal.jsonl").write_text("".join(f"{line}\n" for line in damaged))
    succeed("predict", valid.scene, "-m", valid.model, "-o", valid.folder / "killed")
    for name in ("prob.tif", "mask.tif"):
        with (
            rasterio.open(valid.folder / "killed" / name) as again,
            rasterio.open(valid.out / name) as clean,
        ):
            assert (again.read() == clean.read()).all()
    shutil.rmtree(valid.folder / "killed")
    shutil.copytree(kept, work)


def test_a_manifest_names_nothing_outside_its_folder(tmp_path):
    names = ["a.tif", "b/", "b/c.tif", "./", "..", "../d.tif", "b/../../d.tif", "/etc/passwd", ""]
    (tmp_path / MANIFEST_NAME).write_text(json.dumps({"files": names}))
    assert read_manifest(tmp_path) == {"a.tif", "b/", "b/c.tif"}
    assert find_foreign_file(tmp_path) is None


def test_an_archive_that_unpacks_to_far_more_than_it_weighs(valid, tmp_path, monkeypatch):
    monkeypatch.setattr("geoseg.geo.vector.layer_files._LEAST_SUSPECT", 1_000_000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.geojson", b" " * 5_000_000)
    with pytest.raises(VectorReadError, match=r"1 files would unpack to 0\.005 GB from 0\.00"):
        list_layers(tmp_path / "a.zip")


def test_a_message_of_gdal_that_is_no_text_is_a_refusal(tmp_path, monkeypatch):
    def fail(*_, **__):
        b"\xff".decode("utf-8")

    (tmp_path / "a.gpkg").write_bytes(b"")
    monkeypatch.setattr(rasterio, "open", fail)
    assert not is_raster(tmp_path / "a.gpkg")


def test_text_that_is_no_utf8_in_a_table(valid, tmp_path):
    """A damaged byte inside a text, which pandas decodes only when it is used."""
    tiles = copy_tiles(valid, tmp_path)
    path = tiles / "footprints.parquet"
    frame = gpd.read_parquet(path)
    frame["scene"] = "a-name-of-a-scene"
    path.unlink()
    frame.to_parquet(path, compression=None)
    content = path.read_bytes()
    assert content.count(b"a-name-of-a-scene") >= 1
    path.write_bytes(content.replace(b"a-name-of", b"a-n\xef\xefe-of"))
    message = refusal("train", tiles, "-o", tmp_path / "run", *TRAIN)
    assert "footprints.parquet: is damaged" in message
    with pytest.raises(VectorReadError):
        list(ParquetParts(path))
    with pytest.raises(VectorReadError):
        read_footprints(path)
