"""The benchmark for GPUs runs on a CPU with small sizes, so that it runs once a GPU is at hand."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_every_part_measures_what_it_says():
    sizes = ["--town", "512", "--side", "512", "--batch", "2", "--steps", "1", "--repeat", "1"]
    choice = ["--device", "cpu", "--network", "lite0", "--backend", "torch"]
    command = [sys.executable, BENCHMARKS / "gpu.py", *sizes, *choice]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["part"] for row in rows] == ["predict", "footprints", "train"]
    predicted, footprints, train = rows
    assert (predicted["backend"], predicted["batch_size"], predicted["tile"]) == ("torch", 2, 256)
    speeds = predicted["tiles_per_s"]
    assert predicted["ratio"] == pytest.approx(speeds["predict"] / speeds["network"], abs=0.05)
    assert footprints["footprints"] > 0
    assert footprints["megapixels_per_s"] == pytest.approx(
        512**2 / 1e6 / footprints["seconds"], abs=0.02
    )
    # Each stage was found under its name; two of them run in threads of their own.
    assert all(seconds > 0 for seconds in footprints["stages"].values())
    assert footprints["stages"]["vectorizing"] < footprints["seconds"]
    assert train["ratio"]["step"] == pytest.approx(
        train["steps_per_s"]["train"] / train["steps_per_s"]["step"], rel=0.01
    )


@pytest.mark.parametrize("nested", [True, False])
def test_no_second_is_counted_for_two_stages(monkeypatch, nested):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from stopwatch import Stopwatch

    home, user = ModuleType("geoseg.home"), ModuleType("geoseg.user")
    home.inner = user.known_as = inner = lambda: "inner"
    home.outer = lambda: [home.inner(), user.known_as()]
    for module in (home, user):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    ticks = iter(range(100))
    monkeypatch.setattr("stopwatch.time.perf_counter", lambda: next(ticks))
    stopwatch = Stopwatch(nested=nested)
    with stopwatch.watch({"inside": ["geoseg.home:inner"], "all": ["geoseg.home:outer"]}):
        assert home.outer() == ["inner", "inner"]
        assert home.inner() == "inner"
    # The clock ticks when it is read: before and after each function that is measured.
    assert stopwatch.seconds == ({"inside": 3, "all": 3} if nested else {"inside": 1, "all": 1})
    assert home.inner is user.known_as is inner
    sys.modules.pop("stopwatch")
