"""Limit of GDAL's block cache: in force while it is needed, and gone afterwards."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import rasterio
from rasterio.env import get_gdal_config, set_gdal_config

from geoseg.geo.raster import Scene, limited_block_cache

LIMIT = 64 * 2**20
BEFORE = 200 * 2**20


def cache_size():
    return get_gdal_config("GDAL_CACHEMAX")


@pytest.fixture(autouse=True)
def size_before(monkeypatch):
    """A known size, and no wish of the user."""
    monkeypatch.delenv("GDAL_CACHEMAX", raising=False)
    size = cache_size()
    set_gdal_config("GDAL_CACHEMAX", BEFORE)
    yield
    set_gdal_config("GDAL_CACHEMAX", size)


def test_the_limit_ends_with_the_block():
    with limited_block_cache():
        assert cache_size() == LIMIT
    assert cache_size() == BEFORE


def test_an_error_does_not_leave_the_limit_behind():
    with pytest.raises(ValueError, match="wrong"), limited_block_cache():
        raise ValueError("wrong")
    assert cache_size() == BEFORE


def test_a_smaller_cache_stays_as_small():
    set_gdal_config("GDAL_CACHEMAX", 2**20)
    with limited_block_cache():
        assert cache_size() == 2**20
    assert cache_size() == 2**20


def test_nested_blocks_share_one_limit():
    with limited_block_cache():
        with limited_block_cache():
            assert cache_size() == LIMIT
        assert cache_size() == LIMIT
    assert cache_size() == BEFORE


@pytest.mark.parametrize("options", [{}, {"GDAL_CACHEMAX": 100 * 2**20}])
def test_environments_of_rasterio_around_and_inside(options, make_scene):
    path = make_scene().path
    with rasterio.Env(**options):
        size = cache_size()
        with limited_block_cache(), rasterio.Env(), Scene(path) as scene:
            scene.read()
            # A nested environment of rasterio sets again what the user gave the outer one.
            assert cache_size() == options.get("GDAL_CACHEMAX", LIMIT)
        assert cache_size() == size
    assert cache_size() == BEFORE


def test_a_decorated_function_is_limited_on_each_call():
    @limited_block_cache()
    def size(twice):
        return size(False) if twice else cache_size()

    assert [size(False), size(True)] == [LIMIT, LIMIT]
    assert cache_size() == BEFORE


def test_threads_share_one_limit_that_the_last_one_ends():
    first_left, second_entered = threading.Event(), threading.Event()

    def first():
        with limited_block_cache():
            assert second_entered.wait(10)
        first_left.set()

    def second():
        with limited_block_cache():
            second_entered.set()
            assert first_left.wait(10)
            return cache_size()

    with ThreadPoolExecutor(2) as pool:
        leaving, staying = pool.submit(first), pool.submit(second)
        leaving.result()
        assert staying.result() == LIMIT
    assert cache_size() == BEFORE


def test_many_threads_that_come_and_go():
    def once(_):
        with limited_block_cache():
            return cache_size()

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(once, range(2000))) == {LIMIT}
    assert cache_size() == BEFORE


def test_a_size_in_the_environment_holds(monkeypatch):
    monkeypatch.setenv("GDAL_CACHEMAX", "200")
    with limited_block_cache():
        assert cache_size() == BEFORE
    assert cache_size() == BEFORE


def test_an_import_sets_nothing():
    code = (
        "import os; from rasterio.env import get_gdal_config as get; size = get('GDAL_CACHEMAX');"
        "import geoseg.geo.raster, geoseg.geo.vector, geoseg.prediction, geoseg.data.tiles;"
        "assert get('GDAL_CACHEMAX') == size; assert 'GDAL_CACHEMAX' not in os.environ"
    )
    environment = {k: v for k, v in os.environ.items() if k != "GDAL_CACHEMAX"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
