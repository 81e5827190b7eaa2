"""Training states as files: read without executing anything, and checked before they are used.

A state is written by torch as a zip archive of a pickle and the bytes of tensors. Only tensors and
plain values are read from it; everything that a resumed run uses has a type and a range here.
"""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, field_validator
from torch import Tensor, nn
from torch.optim import Optimizer

from geoseg.errors import ModelFileError, one_line
from geoseg.networks.models.loading import check_finite
from geoseg.options.headers import first_problem
from geoseg.training.score_names import is_place_column

# Columns of `metrics.csv`.
COLUMNS = (
    "epoch",
    "step",
    "minutes",
    "lr",
    "train_loss",
    "val_loss",
    "val_iou",
    "val_f1_pixel",
    "val_f1",
    "val_score",
)

# The column whose maximum selects the best epoch.
MONITOR = "val_score"

# Columns that a row has if it has a score, and always.
_SCORED, _ALWAYS = {"val_iou"}, {*COLUMNS[:4]}

# Largest nesting and number of values: a pickle can contain itself.
_MAX_DEPTH, _MAX_VALUES = 30, 5_000_000

_MAX_COUNT = 2**53

Count = Annotated[int, Field(ge=0, le=_MAX_COUNT, strict=True)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", arbitrary_types_allowed=True)


class HistoryState(_Part):
    """State of the callback `History`."""

    minutes: float = Field(ge=0, allow_inf_nan=False, strict=True)
    rows: list[dict[str, StrictInt | StrictFloat]]
    run: dict[str, Any] | None = None

    @field_validator("rows")
    @classmethod
    def _complete(cls, rows: list[dict[str, float]]) -> list[dict[str, float]]:
        for row in rows:
            if not all(name in COLUMNS or is_place_column(name) for name in row):
                raise ValueError("a row of metrics has an unknown column")
            if not row.keys() >= (_ALWAYS | _SCORED if MONITOR in row else _ALWAYS):
                raise ValueError("a row of metrics is incomplete")
            if not math.isfinite(row["epoch"] + row["step"] + row["minutes"] + row["lr"]):
                raise ValueError("a row of metrics has a value that is not a number")
        return rows


class CheckpointsState(_Part):
    """State of the callback `RunCheckpoints`."""

    best_score: float = Field(strict=True)
    best_epoch: int = Field(ge=-1, le=_MAX_COUNT, strict=True)


class PatienceState(_Part):
    """State of the callback `Patience`."""

    wait_count: Count
    stopped_epoch: Count
    best_score: Tensor

    @field_validator("best_score")
    @classmethod
    def _single(cls, score: Tensor) -> Tensor:
        if score.numel() != 1:
            raise ValueError("must be a single number")
        return score


class AverageState(_Part):
    """State of the callbacks that average weights."""

    begun: Count | None = None


class CallbackStates(_Part):
    """States of all callbacks."""

    history: HistoryState = Field(alias="History")
    checkpoints: CheckpointsState = Field(alias="RunCheckpoints")
    patience: PatienceState | None = Field(None, alias="Patience")
    late_average: AverageState | None = Field(None, alias="LateAverage")


class TrainingState(_Part):
    """What a resumed run reads from a training state.

    Attributes:
        epoch: Number of the last finished epoch, from 0.
        global_step: Number of steps.
        state_dict: The module's tensors.
        callbacks: States of the callbacks.
        optimizer_states: State of the only optimizer.
        loops: Counters of Lightning.
    """

    epoch: Count
    global_step: Count
    state_dict: dict[str, Tensor]
    callbacks: CallbackStates
    optimizer_states: list[dict[str, Any]] = Field(min_length=1, max_length=1)
    loops: dict[str, Any]


def read_state(path: Path) -> TrainingState:
    """Read a training state.

    Raises:
        ModelFileError: If it is damaged, or was not written by geoseg.
    """
    try:
        _check_archive(path)
        # Mapped, not read: a tensor that is not used takes no memory.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        _check_values(content)
        state = TrainingState.model_validate(content)
        _check_counters(state)
        check_finite(state.state_dict)
    # Damaged pickles raise errors of any kind (see the documentation of pickle).
    except Exception as error:
        reason = first_problem(error) if isinstance(error, ValueError) else one_line(error)
        raise ModelFileError(
            f"{path}: cannot be read as a training state ({reason}); start again with --overwrite"
        ) from error
    return state


def check_optimizer(path: Path, state: TrainingState, optimizer: Optimizer) -> None:
    """Check that the state of the optimizer has the shapes and settings of a new optimizer.

    Args:
        path: The file, for the message.
        state: The state.
        optimizer: An optimizer of the same run.

    Raises:
        ModelFileError: If it does not.
    """
    try:
        _compare_optimizer(state.optimizer_states[0], optimizer)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ModelFileError(
            f"{path}: has a damaged state of the optimizer; start again with --overwrite"
        ) from error


def _compare_optimizer(saved: dict[str, Any], optimizer: Optimizer) -> None:
    shapes: dict[int, torch.Size] = {}
    groups = optimizer.state_dict()["param_groups"]
    for old, new, live in zip(saved["param_groups"], groups, optimizer.param_groups, strict=True):
        if old["params"] != new["params"] or not _are_settings_alike(old, new):
            raise ValueError("other groups of parameters")
        shapes |= dict(zip(new["params"], (one.shape for one in live["params"]), strict=True))
    for number, values in saved["state"].items():
        for key, value in values.items():
            # Without momentum, some versions of torch keep an empty buffer.
            if key == "momentum_buffer" and value is None:
                continue
            if not isinstance(value, Tensor) or value.shape not in (shapes[number], torch.Size()):
                raise ValueError("other shapes")


def _are_settings_alike(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether the settings of a group can replace those of a new one.

    Versions of torch differ in the switches of an optimizer, and torch adds those that are missing.
    """
    needed = {key for key, value in new.items() if not _is_switch(value)}
    return old.keys() >= needed and all(_is_alike(old[key], new[key]) for key in old.keys() & new)


def _is_switch(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _is_alike(old: Any, new: Any) -> bool:
    """Whether two settings have the same type, and numbers are finite."""
    if _is_switch(new):
        return _is_switch(old)
    if isinstance(new, tuple | list):
        return len(old) == len(new) and all(map(_is_alike, old, new))
    if isinstance(new, float):
        return isinstance(old, int | float) and math.isfinite(old)
    return type(old) is type(new)


def _check_archive(path: Path) -> None:
    """Check that nothing in the archive is larger than in the file: torch never compresses."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError("it is compressed")
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > path.stat().st_size:
        raise ValueError("it claims to be larger than it is")


def _check_values(content: Any) -> None:
    """Refuse what is nested too deeply, too much, or larger than what the file has of it."""
    left: list[tuple[int, Any]] = [(0, content)]
    count = 0
    while left:
        depth, value = left.pop()
        count += 1
        if depth > _MAX_DEPTH or count > _MAX_VALUES:
            raise ValueError("it contains too many values")
        if isinstance(value, dict | list | tuple):
            inner = value.values() if isinstance(value, dict) else value
            left += [(depth + 1, one) for one in inner]
        elif isinstance(value, Tensor) and not _is_whole(value):
            raise ValueError("a tensor is larger than its file")


def _is_whole(tensor: Tensor) -> bool:
    """Whether the file has every value of a tensor, none standing for several."""
    return tensor.layout == torch.strided and tensor.nbytes <= tensor.untyped_storage().nbytes()


def _check_counters(state: TrainingState) -> None:
    """Check Lightning's counters, by which it decides how many epochs and batches are left."""
    left: list[Any] = [state.loops]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left += value.values()
        elif not isinstance(value, int) or not 0 <= value <= _MAX_COUNT:
            raise ValueError("a counter is out of range")
    current = state.loops["fit_loop"]["epoch_progress"]["current"]
    if not 0 <= state.epoch + 1 - current["completed"] <= 1:
        raise ValueError("the counters of epochs differ")


def check_module(path: Path, state: TrainingState, module: nn.Module) -> None:
    """Check that a state has the tensors of a module.

    Raises:
        ModelFileError: If it does not.
    """
    wanted = {name: tensor.shape for name, tensor in module.state_dict().items()}
    if {name: tensor.shape for name, tensor in state.state_dict.items()} != wanted:
        raise ModelFileError(
            f"{path}: was written for another network with the same settings; resume with the "
            "version of geoseg that started the run, or start again with --overwrite"
        )
