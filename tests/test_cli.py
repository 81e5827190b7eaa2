"""The words of the command line, from any folder, with good input and bad."""

import json
import os
import shutil
import subprocess
import sys
from inspect import signature
from types import SimpleNamespace

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import rasterio
from click.testing import CliRunner

from geoseg.cli import COMMANDS, _report_exception, _report_unraisable, cli, main
from geoseg.geo.vector import count_features, read_footprints
from geoseg.town import build_town, write_town

# As small as a network and its training can be while all the words still do their work.
QUICK = [
    *("--set", "train.epochs=1"),
    *("--set", "train.batch_size=2"),
    *("--set", "model.options.aspp_channels=16"),
]

# click 8.1 mixes stdout and stderr unless this is False; click 8.2 and newer do not have it.
_SEPARATE = {"mix_stderr": False} if "mix_stderr" in signature(CliRunner).parameters else {}
_RUNNER = CliRunner(**_SEPARATE)


def geoseg(*words):
    """Runs the command line in this process; (exit code, stdout, stderr)."""
    result = _RUNNER.invoke(_guarded, [str(word) for word in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


class _Guarded:
    """`main` with arguments, as CliRunner calls a command."""

    name = "geoseg"

    def main(self, args, prog_name, **_):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [prog_name, *args])
            main()


_guarded = _Guarded()


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder in which the whole job was run by its words."""
    folder = tmp_path_factory.mktemp("work")
    here = os.getcwd()
    town = build_town(192, 320, seed=4, gsd_m=0.5)
    scene, truth = write_town(town, folder / "town")
    shutil.copy(scene, folder / "scene.tif")
    gpd.read_file(truth).to_crs(4326).to_file(folder / "footprints.geojson")
    shutil.copy(truth, folder / "truth.gpkg")
    os.chdir(folder)
    try:
        words = (
            "tile scene.tif --labels footprints.geojson -o tiles/ --gsd 0.5 --size 64 "
            "--split stripes --config configs/small.yaml",
            " ".join(["train tiles/ -o runs/a --config configs/small.yaml", *QUICK]),
            "predict scene.tif -m runs/a/model.safetensors -o out/",
            "predict scene.tif -m runs/a/model.safetensors -o footprints.shp",
            "vectorize out/prob.tif -o footprints_again.geojson",
            "evaluate out/footprints.gpkg --truth truth.gpkg --aoi tiles/test.geojson -o report/",
        )
        said = {}
        for line in words:
            code, out, err = geoseg(*line.split())
            assert code == 0, (line, out, err)
            said[line.split()[0]] = out
        yield folder, said
    finally:
        os.chdir(here)


def test_the_words_write_what_they_say(work):
    folder, said = work
    assert "pixels shared between splits: 0" in said["tile"]
    for name in ("out/prob.tif", "out/mask.tif", "out/footprints.gpkg", "footprints.shp"):
        assert (folder / name).is_file()
    assert (folder / "footprints.prj").is_file()
    assert (folder / "footprints.cpg").read_text().strip().upper() == "UTF-8"
    report = json.loads((folder / "report" / "report.json").read_text())
    assert {"tp", "fp", "fn", "precision", "recall", "f1", "iou_pixel"} <= set(report)
    layers = {name for name, _ in pyogrio.list_layers(folder / "report" / "report.gpkg")}
    assert layers == {"TP", "FP", "FN", "layer_styles"}


def test_scores_in_the_training_area_get_a_warning(work, tmp_path, caplog):
    folder, _ = work
    words = ("evaluate", folder / "out/footprints.gpkg", "--truth", folder / "truth.gpkg")
    assert geoseg(*words, "-o", tmp_path / "a", "--aoi", folder / "tiles/test.geojson")[0] == 0
    assert "training" not in caplog.text
    code, out, _ = geoseg(*words, "-o", tmp_path / "b")
    assert code == 0
    assert " true buildings are inside the training and validation areas of its" in caplog.text
    assert "mean IoU of matched footprints " in out


def test_one_verb_and_two_give_the_same_footprints(work):
    folder, said = work
    direct = read_footprints(folder / "out" / "footprints.gpkg")
    again = gpd.read_file(folder / "footprints_again.geojson").to_crs(direct.crs)
    shape = gpd.read_file(folder / "footprints.shp")
    assert len(direct) == len(again) == len(shape)
    assert said["predict"].endswith(f"footprints.shp ({len(shape)} footprints)\n")
    np.testing.assert_allclose(direct.area_m2, again.area_m2, rtol=1e-6)
    # GeoJSON keeps seven decimals of a degree, about a centimetre.
    np.testing.assert_allclose(direct.area, again.area, rtol=5e-3)
    assert direct.is_valid.all()
    assert again.is_valid.all()
    assert shape.is_valid.all()


def test_crf_refines_at_either_verb(work, tmp_path):
    folder, _ = work
    few = {
        verb: ("--set", f"{verb}.crf.bilateral_sigma=20", "--set", f"{verb}.crf.iterations=3")
        for verb in ("predict", "vectorize")
    }
    model = folder / "runs" / "a" / "model.safetensors"
    code, _, err = geoseg(
        "predict",
        folder / "scene.tif",
        "-m",
        model,
        "-o",
        tmp_path / "out",
        "--crf",
        *few["predict"],
    )
    assert code == 0, err
    code, _, err = geoseg(
        "vectorize", folder / "out" / "prob.tif", "-o", tmp_path / "again.gpkg",
        "--crf", folder / "scene.tif",
        *few["vectorize"],
    )  # fmt: skip
    assert code == 0, err
    one = read_footprints(tmp_path / "out" / "footprints.gpkg")
    two = read_footprints(tmp_path / "again.gpkg")
    assert list(one.geometry.to_wkb()) == list(two.geometry.to_wkb())
    plain = read_footprints(folder / "out" / "footprints.gpkg")
    assert list(one.geometry.to_wkb()) != list(plain.geometry.to_wkb())


@pytest.mark.parametrize("suffix", [".geojson", ".shp", ".gpkg", ".fgb", ".parquet"])
def test_every_format_reads_back(work, tmp_path, suffix):
    folder, _ = work
    path = tmp_path / f"footprints{suffix}"
    assert geoseg("vectorize", folder / "out" / "prob.tif", "-o", path)[0] == 0
    layer = gpd.read_parquet(path) if suffix == ".parquet" else read_footprints(path)
    wanted = read_footprints(folder / "out" / "footprints.gpkg")
    assert len(layer) == count_features(path) == len(wanted)
    assert layer.crs.to_epsg() == (4326 if suffix == ".geojson" else 32633)
    assert layer.is_valid.all()
    assert layer.area_m2.sum() == pytest.approx(wanted.area_m2.sum())
    assert layer.confidence.between(0, 1).all()


def test_help_names_every_command():
    code, out, _ = geoseg("--help")
    assert code == 0
    for name in COMMANDS:
        assert f"\n  {name} " in out
        assert geoseg(name, "--help")[0] == 0
    assert set(cli.list_commands(None)) == set(COMMANDS)


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from geoseg.cli import main; sys.argv = ['geoseg', '--help']\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'numpy', 'rasterio', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("missing.tif", "no such file"),
        ("notes.tif", "GDAL cannot read this as a raster"),
        ("notes.txt", "notes.txt, line 1: notes: no such file"),
        ("scene.tif -m missing.safetensors", "no such model file"),
        ("scene.tif -m notes.safetensors", "is not a safetensors file or is damaged"),
        ("pan.tif", "the model needs 3"),
        ("scene.tif -o notes.txt", "unknown suffix .txt"),
        ("scene.tif -o taken", "already exists"),
        ("scene.tif --backend openvino --device gpu", "openvino computes on the CPU"),
        ("scene.tif --tta all", "is not one of"),
        ("scene.tif --set predict.speed=3", "speed"),
    ],
)
def test_a_refusal_needs_neither_torch_nor_geopandas(tmp_path, make_scene, arguments, problem):
    make_scene(descriptions=("red", "green", "blue"))
    make_scene("pan", bands=1)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "photo.jpg").touch()
    for name in ("notes.txt", "notes.tif", "notes.safetensors"):
        (tmp_path / name).write_text("notes")
    words = ["predict", *arguments.split()]
    if "-o" not in words:
        words += ["-o", "out"]
    heavy = ["torch", "lightning", "timm", "distributed", "matplotlib"]
    if ".txt" not in words[-1]:
        heavy.append("geopandas")
    code = (
        f"import sys; from geoseg.cli import main; sys.argv = {['geoseg', *words]}\n"
        "try: main()\nexcept SystemExit as end: print(end.code)\n"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert problem in done.stderr
    assert done.stdout.splitlines() == ["2", "[]"]


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
def test_output_in_a_small_character_set_is_no_error(work, tmp_path, encoding):
    folder, _ = work
    command = [sys.executable, "-m", "geoseg", "vectorize", str(folder / "out" / "prob.tif")]
    done = subprocess.run(
        [*command, "-o", "→.gpkg"],
        cwd=tmp_path, env={**os.environ, "PYTHONIOENCODING": encoding}, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"?.gpkg" in done.stdout
    assert count_features(tmp_path / "→.gpkg") > 0


def test_a_dry_run_writes_nothing(work, tmp_path):
    folder, _ = work
    words = ("tile", folder / "scene.tif", "--labels", folder / "truth.gpkg", "--size", "64")
    code, out, _ = geoseg(*words, "-o", tmp_path / "tiles", "--dry-run")
    assert code == 0
    assert "tiles planned" in out
    training = ("--config", "configs/small.yaml", *QUICK)
    code, out, _ = geoseg("train", folder / "tiles", "-o", tmp_path / "a", "--dry-run", *training)
    assert code == 0
    assert "tiles to train on" in out
    assert "aspp_channels: 16" in out
    model = folder / "runs" / "a" / "model.safetensors"
    code, out, _ = geoseg(
        "predict", folder / "scene.tif", "-m", model, "-o", tmp_path / "o", "--dry-run"
    )
    assert code == 0
    assert "tiles of 64 pixels" in out
    assert list(tmp_path.iterdir()) == []
    code, _, error = geoseg(
        "predict", folder / "scene.tif", "-m", model, "-o", folder / "scene.tif", "--dry-run"
    )
    assert code == 2
    assert "choose another output" in error


@pytest.mark.parametrize(
    ("words", "problem"),
    [(["--max-memory", "."], "--max-memory .: give a size"),
     (["--max-memory", "²GB"], "give a size"),
     (["--max-memory", "1e-9GB"], "give a size"),
     (["--max-memory", "0.01GB"], "--max-memory 0.01GB: is too little"),
     (["--batch-size", "1000000000"], "--batch-size: "),
     (["--bands", "²,1,2"], "no band"),
     (["--aoi", ""], "an argument is empty")],
)  # fmt: skip
def test_what_no_prediction_can_use_is_refused_in_one_line(work, tmp_path, words, problem):
    folder, _ = work
    model = folder / "runs" / "a" / "model.safetensors"
    code, _, error = geoseg(
        "predict", folder / "scene.tif", "-m", model, "-o", tmp_path / "o", *words
    )
    assert code == 2
    assert problem in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_info_describes_everything(work):
    folder, _ = work
    for path, wanted in {
        "scene.tif": "192 x 320",
        "footprints.geojson": "polygons",
        "tiles": "gsd_m",
        "runs/a/model.safetensors": "validation",
    }.items():
        code, out, _ = geoseg("info", folder / path)
        assert code == 0
        assert wanted in out


def test_doctor_and_models_answer():
    code, out, _ = geoseg("doctor")
    assert code == 0, out
    assert "tu-tf_efficientnet_lite0" in out
    for line in (
        "compresses by deflate and zstd",
        "of memory free",
        "weights are stored in",
    ):
        assert line in out
    code, out, _ = geoseg("models")
    assert code == 0
    assert "deepglobe" in out


@pytest.fixture
def bad(work, tmp_path):
    """Input of the kinds that go wrong, in an empty folder of its own."""
    folder, _ = work
    (tmp_path / "text.tif").write_text("not a raster")
    with rasterio.open(folder / "scene.tif") as source:
        profile, data = source.profile, source.read()
    with rasterio.open(tmp_path / "nocrs.tif", "w", **(profile | {"crs": None})) as sink:
        sink.write(data)
    away = rasterio.Affine.translation(50_000, 0) * profile["transform"]
    with rasterio.open(tmp_path / "far.tif", "w", **(profile | {"transform": away})) as sink:
        sink.write(data)
    far = gpd.read_file(folder / "truth.gpkg").translate(50_000, 0)
    gpd.GeoDataFrame(geometry=far, crs=32633).to_file(tmp_path / "far.gpkg")
    write_town(build_town(80, 96, bands=4), tmp_path / "rgbn")
    write_town(build_town(80, 96, bands=1), tmp_path / "pan")
    (tmp_path / "typo.yaml").write_text("train:\n  learning_rate: 1\n")
    for name in ("empty.gpkg", "empty.onnx"):
        (tmp_path / name).mkdir()
    return folder, tmp_path


BAD = {
    "no scene": ("tile absent.tif --labels {truth} -o {new}", "absent.tif: no such file"),
    "text": ("tile {tmp}/text.tif --labels {truth} -o {new}", "cannot read this as a raster"),
    "no crs": ("tile {tmp}/nocrs.tif --labels {truth} -o {new}", "no coordinate reference"),
    "far": ("tile {scene} --labels {tmp}/far.gpkg -o {new}", "outside all scenes"),
    "no labels": ("tile {scene} --labels {tmp}/absent.gpkg -o {new}", "absent.gpkg"),
    "no class": ("tile {scene} --labels {truth} --where id<0 -o {new}", "has no footprint"),
    "bad filter": ("tile {scene} --labels {truth} --where nope=1 -o {new}", "nope"),
    "coarse": ("tile {scene} --labels {truth} --gsd 30 -o {new}", "check --gsd"),
    "mask": ("vectorize {folder}/out/mask.tif -o {new}.gpkg", "is a class mask"),
    "elsewhere": (
        "evaluate {folder}/out/footprints.gpkg --truth {tmp}/far.gpkg -o {new}",
        "do not overlap",
    ),
    "finished": (
        " ".join(["train {tiles} -o {folder}/runs/a --resume --config configs/small.yaml", *QUICK]),
        "is finished",
    ),
    "folder": ("info {folder}/out", "is a folder without tiles, a model or a layer"),
    "folder of rasters": (
        "predict {folder}/out -m {model} -o {new}",
        "out/mask.tif: is a class mask, not an image; give the scene",
    ),
    "folder for prob": (
        "vectorize {tmp}/pan -o {new}.gpkg",
        "1 raster; give a file, such as {tmp}",
    ),
    "folder of nothing": (
        "predict {tmp}/empty.onnx -o {new}",
        "without a raster directly in it; gi",
    ),
    "folder of labels": (
        "tile {scene} --labels {folder}/out -o {new}",
        "out: is a folder with 1 layer; give a file, such as {folder}/out/footprints.gpkg",
    ),
    "folder of truth": (
        "evaluate {truth} --truth {folder}/tiles/images -o {new}",
        "images: is a folder without a layer directly in it, only ",
    ),
    "folder of areas": (
        "evaluate {truth} --truth {truth} --aoi {tmp}/empty.onnx -o {new}",
        "empty.onnx: is a folder without a layer directly in it; give a file",
    ),
    "small tiles": (
        "tile {scene} --labels {truth} --size 10 --seed 3 -o {new}",
        "--size: input should be greater than or equal to 32 (given: --size 10)\n",
    ),
    "percent": (
        "vectorize {prob} -o {new}.gpkg --threshold 60",
        "--threshold: input should be less than 1 (given: --threshold 60.0); shares are from 0 to "
        "1, not percent: --threshold 0.6\n",
    ),
    "confidence in percent": (
        "vectorize {prob} -o {new}.gpkg --min-confidence 80",
        "; shares are from 0 to 1, not percent: --min-confidence 0.8\n",
    ),
    "shares in percent": (
        "tile {scene} --labels {truth} --fractions 70,15,15 -o {new}",
        "(given: --fractions 70,15,15); shares are from 0 to 1, not percent: --fractions 0.7,0.15,",
    ),
    "unreachable": (
        "vectorize {prob} -o {new}.gpkg --threshold 600",
        "--threshold: input should be less than 1 (given: --threshold 600.0)\n",
    ),
    "name of the option": (
        "predict {scene} -o {new} --set vectorize.threshold=0.6",
        "vectorize.threshold: no such key; did you mean vectorize.body? the keys are",
    ),
    "sum of shares": (
        "tile {scene} --labels {truth} --fractions 0.5,0.3,0.3 -o {new}",
        "train must be above 0 (given: --fractions 0.5,0.3,0.3)\n",
    ),
    "overlap": ("tile {scene} --labels {truth} --overlap 200 -o {new}", "at most half"),
    "band": ("tile {scene} --labels {truth} --bands 7 -o {new}", "has no band 7"),
    "no tiles": (
        "train {tmp}/rgbn -o {new}",
        "rgbn: is not a tiles folder, since it has no tiles.json; give one that geoseg tile made\n",
    ),
    "no folder": ("train {tmp}/nosuch -o {new}", "nosuch: no such folder; check the path"),
    "arch": ("train {tiles} -o {new} --set model.arch=nonet", "choose from deepglobe, deeplabv2"),
    "arch dry": (
        "train {tiles} -o {new} --dry-run --set model.arch=nonet",
        "choose from deepglobe, deeplabv2",
    ),
    "both": ("train {tiles} -o {new} --resume --overwrite", "exclude each other"),
    "batch": ("train {tiles} -o {new} --set train.batch_size=0", "train.batch_size: input should"),
    "file of tiles": ("train {scene} -o {new}", "is a file; give the folder"),
    "state": ("predict {scene} -m {folder}/runs/a/best.ckpt -o {new}", "is a training checkpoint"),
    "file for tiles": (
        "tile {scene} --labels {truth} -o {model} --overwrite",
        "is a file, but a folder is written",
    ),
    "weights dry": (
        "train {tiles} -o {new} --dry-run --set model.encoder_weights={tmp}/absent.pth",
        "absent.pth",
    ),
    "resume dry": (
        "train {tiles} -o {folder}/runs/a --dry-run --resume --set train.seed=7",
        "was started with",
    ),
    "tiles dry": ("tile {scene} --labels {truth} -o {tiles} --dry-run", "already exists"),
    "run dry": ("train {tiles} -o {folder}/runs/a --dry-run", "already exists"),
    "rates resumed": ("train {tiles} -o {new} --find-lr --resume", "--find-lr and --resume"),
    "rates dry": ("train {tiles} -o {new} --find-lr --dry-run", "--find-lr and --dry-run"),
    "typo": ("train {tiles} -o {new} --config {tmp}/typo.yaml", "train.learning_rate: no such key"),
    "set": ("train {tiles} -o {new} --set train.lr=-1", "--set: train.lr: "),
    "config": ("train {tiles} -o {new} --config absent.yaml", "geoseg ships"),
    "other bands": ("predict {tmp}/pan/scene.tif -m {model} -o {new}", "has 1 band ("),
    "no model": ("predict {scene} -m {tmp}/absent.safetensors -o {new}", "no such model file"),
    "not a model": ("predict {scene} -m {scene} -o {new}", "is not a safetensors file"),
    "suffix": ("predict {scene} -m {model} -o {new}.xyz", ".xyz"),
    "no prob": ("vectorize {scene} -o {new}.gpkg", "scene.tif"),
    "format": ("vectorize {prob} -o {new}.kml", ".kml"),
    "no colours": (
        "vectorize {prob} -o {new}.gpkg --crf {tmp}/absent.tif --dry-run",
        "absent.tif: no such file",
    ),
    "colours elsewhere": (
        "vectorize {prob} -o {new}.gpkg --crf {tmp}/far.tif --dry-run",
        "has no valid pixel in the area of the probabilities",
    ),
    "layer is a folder": (
        "vectorize {prob} -o {tmp}/empty.gpkg --overwrite",
        "empty.gpkg: is a folder",
    ),
    "folder dry": ("vectorize {prob} -o {tmp}/empty.gpkg --dry-run", "empty.gpkg: is a folder"),
    "model is a folder": ("export {model} -o {tmp}/empty.onnx", "empty.onnx: is a folder"),
    "no truth": ("evaluate {truth} --truth {tmp}/absent.gpkg -o {new}", "absent.gpkg"),
    "aoi": ("evaluate {truth} --truth {truth} --aoi {tmp}/far.gpkg -o {new}", "far.gpkg"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_with_one_line_and_code_2(bad, case):
    folder, tmp = bad
    line, wanted = BAD[case]
    names = {
        "tmp": tmp, "folder": folder, "new": tmp / "new", "scene": folder / "scene.tif",
        "truth": folder / "truth.gpkg", "tiles": folder / "tiles",
        "model": folder / "runs/a/model.safetensors", "prob": folder / "out/prob.tif",
    }  # fmt: skip
    before = sorted(tmp.rglob("*"))
    code, out, err = geoseg(*line.format(**names).split())
    assert code == 2
    assert wanted.format(**names) in err
    assert err.startswith("geoseg: ")
    assert len((out + err).splitlines()) == 1, out + err
    assert sorted(tmp.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("tile", "Missing argument 'SCENE...'; see geoseg tile --help"),
        ("tile a.tif --labels b.gpkg", "Missing option '-o' / '--output'; see geoseg tile --help"),
        ("tile a.tif --gsd much", "Invalid value for '--gsd': 'much' is not a valid float; see"),
        (
            "predict a.tif --tta all",
            "'all' is not one of 'none', 'flips', 'd4'; see geoseg predict",
        ),
        ("fly", "No such command 'fly'; the commands are tile, train, predict, merge, "),
        ("train tiles --velocity 3", "No such option '--velocity'; see geoseg train --help"),
        ("predict a.tif --threshold 0.4", "did you mean --set vectorize.body=0.4? see geoseg"),
        ("predict a.tif --min-area-m2=9", "did you mean --set vectorize.min_area_m2=9? see"),
        ("predict a.tif --where x", "'--where'; it is an option of geoseg tile and evaluate; see"),
        ("vectorize p.tif --threshhold 0.4", "did you mean --threshold? see geoseg vectorize"),
        ("train tiles --max-minutes 5", "did you mean --set train.max_minutes=5? see geoseg train"),
        ("train tiles --max-minuts --dry-run", "did you mean --set train.max_minutes=VALUE? see"),
        (
            "train tiles -o b max_minutes=5",
            "(max_minutes=5); did you mean --set train.max_minutes=5?",
        ),
        (
            "train tiles --gsd 1",
            "it is an option of geoseg tile and predict; see geoseg train --help",
        ),
        (
            "predict tile.size=9 -o b",
            "tile.size=9: no such file; tile.size is a setting of geoseg tile",
        ),
        ("tile size=512 --labels a -o b", "size=512: no such file; did you mean --set tile.size="),
        ("tarin tiles", "No such command 'tarin'; did you mean train? see geoseg --help"),
    ],
)
def test_words_that_are_wrong_end_with_one_line_and_code_2(words, wanted):
    code, out, err = geoseg(*words.split())
    assert code == 2
    assert out == ""
    assert err.startswith("geoseg: ")
    assert wanted in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("train {tiles} -o {new} --set tile.size=512", "is a setting of geoseg tile and has no "
         "effect in geoseg train, since {tiles} was cut with tile.size=64; remove it"),
        ("train {tiles} -o {new} --set predict.tta=d4", "is a setting of geoseg predict and has"),
        ("train absent -o {new} --set tile.seed=1", "has no effect in geoseg train; remove it"),
        ("tile {scene} --labels {truth} -o {new} --set model.arch=fpn", "setting of geoseg train"),
        ("predict {scene} -o {new} --set train.lr=1", "is a setting of geoseg train and has no ef"),
        ("predict {scene} -o {new} --set vectorize.crf.iterations=3", "use predict.crf, or --crf"),
        ("predict {scene} -o {new} --set vectorize.block_px=3", "applies only to geoseg vectorize"),
        ("vectorize {prob} -o {new}.gpkg --set predict.tta=d4", "is a setting of geoseg predict"),
        ("vectorize {prob} -o {new}.gpkg --set vectorize.crf.iterations=3", "without --crf SCENE"),
        ("evaluate {truth} --truth {truth} -o {new} --set tile.size=64", "is a setting of geoseg "),
        ("models --set train.lr=1", "is a setting of geoseg train and has no effect in geoseg mod"),
        ("train {tiles} -o {new} --set max_minutes=5", "no such key; did you mean train.max_minut"),
    ],
)  # fmt: skip
def test_settings_of_other_commands_are_refused(work, tmp_path, words, wanted):
    folder, _ = work
    names = {
        "new": tmp_path / "new", "scene": folder / "scene.tif", "truth": folder / "truth.gpkg",
        "tiles": folder / "tiles", "prob": folder / "out/prob.tif",
    }  # fmt: skip
    code, out, err = geoseg(*words.format(**names).split())
    assert (code, out) == (2, "")
    assert wanted.format(**names) in err
    assert not list(tmp_path.iterdir())


def test_a_file_that_contradicts_the_tiles_gets_a_warning(work, tmp_path):
    folder, _ = work
    file = tmp_path / "a.yaml"
    file.write_text(
        "tile: {size: 128, gsd_m: 0.3, split: blocks, targets: [building, border]}\n"
        "predict: {tta: d4}\n"
    )
    words = ("train", folder / "tiles", "-o", tmp_path / "a", "--dry-run", "--config")
    random = ("--set", "model.encoder_weights=none", "--set", "model.encoder=resnet18")
    code, _, err = geoseg(*words, file, *random)
    assert code == 0
    assert f"{file}: tile.size is 128, but {folder / 'tiles'} was cut with 64, which is us" in err
    assert "tile.gsd_m is 0.3, but" in err
    assert "tile.targets is building, border, but" in err
    assert "with building, border, contact, which" in err
    assert "tile.split" not in err
    file.write_text("tile: {size: 64, gsd_m: 0.5001, overlap: 32}\n")
    assert geoseg(*words, file, *random)[2] == ""


def test_no_words_get_the_help():
    code, _, err = geoseg()
    assert code == 2
    assert "Usage: geoseg" in err
    assert geoseg("tile", "--help")[0] == 0


def test_an_interruption_is_said_in_one_line(monkeypatch, tmp_path):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("geoseg.api.tile.plan_tiles", stop)
    (tmp_path / "a.tif").touch()
    code, out, err = geoseg("tile", tmp_path / "a.tif", "--labels", "b.gpkg", "-o", "nowhere")
    assert code == 130
    assert (out + err).strip().startswith("geoseg: interrupted; ")
    assert len((out + err).strip().splitlines()) == 1


def test_only_messages_of_gdal_that_are_no_text_are_not_reported(monkeypatch):
    reported = []
    monkeypatch.setattr(sys, "__unraisablehook__", reported.append)
    undecodable = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
    ignored = [
        SimpleNamespace(exc_value=error, err_msg=None, object=source)
        for error in (undecodable, ValueError("a fault"))
        for source in ("rasterio._env.log_error", "another.function")
    ]
    for one in ignored:
        _report_unraisable(one)
    assert reported == ignored[1:]
    printed = []
    monkeypatch.setattr(sys, "__excepthook__", lambda *given: printed.append(given))
    trace = object()
    for error, where in ((undecodable, None), (undecodable, trace), (ValueError(), None)):
        _report_exception(type(error), error, where)
    assert [(kind, where) for kind, _, where in printed] == [
        (UnicodeDecodeError, trace), (ValueError, None),
    ]  # fmt: skip
