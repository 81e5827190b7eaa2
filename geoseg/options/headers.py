"""Types of the values in headers of files, with the ranges outside of which no file is used."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

# Sides of tiles and numbers of bands and classes beyond these would need more memory than any
# machine has. Mask values are bytes, of which 255 means ignored.
MAX_TILE = 4096
MAX_BANDS, MAX_CLASSES = 4096, 255

# Characters of a name, none of which is a control character.
MAX_NAME = 200

# Metres per pixel, rounded to the smallest one in headers.
MIN_GSD_M, MAX_GSD_M = 1e-6, 1e6

# Beyond these, normalised pixels are not numbers in float32.
_LEAST_STD, _MAX_PIXEL = 1e-12, 1e30

# Statistics of more places are not stored.
MAX_PLACES = 200

# Limits of the arguments of a network, whose layers are built one by one.
_MAX_ARGUMENT, _MAX_ARGUMENTS, _MAX_TEXT, _MAX_LEVELS = 8192, 32, 200, 2

# Arguments with which timm would read weights from another file or from the internet.
_FORBIDDEN = ("pretrained", "checkpoint", "cache_dir")

_NAME = re.compile(rf"[^\x00-\x1f\x7f]{{1,{MAX_NAME}}}")
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME, pattern=r"^[^\x00-\x1f\x7f]+$")]
Names = Annotated[tuple[Name, ...], Field(min_length=1, max_length=MAX_BANDS)]
ClassNames = Annotated[tuple[Name, ...], Field(min_length=1, max_length=MAX_CLASSES)]
Colour = Annotated[str, Field(pattern=r"^#[0-9a-f]{6}$")]
PixelType = Literal[
    "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64",
    "float16", "float32", "float64",
]  # fmt: skip
TileSide = Annotated[int, Field(ge=1, le=MAX_TILE)]
Overlap = Annotated[int, Field(ge=0, le=MAX_TILE // 2)]
# Metres per pixel.
PixelSize = Annotated[float, Field(gt=0, le=MAX_GSD_M)]
Mean = Annotated[float, Field(ge=-_MAX_PIXEL, le=_MAX_PIXEL)]
Deviation = Annotated[float, Field(ge=_LEAST_STD, le=_MAX_PIXEL)]


class PlaceBands(BaseModel):
    """Statistics of the bands in one of the places of the training tiles.

    Attributes:
        name: Name of the place.
        mean: Mean of each band.
        std: Standard deviation of each band.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Name
    mean: tuple[Mean, ...]
    std: tuple[Deviation, ...]


Places = Annotated[tuple[PlaceBands, ...], Field(max_length=MAX_PLACES)]


def _check_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    for name, value in arguments.items():
        if name.startswith(_FORBIDDEN):
            raise ValueError(f"{name:.40}: is not an argument of a network")
        if not _is_argument(value):
            raise ValueError(
                f"{name:.40}: must be a number up to {_MAX_ARGUMENT}, a text up to {_MAX_TEXT} "
                f"characters, or up to {_MAX_ARGUMENTS} of them or of lists of them"
            )
    return arguments


def _is_argument(value: Any, levels: int = _MAX_LEVELS) -> bool:
    """Whether a value is a scalar in range, or a short list or mapping of such or of lists."""
    several = list(value.values()) if isinstance(value, dict) else value
    if isinstance(several, list | tuple):
        fits = levels > 0 and len(several) <= _MAX_ARGUMENTS
        return fits and all(_is_argument(one, levels - 1) for one in several)
    return _is_scalar(value)


def _is_scalar(value: Any) -> bool:
    if isinstance(value, int | float):
        return abs(value) <= _MAX_ARGUMENT
    return value is None or (isinstance(value, str) and len(value) <= _MAX_TEXT)


# Further arguments of an architecture.
Arguments = Annotated[
    dict[Name, Any], Field(max_length=_MAX_ARGUMENTS), AfterValidator(_check_arguments)
]


def fits_name(text: str) -> bool:
    """Return whether a text can be the name of a band or class in a header."""
    return _NAME.fullmatch(text) is not None


def check_lengths(
    bands: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    size: int,
    overlap: int,
    places: Sequence[PlaceBands] = (),
) -> None:
    """Check what the values of a header have to do with each other.

    Raises:
        ValueError: If they do not agree.
    """
    if not len(mean) == len(std) == len(bands):
        raise ValueError("bands, mean and std must have the same length")
    if any(not len(one.mean) == len(one.std) == len(bands) for one in places):
        raise ValueError("each place must have a mean and a std for each band")
    if overlap > size // 2:
        raise ValueError(f"overlap must be at most half the size ({size // 2})")


def check_classes(
    classes: Sequence[str],
    colours: Sequence[str],
    background: str | None,
    outputs: Sequence[str],
    exclusive: bool,
) -> None:
    """Check that classes, their colours and the outputs of a network agree.

    Raises:
        ValueError: If they do not.
    """
    if exclusive and tuple(outputs) != tuple(classes):
        raise ValueError("the outputs of exclusive classes must be the classes")
    if exclusive and len(colours) != len(classes):
        raise ValueError("each exclusive class must have a colour")
    if len(set(classes)) < len(classes):
        raise ValueError("two classes have the same name")
    if background is not None and background not in classes:
        raise ValueError("background must be one of the classes")


def first_problem(error: ValueError) -> str:
    """Return what is wrong with a header, in one short line that begins with the key."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        key = ".".join(str(part)[:60] for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        return textwrap.shorten(f"{key}: {message}".lstrip(": "), 160, placeholder=" …")
    return textwrap.shorten(str(error), 160, placeholder=" …")
