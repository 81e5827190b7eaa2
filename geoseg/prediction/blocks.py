"""Predicts a block of tiles and leaves its bands, a file each, in a folder."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from rasterio.windows import Window
from torch import Tensor

from geoseg.errors import ConfigError
from geoseg.geo.aoi import AOI
from geoseg.geo.grid import Grid
from geoseg.geo.raster import SceneInfo, limited_block_cache, open_for_writing
from geoseg.geo.tiling import Tile
from geoseg.networks.device import choose_device, lacks_memory
from geoseg.networks.model_file import load_model
from geoseg.prediction.batches import STRIP, TileBatch, iter_batches, read_ahead
from geoseg.prediction.encoding import ValuesKind
from geoseg.prediction.predictor import Predictor
from geoseg.prediction.scheduling import band_path
from geoseg.prediction.stitching import Stitcher, TileBlock

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

# Told how many tiles more are finished.
Count = Callable[[int], None]

# Pixels of a batch on a CPU, which gains nothing from more.
_CPU_PIXELS = 512 * 512

# On a GPU two sizes of batch tell what a tile takes. A part of its memory is left to others, and
# beyond the largest size there is nothing to gain.
_TRIED = (1, 3)
_GPU_SHARE = 0.6
_MOST = 64

# Batches that are read while others are predicted, at least, and bands that wait to be written.
_READ_AHEAD = 2
_WRITE_BEHIND = 1


@dataclass(frozen=True)
class BlockTask:
    """A block of a scene's tiles: a recipe that any process can carry out.

    Attributes:
        folder: Where the bands go.
        scene: The scene, its path absolute.
        grid: The grid that tiles are predicted on.
        block: The tiles.
        models: Model files, whose probabilities are averaged.
        device: `auto`, `cpu` or `gpu`.
        backend: What computes the networks.
        tta: Views of each tile.
        batch_size: Tiles per step; None until `choose_step` says.
        threads: Batches predicted at a time, where a CPU computes.
        values: What is kept of the probabilities, and how.
        aoi: Area of interest in the grid's CRS; the whole scene when None.
    """

    folder: Path
    scene: SceneInfo
    grid: Grid
    block: TileBlock
    models: tuple[Path, ...]
    device: str
    backend: str
    tta: str
    batch_size: int | None
    threads: int
    values: ValuesKind
    aoi: AOI | None = None


@dataclass(frozen=True)
class Step:
    """What is predicted at once, which the bytes depend on.

    Attributes:
        device: `cpu` or `gpu`.
        batch_size: Tiles.
    """

    device: str
    batch_size: int


def choose_step(task: BlockTask) -> Step:
    """Settles what a task leaves open, where it is to be carried out.

    On a CPU tiles are predicted a few at a time; on a GPU as many as its memory holds, all
    GPUs of one kind agreeing in that.
    """
    device = choose_device(task.device)
    name = "gpu" if device.type == "cuda" else "cpu"
    if task.batch_size is not None:
        return Step(name, task.batch_size)
    size = task.block.plan.size
    if name == "cpu":
        return Step(name, max(1, _CPU_PIXELS // size**2))
    predictor = _open_predictor(replace(task, device=name))
    side, bands = size + 2 * predictor.margin, len(predictor.spec.bands)
    used = []
    for count in _TRIED:
        torch.cuda.reset_peak_memory_stats(device)
        predictor(
            np.zeros((count, bands, side, side), task.scene.dtype),
            np.ones((count, side, side), bool),
        )
        used.append(torch.cuda.max_memory_allocated(device))
    each = max(1, (used[1] - used[0]) // (_TRIED[1] - _TRIED[0]))
    fits = int(_GPU_SHARE * torch.cuda.get_device_properties(device).total_memory - used[0]) // each
    return Step(name, max(1, min(_MOST, 2 ** (max(1, fits).bit_length() - 1))))


@limited_block_cache()
def predict_block(task: BlockTask, count: Count | None = None) -> int:
    """Predicts the tiles of a block and writes its bands, each when it is settled.

    Args:
        task: What to do.
        count: Told how many tiles more are finished.

    Returns:
        How many tiles were predicted or passed over.

    Raises:
        SceneReadError: If the scene cannot be read.
        ConfigError: If a single tile does not fit into the device's memory.
    """
    predictor = _open_predictor(task)
    batch_size = task.batch_size or choose_step(task).batch_size
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        scene = stack.enter_context(task.scene.open(task.grid))
        bands = stack.enter_context(_BandWriter(task))
        batches = iter_batches(
            scene, task.block, batch_size=batch_size, margin=predictor.margin, aoi=task.aoi
        )
        stitcher = Stitcher(task.block, predictor.channels, predictor.device)
        # Tiles are read by strips: with fewer ahead, all would wait for the next strip.
        ahead = max(_READ_AHEAD, STRIP // batch_size)
        for batch, probs in _predict_all(
            predictor, read_ahead(batches, ahead), batch_size, task.threads
        ):
            bands.known.update(batch.known)
            for tile, place in batch.tiles:
                window, share = stitcher.add(tile, None if place is None else probs[place])
                if task.block.has(tile):
                    bands.put(tile, window, share)
            if count:
                count(len(batch.tiles))
    return len(task.block)


def _open_predictor(task: BlockTask) -> Predictor:
    """The models, which a process keeps for its next block, unless the files have changed."""
    versions = tuple(path.stat().st_mtime_ns for path in task.models)
    settings = (task.device, task.tta, task.values.spread, task.backend, task.threads)
    return _load_predictor(task.models, versions, *settings)


@lru_cache(maxsize=1)
def _load_predictor(
    models: tuple[Path, ...],
    _: tuple[int, ...],
    device: str,
    tta: str,
    spread: bool,
    backend: str,
    threads: int,
) -> Predictor:
    (spec, weights), *others = (load_model(path) for path in models)
    return Predictor(
        spec, weights, device, tta, others=others, spread=spread, backend=backend, threads=threads
    )


def _predict_all(
    predictor: Predictor, batches: Iterable[TileBatch], batch_size: int, threads: int
) -> Iterator[tuple[TileBatch, Tensor]]:
    """Predicts batches in their order.

    A CPU computes several at a time, each on one thread: that is as fast as one batch on many
    threads, and the result does not depend on how many there are.
    """
    nothing = torch.empty(0)
    limit = _Limit(batch_size)

    def predict(batch: TileBatch) -> tuple[TileBatch, Tensor]:
        if batch.data is None or batch.valid is None:
            return batch, nothing
        return batch, limit.predict(predictor, batch.data, batch.valid)

    if predictor.device.type != "cpu":
        yield from map(predict, batches)
        return
    with _SINGLE_THREADS, ThreadPoolExecutor(threads) as pool:
        yield from _in_order(pool, predict, batches, ahead=threads)


class _SingleThreads:
    """Lets torch compute each batch on one thread, while any block is predicted here."""

    def __init__(self) -> None:
        self._lock, self._entered, self._before = threading.Lock(), 0, 1

    def __enter__(self) -> None:
        with self._lock:
            if self._entered == 0:
                self._before = torch.get_num_threads()
                torch.set_num_threads(1)
            self._entered += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._entered -= 1
            if self._entered == 0:
                torch.set_num_threads(self._before)


_SINGLE_THREADS = _SingleThreads()


def _in_order(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """Yields results in the order of the items, of which a few more are worked on meanwhile."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


class _Limit:
    """Halves batches that do not fit into memory, and all that come after them."""

    def __init__(self, batch_size: int) -> None:
        self._most = batch_size

    def predict(self, predictor: Predictor, data: np.ndarray, valid: np.ndarray) -> Tensor:
        """Probabilities of a batch, predicted by as many tiles at a time as fit."""
        while True:
            most = self._most
            try:
                parts = [
                    predictor.predict(
                        predictor.send(data[start : start + most]),
                        predictor.send(valid[start : start + most]),
                    )
                    for start in range(0, len(data), most)
                ]
                return parts[0] if len(parts) == 1 else torch.cat(parts)
            except RuntimeError as error:
                if not lacks_memory(error):
                    raise
                self._halve(most, error)

    def _halve(self, most: int, error: RuntimeError) -> None:
        if most == 1:
            raise ConfigError(
                "predict.batch_size: not even one tile fits into memory; use a smaller network, "
                "or --device cpu"
            ) from error
        torch.cuda.empty_cache()
        self._most = min(self._most, most // 2)
        logger.warning(
            "predict.batch_size: %d tiles do not fit into memory, going on with %d",
            most,
            self._most,
        )


class _BandWriter:
    """Gathers what is settled of a row of tiles, and writes it in a thread of its own.

    Attributes:
        known: Which pixels of each row's band have a probability, put here before its last tile.
    """

    def __init__(self, task: BlockTask) -> None:
        self._task = task
        self.known: dict[int, np.ndarray] = {}
        self._band: Tensor | None = None
        self._writing: deque[Future[None]] = deque()

    def __enter__(self) -> _BandWriter:
        self._pool = ThreadPoolExecutor(1)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            while self._writing and kind is None:
                self._writing.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)

    def put(self, tile: Tile, window: Window, share: Tensor) -> None:
        """Takes what a tile has settled; with the last one of its row the band is complete."""
        block = self._task.block
        band = block.band(tile.row)
        values = self._task.values.encode(share)
        if self._band is None:
            self._band = values.new_empty((len(values), band.height, band.width))
        left = window.col_off - band.col_off
        self._band[:, :, left : left + window.width] = values
        if tile.column == block.columns[1] - 1:
            self._write(tile.row, self._band)
            self._band = None

    def _write(self, row: int, band: Tensor) -> None:
        if len(self._writing) == _WRITE_BEHIND:
            self._writing.popleft().result()
        job = self._pool.submit(_write_band, self._task, row, band, self.known.pop(row))
        self._writing.append(job)


def _write_band(task: BlockTask, row: int, band: Tensor, known: np.ndarray) -> None:
    values, whole = band.cpu().numpy(), bool(known.all())
    if not whole:
        values[:, ~known] = 0
    with open_for_writing(
        band_path(task.folder, task.block, row),
        task.grid.window_grid(task.block.band(row)),
        count=len(values),
        dtype=values.dtype.name,
        masked=not whole,
        scratch=True,
    ) as sink:
        sink.write(values)
        if not whole:
            sink.write_mask(known)
