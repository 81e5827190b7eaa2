"""Memory plan of a prediction: threads, read-ahead and panels within a limit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from geoseg.credentials import get_logger
from geoseg.errors import MemoryLimitError
from geoseg.geo.tiling import TileGrid
from geoseg.jobs.memory import release_memory, resident_bytes
from geoseg.options import CRFOptions
from geoseg.prediction.crf.blockwise import BLOCK
from geoseg.prediction.encoding import OutputEncoding

logger = get_logger(__name__)

# Share of the limit for the strips of a panel; the rest is for libraries, network and batches.
_PANEL_SHARE = 0.25

# More for strips saves little time, and would let the memory grow with the width of a mosaic.
_MOST_PANEL_BYTES = 64_000_000

# The allocator keeps some freed memory for each thread, more than a single batch shows.
_ACTIVATION_FACTOR = 1.25

# Peaks of whole predictions were up to 15 % above the sum of their parts, most on a busy machine.
_ESTIMATE_FACTOR = 1.25

# Estimate for the block cache of GDAL (64 MB) and the buffers of decoder, warp and writer.
_RASTER_BYTES = 128_000_000

# Fewest batches to read ahead; with fewer, the network waits for every read.
_MIN_READ_AHEAD = 2

# Bytes of the dense CRF per pixel and axis of its lattice, measured on noisy images of 3 bands;
# smooth images need less.
_CRF_BYTES = 200

# Seconds between two samples of the resident memory.
_SAMPLE_INTERVAL = 0.001


@dataclass(frozen=True)
class MemoryNeeds:
    """Memory that predicting a block needs, in bytes.

    Attributes:
        process: Resident memory before the block: libraries and network.
        activations: Memory of the network while it predicts one batch, as measured.
        inputs: Pixels and validity of one batch.
        outputs: Probabilities of one batch.
        strips: Strips and sums that are held for one panel.
        reading: Pixels of tiles that are read together, and buffers of GDAL.
    """

    process: int
    activations: int
    inputs: int
    outputs: int
    strips: int
    reading: int

    def total(self, threads: int, read_ahead: int) -> int:
        """Return the peak memory with a number of threads and of batches that wait, bytes."""
        # Besides the running batches, one waits for a thread and one is being built.
        running = threads * int(_ACTIVATION_FACTOR * self.activations)
        waiting = (threads + 1) * (self.inputs + self.outputs) + (read_ahead + 1) * self.inputs
        estimated = running + waiting + self.strips + self.reading
        return self.process + int(_ESTIMATE_FACTOR * estimated)


@dataclass(frozen=True)
class MemoryPlan:
    """How a block is predicted within its limit; the result does not depend on it.

    Attributes:
        threads: Batches to predict at the same time.
        read_ahead: Batches to read in advance.
        total: Expected peak memory of the process, bytes.
    """

    threads: int
    read_ahead: int
    total: int


def plan_memory(
    needs: MemoryNeeds,
    max_memory_gb: float | None,
    *,
    threads: int,
    read_ahead: int,
    refuse: bool = True,
) -> MemoryPlan:
    """Choose the most threads, then the deepest read-ahead, that stay within a limit.

    Args:
        needs: Memory of the block.
        max_memory_gb: Limit of the process; no limit when None.
        threads: Maximum number of threads.
        read_ahead: Maximum number of batches to read in advance, at least 1.
        refuse: Whether to raise an error, rather than warn, if one thread does not fit.

    Raises:
        MemoryLimitError: If one thread does not fit and `refuse` is set.
    """
    if max_memory_gb is None:
        return MemoryPlan(threads, read_ahead, needs.total(threads, read_ahead))
    limit = int(max_memory_gb * 1e9)
    depth = min(_MIN_READ_AHEAD, read_ahead)
    while threads > 1 and needs.total(threads, depth) > limit:
        threads -= 1
    while depth > 1 and needs.total(threads, depth) > limit:
        depth -= 1
    if (total := needs.total(threads, depth)) > limit:
        message = (
            f"--max-memory: predicting needs {_gigabytes(total)} even with one thread "
            f"({_gigabytes(needs.process)} for the process with its network), but only "
            f"{max_memory_gb:g} GB are allowed; raise --max-memory"
        )
        if refuse:
            raise MemoryLimitError(message)
        logger.warning("%s", message)
    while depth < read_ahead and needs.total(threads, depth + 1) <= limit:
        depth += 1
    return MemoryPlan(threads, depth, needs.total(threads, depth))


def _gigabytes(count: int) -> str:
    # Rounded up, so that the figure suffices when it is used as the new limit.
    return f"{-(-count // 10_000_000) / 100:.2f} GB"


def count_panels(tiles: TileGrid, encoding: OutputEncoding, max_memory_gb: float) -> int:
    """Return the number of panels that keep the strips of each within a share of the limit.

    Args:
        tiles: All tiles of the scene.
        encoding: Output bands.
        max_memory_gb: Limit of the process.
    """
    needed = strip_bytes(tiles, tiles.width, encoding)
    allowed = min(int(_PANEL_SHARE * max_memory_gb * 1e9), _MOST_PANEL_BYTES)
    return max(1, -(-needed // allowed))


def strip_bytes(tiles: TileGrid, width: int, encoding: OutputEncoding) -> int:
    """Return the bytes of strips and sums that are held while a panel is predicted.

    Args:
        tiles: All tiles of the scene.
        width: Columns of the panel.
        encoding: Output bands.
    """
    item = 4 if encoding.floats else 1
    # One strip is filled while the one before it is written; three arrays of their validity.
    strip = 2 * len(encoding.bands) * item + 3
    return width * (4 * encoding.channels * tiles.overlap + strip * tiles.size)


def check_crf_memory(
    crf: CRFOptions, shape: tuple[int, int], bands: int, max_memory_gb: float
) -> None:
    """Check that the dense CRF can refine a block within a limit.

    Args:
        crf: Options of the CRF.
        shape: (height, width) of the scene on the grid of the tiles.
        bands: Bands of the scene.
        max_memory_gb: Limit of the process.

    Raises:
        MemoryLimitError: If it cannot.
    """
    height, width = (min(length, BLOCK + 2 * crf.halo) for length in shape)
    # The lattice has the axes of position and colour, and one more.
    needed = resident_bytes() + height * width * (bands + 3) * _CRF_BYTES
    if needed > max_memory_gb * 1e9:
        raise MemoryLimitError(
            f"--max-memory: refining by the CRF needs {_gigabytes(needed)}, but only "
            f"{max_memory_gb:g} GB are allowed; raise --max-memory, or use smaller sigmas"
        )


def reading_bytes(group: tuple[int, int], bands: int, itemsize: int) -> int:
    """Return the bytes that are used while neighbouring tiles are read together.

    Args:
        group: (height, width) of the pixels that are read.
        bands: Bands of the scene.
        itemsize: Bytes of a pixel's value.
    """
    # Pixels once as GDAL gives them and once converted, and a few arrays of validity.
    return group[0] * group[1] * (2 * bands * itemsize + 4) + _RASTER_BYTES


def measure_batch(predict: Callable[[], object]) -> int:
    """Return the growth of resident memory while a batch is predicted, bytes.

    Args:
        predict: Predicts one batch of full size.
    """
    # The first batch also loads kernels and packs weights, which later batches share.
    _run_in_thread(predict)
    # A new thread has its own allocation arena, as each prediction thread has.
    release_memory()
    before = resident_bytes()
    with _PeakSampler() as sampler:
        _run_in_thread(predict)
    return max(0, sampler.peak - before)


def _run_in_thread(function: Callable[[], object]) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(function).result()


class _PeakSampler:
    """Samples the resident memory of this process in a background thread.

    The kernel's own peak (VmHWM) is not used, because it would have to be reset for the whole
    process.

    Attributes:
        peak: Largest sample, bytes.
    """

    def __enter__(self) -> Self:
        self.peak = resident_bytes()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()
        self.peak = max(self.peak, resident_bytes())

    def _sample(self) -> None:
        while not self._done.wait(_SAMPLE_INTERVAL):
            self.peak = max(self.peak, resident_bytes())
