"""Device and batch size of a prediction, on which its bytes depend."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import torch

from geoseg.credentials import get_logger
from geoseg.errors import ConfigError
from geoseg.jobs.journal import Journal
from geoseg.networks.device import lacks_memory

logger = get_logger(__name__)

Result = TypeVar("Result")

# Key of the choice in the journal.
JOURNAL_KEY = "step"

# Pixels per batch on a CPU, which gains nothing from more.
_CPU_PIXELS = 512 * 512

# Two batch sizes that are tried on a GPU, to find the memory of each further tile.
_TRIALS = (1, 3)

# Share of a GPU's free memory to plan with; other processes may need some later.
_GPU_SHARE = 0.6

# Larger batches gain nothing on a GPU.
_MAX_BATCH_SIZE = 64


class BatchMemoryError(RuntimeError):
    """A batch does not fit into the memory of its device."""


@dataclass(frozen=True)
class BatchChoice:
    """What all workers of a job agree on, since kernels round differently otherwise.

    Attributes:
        device: `cpu` or `gpu`.
        batch_size: Tiles per batch.
    """

    device: str
    batch_size: int

    def halved(self) -> BatchChoice:
        """Return a choice of half the batch size.

        Raises:
            ConfigError: If the batch has only one tile.
        """
        if self.batch_size == 1:
            raise ConfigError(
                "predict.batch_size: not even one tile fits into memory; use a smaller network, "
                "or --device cpu"
            )
        return BatchChoice(self.device, self.batch_size // 2)


class DeviceMemory(Protocol):
    """Memory of a device."""

    def available(self) -> int:
        """Return the bytes that can be allocated."""

    def peak(self, run: Callable[[], object]) -> int:
        """Call a function, and return the largest number of bytes allocated meanwhile."""

    def allocated(self) -> int:
        """Return the bytes allocated now."""

    def release(self) -> None:
        """Return cached memory to the device."""


class CudaMemory:
    """Memory of a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def available(self) -> int:
        """Return the free bytes, including those that torch has cached."""
        free, _ = torch.cuda.mem_get_info(self._device)
        cached = torch.cuda.memory_reserved(self._device) - self.allocated()
        return int(free + cached)

    def peak(self, run: Callable[[], object]) -> int:
        """Call a function, and return the largest number of bytes allocated meanwhile."""
        torch.cuda.reset_peak_memory_stats(self._device)
        run()
        torch.cuda.synchronize(self._device)
        return int(torch.cuda.max_memory_allocated(self._device))

    def allocated(self) -> int:
        """Return the bytes allocated now."""
        return int(torch.cuda.memory_allocated(self._device))

    def release(self) -> None:
        """Return cached memory to the device."""
        torch.cuda.empty_cache()


def cpu_batch_size(size: int) -> int:
    """Return the tiles per batch on a CPU, which depend on the tile size alone.

    Memory must not decide this: the same job has to give the same bytes with any `--max-memory`.
    """
    return max(1, _CPU_PIXELS // size**2)


def find_batch_size(predict: Callable[[int], object], memory: DeviceMemory) -> int:
    """Find the largest batch size, a power of two, that fits into the free memory of a device.

    Args:
        predict: Predicts a batch of so many tiles.
        memory: Memory of the device.

    Raises:
        ConfigError: If one tile does not fit.
    """
    choice = BatchChoice("gpu", _estimate_batch_size(predict, memory))
    # The estimate is checked by a batch of full size, before any block depends on it.
    while _peak(predict, choice.batch_size, memory) is None:
        choice = choice.halved()
    return choice.batch_size


def _estimate_batch_size(predict: Callable[[int], object], memory: DeviceMemory) -> int:
    before, budget = memory.allocated(), _GPU_SHARE * memory.available()
    few, more = (_peak(predict, count, memory) for count in _TRIALS)
    if few is None or more is None:
        return 1
    each = max(1, (more - few) // (_TRIALS[1] - _TRIALS[0]))
    fitting = max(1, 1 + int(budget - (few - before)) // each)
    power: int = 1 << (fitting.bit_length() - 1)
    return min(_MAX_BATCH_SIZE, power)


def _peak(predict: Callable[[int], object], count: int, memory: DeviceMemory) -> int | None:
    """Return the peak memory of predicting so many tiles; None if they do not fit."""
    try:
        return memory.peak(lambda: predict(count))
    except RuntimeError as error:
        if not lacks_memory(error):
            raise
    # Only here, after the exception has released the tensors of the failed batch.
    memory.release()
    return None


def retry_with_smaller_batches(
    journal: Journal,
    folder: Path,
    choice: BatchChoice,
    predict: Callable[[BatchChoice, Path], Result],
) -> Result:
    """Predict all strips with one batch size, half as large after a batch did not fit.

    Since the bytes depend on the batch size, the smaller one is recorded in the journal, and
    strips of the larger one are not used. Each batch size has a folder of its own: blocks of other
    workers that still run with the larger one cannot mix their strips into the new ones.

    Args:
        journal: Journal of the job.
        folder: Folder for the strips.
        choice: Device and batch size to begin with.
        predict: Predicts into a folder. A batch that does not fit raises `BatchMemoryError`.

    Raises:
        ConfigError: If one tile does not fit.
    """
    while True:
        strips = folder / str(choice.batch_size)
        strips.mkdir(parents=True, exist_ok=True)
        try:
            return predict(choice, strips)
        except BatchMemoryError as error:
            smaller = _halve(choice, error)
        logger.warning(
            "predict.batch_size: %d tiles do not fit into memory; starting again with %d",
            choice.batch_size,
            smaller.batch_size,
        )
        journal.add(JOURNAL_KEY, [smaller.device, smaller.batch_size])
        shutil.rmtree(strips, ignore_errors=True)
        choice = smaller


def _halve(choice: BatchChoice, error: BatchMemoryError) -> BatchChoice:
    try:
        return choice.halved()
    except ConfigError as too_small:
        raise too_small from error
