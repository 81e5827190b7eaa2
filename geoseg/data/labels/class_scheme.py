"""Which value of the labels is which class."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from geoseg.options import ClassOptions

# Of classes whose labels are no colours: told apart by the colour-blind, too.
_PALETTE = (
    "#332288", "#ddcc77", "#117733", "#cc6677", "#88ccee", "#882255", "#44aa99", "#999933",
    "#aa4499", "#dddddd",
)  # fmt: skip

# Value of ground that counts for nothing: nodata, what no class names, what was not labelled.
IGNORE = 255

_COLOUR = re.compile("#[0-9a-f]{6}")


@dataclass(frozen=True)
class ClassScheme:
    """The classes of a mask, and what the labels call them.

    Attributes:
        names: The classes; of buildings one, whose pixels are 1 on ground of 0. Exclusive
            classes are 0, 1, 2 ... in this order.
        exclusive: Whether every pixel is of one of several classes.
        ground: Mask value where no label lies.
        attribute: Of vector labels, names the class; None where all are of one.
        values: What the labels say → mask value, as text; empty where all are of one class.
        colours: Of exclusive classes, #rrggbb each: what the labels call them, or of a palette.
    """

    names: tuple[str, ...] = ("building",)
    exclusive: bool = False
    background_value: int = 0
    attribute: str | None = None
    values: dict[str, int] = field(default_factory=dict)
    colours: tuple[str, ...] = ()

    @property
    def has_background(self) -> bool:
        """Whether ground where no label lies has a mask value of its own."""
        return self.background_value != IGNORE

    @property
    def background_name(self) -> str | None:
        """Of exclusive classes, that of ground where no label lies."""
        return self.names[0] if self.exclusive and self.background_value == 0 else None

    @property
    def value_count(self) -> int:
        """How many values a mask has, from 0; of buildings two, the ground's and their own."""
        return len(self.names) if self.exclusive else 2

    def to_mask_values(self, found: Iterable[Any]) -> np.ndarray:
        """Mask values of what labels say; `IGNORE` for what the scheme does not name.

        Args:
            found: Values of the attribute, or of a mask raster.

        Returns:
            uint8, one per value.
        """
        return np.array(
            [self.values.get(normalize_value(value), IGNORE) for value in found], np.uint8
        )


def resolve_scheme(options: ClassOptions | None) -> ClassScheme:
    """The scheme that a configuration describes; buildings when there is none."""
    if options is None:
        return ClassScheme()
    names = (*(() if options.background is None else (options.background,)), *options.values)
    values = {
        normalize_value(value): names.index(name) for name, listed in options.values.items()
        for value in listed
    }  # fmt: skip
    ground = IGNORE if options.background is None else 0
    return ClassScheme(
        names, True, ground, options.attribute, values, _choose_colours(names, options)
    )


def _choose_colours(names: tuple[str, ...], options: ClassOptions) -> tuple[str, ...]:
    def choose(place: int, name: str) -> str:
        written = map(normalize_value, options.values.get(name, ()))
        return next(filter(_COLOUR.fullmatch, written), _PALETTE[place % len(_PALETTE)])

    return tuple(choose(place, name) for place, name in enumerate(names))


def normalize_value(value: Any) -> str:
    """A value as configurations and layers may both write it: 1, 1.0 and "1" are the same."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value).strip().lower()
