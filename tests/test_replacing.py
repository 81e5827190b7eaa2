"""A layer is replaced as a whole: nothing of an older one, or of a run that was killed, stays."""

import os
import signal

import geopandas as gpd
import pytest
from shapely.geometry import box

from geoseg.vector import LAYER_SUFFIXES, read_footprints, write_footprints

UTM = "EPSG:32645"


def squares(count):
    shapes = [box(3e5 + 20 * i, 3e6, 3e5 + 20 * i + 9, 3e6 + 7) for i in range(count)]
    return gpd.GeoDataFrame({"id": range(1, count + 1)}, geometry=shapes, crs=UTM)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def in_a_killed_process(work):
    """Does what is given in a process that must not end by itself."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("suffix", LAYER_SUFFIXES)
def test_what_a_killed_run_left_is_gone_after_the_next(tmp_path, suffix):
    def batches():
        yield squares(4)
        kill()

    path, whole = tmp_path / "cut" / f"out{suffix}", tmp_path / "whole" / f"out{suffix}"
    for _ in range(2):
        in_a_killed_process(lambda: write_footprints(path, batches(), crs=UTM))
        assert not path.exists()
    assert len(names(path.parent)) == 1
    for each in (path, whole):
        write_footprints(each, [squares(3)], crs=UTM)
    assert names(path.parent) == names(whole.parent)
    assert len(read_footprints(path)) == 3
