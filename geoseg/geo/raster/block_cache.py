"""Limit of GDAL's block cache."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rasterio.env import get_gdal_config, set_gdal_config

_OPTION = "GDAL_CACHEMAX"

# By default GDAL keeps decoded blocks until they fill a twentieth of the machine's memory, so that
# reading a large scene seems to need that much. With half of this limit, two threads that warp and
# one that writes evict what the others need next, and take twice the CPU time.
_LIMIT_BYTES = 64 * 2**20


class _BlockCache:
    """Counts the callers that need the limit, since GDAL has one cache per process.

    `rasterio.Env(GDAL_CACHEMAX=...)` does not serve here: its state is per thread, and inside
    another `rasterio.Env` it leaves the new size behind. For this option rasterio's functions
    read and set the size of the cache itself, in bytes.
    """

    def __init__(self) -> None:
        self._lock, self._entered, self._size_before = threading.Lock(), 0, 0

    def enter(self) -> None:
        with self._lock:
            if self._entered == 0:
                self._size_before = get_gdal_config(_OPTION)
                set_gdal_config(_OPTION, min(_LIMIT_BYTES, self._size_before))
            self._entered += 1

    def leave(self) -> None:
        with self._lock:
            self._entered -= 1
            if self._entered == 0:
                set_gdal_config(_OPTION, self._size_before)


_BLOCK_CACHE = _BlockCache()


@contextmanager
def limited_block_cache() -> Iterator[None]:
    """Limit GDAL's block cache to 64 MB; restore its size when the last caller leaves.

    Works as a decorator, too; can be nested and used from several threads. Where the user sets
    `GDAL_CACHEMAX` in the environment, that size is kept.
    """
    if _OPTION in os.environ:
        yield
        return
    _BLOCK_CACHE.enter()
    try:
        yield
    finally:
        _BLOCK_CACHE.leave()
