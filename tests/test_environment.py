"""Libraries read variables that suit them, whatever other programs have set."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import rasterio

from geoseg.cli import environment
from geoseg.town import build_town, write_town

BUNDLED = Path(rasterio.__file__).parent / "proj_data"

pytestmark = pytest.mark.skipif(
    not (BUNDLED / "proj.db").is_file(), reason="rasterio was built against the system's PROJ"
)


@pytest.fixture
def foreign(tmp_path):
    """Data of an installation that is too old, or broken."""
    (tmp_path / "proj7").mkdir()
    (tmp_path / "proj7" / "proj.db").touch()
    return tmp_path / "proj7"


@pytest.fixture(autouse=True)
def nothing_removed(monkeypatch):
    monkeypatch.setattr(environment, "removed", [])


@pytest.mark.parametrize("name", ["PROJ_LIB", "PROJ_DATA", "GDAL_DATA"])
def test_data_of_another_installation_are_not_used(foreign, name):
    variables = {name: str(foreign), "HOME": "/root"}
    (line,) = environment.drop_unsuitable_data(variables)
    assert variables == {"HOME": "/root"}
    library = name.partition("_")[0]
    assert line.startswith(f"{name}={foreign}: is not the data of this {library}; ")


def test_suitable_data_are_used(foreign):
    suitable = {
        "PROJ_LIB": f"{foreign}:{BUNDLED}", "PROJ_DATA": str(BUNDLED),
        "GDAL_DATA": str(BUNDLED.parent / "gdal_data"),
    }  # fmt: skip
    variables = dict(suitable)
    assert environment.drop_unsuitable_data(variables) == []
    assert variables == suitable


def test_commands_work_and_doctor_diagnoses(foreign, tmp_path):
    scene, _ = write_town(build_town(40, 60, seed=1), tmp_path / "town")

    def run(*words):
        return subprocess.run(
            [sys.executable, "-m", "geoseg", *words], capture_output=True, text=True, check=False,
            env={"PROJ_LIB": str(foreign), "GDAL_DATA": "/nowhere", "PATH": ""},
        )  # fmt: skip

    found = run("info", str(scene))
    assert found.returncode == 0
    assert "EPSG:32633" in found.stdout
    assert f"geoseg: PROJ_LIB={foreign}: is not the data of this PROJ" in found.stderr
    found = run("doctor")
    assert found.returncode == 1
    assert "wrong variables" in found.stdout
    assert "ok    proj" in found.stdout


@pytest.mark.parametrize(
    ("chosen", "turns"),
    [({}, "20000"), ({"GOMP_SPINCOUNT": "500"}, "500"), ({"OMP_WAIT_POLICY": "passive"}, "0")],
)
def test_waiting_threads_leave_the_core_to_others(chosen, turns):
    variables = {name: value for name, value in os.environ.items() if "OMP_" not in name}
    found = subprocess.run(
        [sys.executable, "-m", "geoseg", "doctor"], capture_output=True, text=True, check=False,
        env=variables | {"OMP_DISPLAY_ENV": "verbose"} | chosen,
    )  # fmt: skip
    lines = [line for line in found.stderr.splitlines() if "GOMP_SPINCOUNT" in line]
    if not lines:
        pytest.skip("torch has another OpenMP")
    assert all(f"'{turns}'" in line for line in lines)
