"""A layer is replaced as a whole: nothing of an older one, or of a run that was killed, stays."""

import errno
import os
import signal
import sqlite3
from contextlib import closing

import geopandas as gpd
import numpy as np
import pytest
from shapely.geometry import box

from geoseg.errors import DiskFullError, VectorReadError
from geoseg.geo.vector import LAYER_SUFFIXES, read_footprints, write_footprints
from geoseg.jobs.journal import Journal, describe_job
from geoseg.jobs.output import file_output

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


def test_what_sqlite_left_of_an_older_geopackage_does_not_reach_the_new(tmp_path):
    path = tmp_path / "out.gpkg"
    write_footprints(path, [squares(2)], crs=UTM)

    def edit():  # as QGIS does, until it is killed
        database = sqlite3.connect(path)
        database.execute("PRAGMA journal_mode=wal")
        database.execute("PRAGMA wal_autocheckpoint=0")
        database.execute("DELETE FROM gpkg_contents")
        database.commit()
        kill()

    in_a_killed_process(edit)
    (tmp_path / "out.gpkg-journal").write_bytes(b"half of a page")
    assert names(tmp_path) == ["out.gpkg", "out.gpkg-journal", "out.gpkg-shm", "out.gpkg-wal"]
    write_footprints(path, [squares(900)], crs=UTM)
    assert names(tmp_path) == ["out.gpkg"]
    assert len(read_footprints(path)) == 900
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_reader_of_the_old_geopackage_keeps_what_it_opened(tmp_path):
    path = tmp_path / "out.gpkg"
    write_footprints(path, [squares(2)], crs=UTM)
    count = "SELECT count(*) FROM footprints"
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode=wal")
        assert database.execute(count).fetchone() == (2,)
        write_footprints(path, [squares(5)], crs=UTM)
        assert database.execute(count).fetchone() == (2,)
    assert len(read_footprints(path)) == 5
    assert names(tmp_path) == ["out.gpkg"]


@pytest.mark.parametrize("moves", range(5))
def test_a_shapefile_is_never_mixed_of_two(tmp_path, monkeypatch, moves):
    path = tmp_path / "out.shp"
    write_footprints(path, [squares(2)], crs=UTM)
    replace, done = os.replace, []

    def replace_some(source, target):
        if len(done) == moves:
            kill()
        done.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", replace_some)
    in_a_killed_process(lambda: write_footprints(path, [squares(5)], crs=UTM))
    assert not path.exists()
    monkeypatch.setattr(os, "replace", replace)
    write_footprints(path, [squares(5)], crs=UTM)
    assert read_footprints(path)["id"].tolist() == [1, 2, 3, 4, 5]


def judged(count):
    frame = squares(count)
    return frame.assign(confidence=np.linspace(0.05, 0.65, count)[::-1])


def test_a_full_disk_is_named_where_sqlite_finds_it(tmp_path, monkeypatch):
    connect = sqlite3.connect

    def connect_to_a_full_disk(path):
        database = connect(path)
        database.execute("PRAGMA max_page_count=1")  # no page more than there are
        opened.append(database)
        return database

    opened = []
    monkeypatch.setattr(sqlite3, "connect", connect_to_a_full_disk)
    with pytest.raises(DiskFullError, match=r"out\.gpkg: the disk is full; free some space"):
        write_footprints(tmp_path / "out.gpkg", [judged(3)], crs=UTM)
    assert names(tmp_path) == []
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        opened[0].execute("SELECT 1")


def test_a_full_disk_does_not_end_a_job(tmp_path):
    job = describe_job("write")

    def batches():
        yield judged(3)
        raise OSError(errno.ENOSPC, "no space left", "a file of GDAL's")

    with (
        pytest.raises(DiskFullError, match=r"out\.gpkg: the disk is full; .* where it stopped"),
        file_output(tmp_path / "out.gpkg", job=job) as work,
    ):
        write_footprints(work.result, batches(), crs=UTM)
    assert names(tmp_path) == [".out.gpkg.partial"]
    assert names(tmp_path / ".out.gpkg.partial") == [Journal.NAME, "result"]
    assert names(tmp_path / ".out.gpkg.partial" / "result") == []


@pytest.mark.parametrize("size", [1, 4, 40])
def test_the_most_doubtful_are_kept_however_they_come(tmp_path, monkeypatch, size):
    monkeypatch.setattr("geoseg.geo.vector.geopackage.MAX_POINTS", 7)
    frame = judged(40)
    batches = (frame[start : start + size] for start in range(0, 40, size))
    write_footprints(tmp_path / "out.gpkg", batches, crs=UTM)
    points = gpd.read_file(tmp_path / "out.gpkg", layer="review")
    assert points["id"].tolist() == [40, 39, 38, 37, 36, 35, 34]
    assert len(read_footprints(tmp_path / "out.gpkg")) == 40


def test_a_folder_is_not_replaced_by_a_layer(tmp_path):
    (tmp_path / "out.gpkg").mkdir()
    with pytest.raises(VectorReadError, match=r"out\.gpkg: is a folder; name a file in it"):
        write_footprints(tmp_path / "out.gpkg", [squares(3)], crs=UTM)
    assert names(tmp_path) == ["out.gpkg"]
