"""Mapping of label values to classes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from geoseg.geo.styles import CLASS_COLOURS
from geoseg.options import ClassOptions

# Mask value of pixels that are ignored in training and evaluation: nodata, label values that
# belong to no class, and areas that were not labelled.
IGNORE = 255

_COLOUR = re.compile("#[0-9a-f]{6}")
_WHOLE_NUMBER = re.compile(r"^(-?\d+)\.0+$")


@dataclass(frozen=True)
class ClassScheme:
    """The classes of a mask and the label values that belong to each.

    Attributes:
        names: Class names. A building scheme has one class: mask value 1 on a background of 0.
            Exclusive classes have the mask values 0, 1, 2 ... in this order.
        exclusive: Whether each pixel belongs to exactly one of several classes.
        background_value: Mask value of pixels without a label.
        attribute: Attribute of vector labels that names the class; None if there is one class.
        values: Normalized label value (text) to mask value; empty if there is one class.
        colours: #rrggbb of each exclusive class: the label colours, else from a palette.
    """

    names: tuple[str, ...] = ("building",)
    exclusive: bool = False
    background_value: int = 0
    attribute: str | None = None
    values: dict[str, int] = field(default_factory=dict)
    colours: tuple[str, ...] = ()

    @property
    def has_background(self) -> bool:
        """Whether pixels without a label have a mask value, instead of being ignored."""
        return self.background_value != IGNORE

    @property
    def background_name(self) -> str | None:
        """Name of the exclusive class of pixels without a label; None if there is none."""
        return self.names[0] if self.exclusive and self.background_value == 0 else None

    @property
    def value_count(self) -> int:
        """Number of mask values, counted from 0; two for buildings, background included."""
        return len(self.names) if self.exclusive else 2

    def to_mask_values(self, label_values: Iterable[Any]) -> np.ndarray:
        """Convert label values to mask values; values that belong to no class become `IGNORE`.

        Args:
            label_values: Values of the attribute or of a mask raster (N,).

        Returns:
            uint8 (N,).
        """
        normalized = map(normalize_value, label_values)
        return np.array([self.values.get(value, IGNORE) for value in normalized], np.uint8)


def resolve_scheme(options: ClassOptions | None) -> ClassScheme:
    """Return the class scheme of a configuration; the building scheme if it is None."""
    if options is None:
        return ClassScheme()
    names = (*(() if options.background is None else (options.background,)), *options.values)
    values = {
        normalize_value(value): names.index(name) for name, listed in options.values.items()
        for value in listed
    }  # fmt: skip
    background_value = IGNORE if options.background is None else 0
    colours = _choose_colours(names, options)
    return ClassScheme(names, True, background_value, options.attribute, values, colours)


def _choose_colours(names: tuple[str, ...], options: ClassOptions) -> tuple[str, ...]:
    def choose(index: int, name: str) -> str:
        label_values = map(normalize_value, options.values.get(name, ()))
        return next(
            filter(_COLOUR.fullmatch, label_values), CLASS_COLOURS[index % len(CLASS_COLOURS)]
        )

    return tuple(choose(index, name) for index, name in enumerate(names))


def normalize_value(value: Any) -> str:
    """Return a label value as text that is equal for 1, 1.0, "1" and "1.0".

    Text is compared without regard to case, in one Unicode normal form (NFC).
    """
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    text = unicodedata.normalize("NFC", str(value).strip().lower())
    return _WHOLE_NUMBER.sub(r"\1", text)
