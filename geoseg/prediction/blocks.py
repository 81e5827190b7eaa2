"""Prediction of a block of tiles into strips, one file each."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from geoseg.errors import GeosegError, MemoryLimitError
from geoseg.geo.aoi import AOI
from geoseg.geo.grid import Grid
from geoseg.geo.raster import SceneInfo, limited_block_cache, without_georeferencing_warnings
from geoseg.jobs.memory import release_memory, resident_bytes
from geoseg.jobs.threads import map_in_order
from geoseg.networks.device import choose_device, lacks_memory
from geoseg.networks.model_file import load_model
from geoseg.networks.models.building import NETWORK_ERRORS
from geoseg.networks.models.sketch import least_tile_bytes
from geoseg.prediction.batch_choice import (
    BatchChoice,
    BatchMemoryError,
    CudaMemory,
    cpu_batch_size,
    find_batch_size,
)
from geoseg.prediction.batches import GROUP, TileBatch, iter_batches, read_ahead
from geoseg.prediction.encoding import OutputEncoding
from geoseg.prediction.memory import (
    MemoryNeeds,
    MemoryPlan,
    measure_batch,
    plan_memory,
    reading_bytes,
    strip_bytes,
)
from geoseg.prediction.predictor import Predictor, tile_error
from geoseg.prediction.stitching import Stitcher, TileBlock
from geoseg.prediction.strip_writer import StripWriter

# Called with the number of tiles that were finished since the last call.
TileCallback = Callable[[int], None]

# Fewest batches to read in advance.
_READ_AHEAD = 2

# Batches before time is measured: the first ones are slower.
_WARM_UP = 8


@dataclass(frozen=True)
class BlockTask:
    """A block of a scene's tiles: a recipe that any process can carry out.

    Attributes:
        folder: Folder of the strips.
        scene: The scene, its path absolute.
        grid: Grid of the tiles.
        block: The tiles.
        models: Model files whose probabilities are averaged.
        device: `auto`, `cpu` or `gpu`.
        backend: Inference backend.
        tta: Views of each tile.
        batch_size: Tiles per batch; None before `choose_batch`.
        threads: Maximum number of batches that are predicted at the same time on a CPU.
        encoding: Output bands.
        aoi: Area of interest in the CRS of the grid; the whole scene when None.
        max_memory_gb: Limit of the resident memory of the process; no limit when None.
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
    encoding: OutputEncoding
    aoi: AOI | None = None
    max_memory_gb: float | None = None

    # For workers: a network computes.
    needs_device: ClassVar[bool] = True


def choose_batch(task: BlockTask) -> BatchChoice:
    """Choose device and batch size, on the machine of a worker.

    All workers use this choice, so they must have the same kind of GPU.

    Raises:
        ConfigError: If one tile does not fit into the memory of the device.
    """
    device = choose_device(task.device)
    name = "gpu" if device.type == "cuda" else "cpu"
    if task.batch_size is not None:
        return BatchChoice(name, task.batch_size)
    if name == "cpu":
        return BatchChoice(name, cpu_batch_size(task.block.tiles.size))
    predictor = _open_predictor(replace(task, device=name))

    def predict(count: int) -> None:
        predictor(*_empty_batch(predictor, count, task.scene.dtype))

    return BatchChoice(name, find_batch_size(predict, CudaMemory(device)))


@limited_block_cache()
def predict_block(task: BlockTask, count: TileCallback | None = None) -> int:
    """Predict the tiles of a block, and write each strip when it is complete.

    Args:
        task: The block.
        count: Receives the number of tiles that were finished since the last call.

    Returns:
        The number of predicted tiles.

    Raises:
        BatchMemoryError: If a batch does not fit into the memory of the device.
        MemoryLimitError: If one thread does not fit into `max_memory_gb`.
    """
    if task.batch_size is None:
        task = replace(task, batch_size=choose_batch(task).batch_size)
    assert task.batch_size is not None
    plan = _plan_block(task)
    predictor = _open_predictor(task)
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        stack.enter_context(without_georeferencing_warnings())
        scene = stack.enter_context(task.scene.open(task.grid))
        writer = stack.enter_context(StripWriter(task.folder, task.grid, task.block, task.encoding))
        batches = iter_batches(
            scene, task.block, batch_size=task.batch_size, margin=predictor.margin, aoi=task.aoi
        )
        # Generators are closed here, not by the garbage collector: after an error, their threads
        # and torch's number of threads would otherwise outlive the block.
        waiting = stack.enter_context(closing(read_ahead(batches, plan.read_ahead)))
        predicted = stack.enter_context(closing(predict_batches(predictor, waiting, plan.threads)))
        stitcher = Stitcher(task.block, predictor.channels, predictor.device)
        for batch, probs in predicted:
            writer.valid.update(batch.strip_valid)
            for tile, index in batch.tiles:
                window, blended = stitcher.add(tile, None if index is None else probs[index])
                if task.block.contains(tile):
                    writer.add(tile, window, blended)
            if count:
                count(len(batch.tiles))
    release_memory()
    return len(task.block)


def _plan_block(task: BlockTask) -> MemoryPlan:
    """Plan threads and read-ahead for the memory of this process."""
    assert task.batch_size is not None
    predictor = _open_predictor(task)
    on_cpu = predictor.device.type == "cpu"
    data, valid = _empty_batch(predictor, task.batch_size, task.scene.dtype)
    # Tiles are read in groups: with fewer batches ahead, the network would wait for each group.
    depth = max(_READ_AHEAD, GROUP // task.batch_size)
    activations = 0
    if on_cpu and task.max_memory_gb is not None:
        _check_tiles(predictor, task.batch_size, task.max_memory_gb)
        activations = _measure_activations(_predictor_key(task), task.batch_size, task.scene.dtype)
    tiles, strip = task.block.tiles, task.block.strip(task.block.rows[0])
    # Memory that earlier blocks have freed does not count as used.
    release_memory()
    side = tiles.size + 2 * predictor.margin
    columns = min(GROUP, len(task.block.tile_columns))
    group = (side, side + (columns - 1) * (tiles.size - tiles.overlap))
    needs = MemoryNeeds(
        process=resident_bytes(),
        activations=activations,
        inputs=data.nbytes + valid.nbytes,
        outputs=_output_bytes(predictor, task.batch_size) if on_cpu else 0,
        strips=strip_bytes(tiles, strip.width + tiles.size, task.encoding),
        reading=reading_bytes(group, data.shape[1], data.itemsize),
    )
    threads = min(task.threads, -(-len(task.block) // task.batch_size)) if on_cpu else 1
    # The libraries of a GPU alone can take several GB, which no setting of geoseg changes.
    return plan_memory(needs, task.max_memory_gb, threads=threads, read_ahead=depth, refuse=on_cpu)


def _check_tiles(predictor: Predictor, batch_size: int, max_memory_gb: float) -> None:
    """Check that a batch may fit into the limit, before it is tried how much it needs."""
    side = predictor.spec.size + 2 * predictor.margin
    least = max(least_tile_bytes(network.spec, side) for network in predictor.networks)
    needed = batch_size * least
    if needed > max_memory_gb * 1e9:
        raise MemoryLimitError(
            f"--max-memory: predicting tiles of {side} pixels needs more than {needed / 1e9:.1f} "
            f"GB, but only {max_memory_gb:g} GB are allowed; raise --max-memory"
        )


def _output_bytes(predictor: Predictor, batch_size: int) -> int:
    return 4 * batch_size * predictor.channels * predictor.spec.size**2


@lru_cache(maxsize=1)
def _measure_activations(key: tuple[Any, ...], batch_size: int, dtype: str) -> int:
    """Return the memory that predicting one batch on one thread takes, bytes.

    Args:
        key: Arguments of `_load_predictor`.
        batch_size: Tiles per batch.
        dtype: Data type of the scene.
    """
    predictor = _load_predictor(*key)
    data, valid = _empty_batch(predictor, batch_size, dtype)
    with _SINGLE_THREADS:
        measured = measure_batch(lambda: _predict_batch(predictor, data, valid))
    # Samples can miss the short peak of a very small network, in which at least the normalized
    # image, its copy in another memory layout, logits and probabilities exist.
    image = 4 * data.size
    return max(measured, 2 * image + 2 * _output_bytes(predictor, batch_size))


def _empty_batch(predictor: Predictor, count: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a batch of zeros with the shape of real ones: data (N, C, S, S), valid (N, S, S)."""
    side = predictor.spec.size + 2 * predictor.margin
    shape = (count, len(predictor.spec.bands), side, side)
    return np.zeros(shape, dtype), np.ones((count, side, side), bool)


def _open_predictor(task: BlockTask) -> Predictor:
    """Return the models of a task; a process keeps them for its next block."""
    return _load_predictor(*_predictor_key(task))


def _predictor_key(task: BlockTask) -> tuple[Any, ...]:
    # A changed time of modification loads a model file again.
    versions = tuple(path.stat().st_mtime_ns for path in task.models)
    settings = (task.device, task.tta, task.encoding.uncertainty, task.backend, task.threads)
    return (task.models, versions, *settings)


@lru_cache(maxsize=1)
def _load_predictor(
    models: tuple[Path, ...],
    _: tuple[int, ...],
    device: str,
    tta: str,
    squares: bool,
    backend: str,
    threads: int,
) -> Predictor:
    (spec, weights), *others = (load_model(path) for path in models)
    return Predictor(
        spec, weights, device, tta, others=others, squares=squares, backend=backend, threads=threads
    )


def measure_tiles_per_s(task: BlockTask, seconds: float = 2.0) -> float:
    """Measure how many tiles the networks of a task predict per second in this process.

    Args:
        task: The task.
        seconds: How long to measure.
    """
    if task.batch_size is None:
        task = replace(task, batch_size=choose_batch(task).batch_size)
    assert task.batch_size is not None
    predictor = _open_predictor(task)
    data, valid = _empty_batch(predictor, task.batch_size, task.scene.dtype)
    count, times = 0, [time.perf_counter()]

    def batches() -> Iterator[TileBatch]:
        while len(times) < _WARM_UP or times[-1] - times[_WARM_UP - 1] < seconds:
            yield TileBatch([], data, valid, {})

    with torch.inference_mode(), closing(
        predict_batches(predictor, batches(), task.threads)
    ) as predicted:  # fmt: skip
        for _, probs in predicted:
            count += len(times) >= _WARM_UP
            probs[..., 0, 0].cpu()  # waits for a GPU
            times.append(time.perf_counter())
    return task.batch_size * count / (times[-1] - times[_WARM_UP - 1])


def predict_batches(
    predictor: Predictor, batches: Iterable[TileBatch], threads: int
) -> Generator[tuple[TileBatch, Tensor], None, None]:
    """Predict batches in their order.

    On a CPU, several batches are predicted at the same time, each on one thread: that is as fast
    as one batch on many threads, and the result does not depend on the number of threads.
    """
    nothing = torch.empty(0)

    def predict(batch: TileBatch) -> tuple[TileBatch, Tensor]:
        if batch.data is None or batch.valid is None:
            return batch, nothing
        return batch, _predict_batch(predictor, batch.data, batch.valid)

    if predictor.device.type != "cpu":
        yield from map(predict, batches)
        return
    with _SINGLE_THREADS, ThreadPoolExecutor(threads) as pool:
        yield from map_in_order(pool, predict, batches, ahead=threads)


def _predict_batch(predictor: Predictor, data: np.ndarray, valid: np.ndarray) -> Tensor:
    """Predict a batch.

    Raises:
        BatchMemoryError: If it does not fit into memory. It is not predicted in parts, because
            the bytes would differ from those of other blocks.
        ModelFileError: If the network cannot compute a tile.
    """
    try:
        return predictor.predict(predictor.send(data), predictor.send(valid))
    except GeosegError:
        raise
    except NETWORK_ERRORS as error:
        if not lacks_memory(error):
            raise tile_error(error, predictor.device) from error
        raise BatchMemoryError(f"a batch of {len(data)} tiles does not fit into memory") from error


class _SingleThreads:
    """Context in which torch computes each operation on one thread.

    Several blocks may be predicted by threads of one process; the last one to leave restores the
    number of threads.
    """

    def __init__(self) -> None:
        self._lock, self._entered, self._before = threading.Lock(), 0, 1

    def __enter__(self) -> None:
        with self._lock:
            if self._entered == 0:
                self._before = torch.get_num_threads()
                torch.set_num_threads(1)
            self._entered += 1

    def __exit__(self, *_: Any) -> None:
        with self._lock:
            self._entered -= 1
            if self._entered == 0:
                torch.set_num_threads(self._before)


_SINGLE_THREADS = _SingleThreads()
