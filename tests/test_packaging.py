"""The wheel: it is complete and works alone, outside the checkout."""

import email
import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from geoseg.networks.model_file import shipped_models
from geoseg.town import build_town, write_town

CHECKOUT = Path(__file__).parents[1]

# Slow: a wheel is built, and two commands import torch in a new environment.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """A new environment with the wheel and, as geoseg's dependencies, the packages of this one."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False, symlinks=True)
    install = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install"]
    subprocess.run([*install, "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    # The .pth files in there are not read, and so an editable geoseg is not found by this way.
    shared = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (packages / "dependencies.pth").write_text("\n".join(sorted(shared)))
    return folder


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    return write_town(
        build_town(256, 320, seed=3, gsd_m=0.3), tmp_path_factory.mktemp("town") / "town"
    )


def run(environment, folder, program, *arguments):
    """Run a program of an environment from a folder; return what it printed."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [environment / "bin" / program, *arguments]
    done = subprocess.run(command, cwd=folder, env=known, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_has_weights_sample_settings_types_and_licences(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        fields = email.message_from_bytes(archive.read(metadata))
    assert "geoseg/py.typed" in names
    for model in shipped_models().values():
        assert {f"geoseg/pretrained/{model.name}", f"geoseg/pretrained/{model.stem}.md"} <= names
    sample = ("scene.tif", "footprints.geojson", "area.geojson", "README.md")
    assert {f"geoseg/sample/{name}" for name in sample} <= names
    configs = {path.name for path in (CHECKOUT / "configs").glob("*.yaml")}
    assert {f"geoseg/configs/{name}" for name in configs} <= names
    assert all(name.startswith(("geoseg/", "geoseg-")) for name in names)
    # The code; the weights and the sample's scene; the sample's footprints.
    assert fields["License-Expression"] == "Apache-2.0 AND CC-BY-4.0 AND CC-BY-SA-4.0 AND ODbL-1.0"
    assert fields.get_all("License-File") == [
        "LICENSE", "LICENSES/CC-BY-4.0.txt", "LICENSES/CC-BY-SA-4.0.txt",
        "LICENSES/ODbL-1.0.txt",
    ]  # fmt: skip
    for file in fields.get_all("License-File"):
        assert f"{metadata.removesuffix('METADATA')}licenses/{file}" in names


def test_the_source_archive_has_the_sample(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    sample = {"scene.tif", "footprints.geojson", "area.geojson", "README.md", "__init__.py"}
    assert {f"geoseg/sample/{name}" for name in sample} | {"docs/sample.py"} <= names


def test_the_environment_shares_nothing_with_the_checkout(environment, tmp_path):
    code = "import json, sys, geoseg; print(json.dumps([geoseg.__file__, *sys.path]))"
    file, *paths = json.loads(run(environment, tmp_path, "python", "-c", code))
    assert Path(file).is_relative_to(environment)
    elsewhere = [Path(path) for path in paths if path and not path.startswith(str(environment))]
    assert not any((path / "geoseg" / "cli").is_dir() for path in elsewhere)


def test_the_shipped_model_predicts_outside_the_checkout(environment, town, tmp_path):
    scene, _ = town
    printed = run(environment, tmp_path, "geoseg", "predict", scene, "-o", "out")
    assert "footprints)" in printed
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        "prob.tif", "mask.tif", "footprints.gpkg",
    }  # fmt: skip


def test_shipped_settings_are_found_outside_the_checkout(environment, town, tmp_path):
    scene, labels = town
    run(
        environment, tmp_path, "geoseg", "tile", scene, "--labels", labels, "-o", "tiles",
        "--config", "configs/small.yaml", "--size", "64",
    )  # fmt: skip
    assert (tmp_path / "tiles").is_dir()
