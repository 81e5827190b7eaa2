"""Names of the columns of `metrics.csv`, also of places, and as people read them."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable

from geoseg.data.tiles.places import PLACE_PATTERN

_LABELS = {
    "train_loss": "train loss",
    "val_loss": "val loss",
    "val_iou": "val pixel IoU",
    "val_f1_pixel": "val pixel F1",
    "val_f1": "val building F1",
    "val_score": "val score",
}

# Of exclusive classes, whose scores are means.
_CLASS_LABELS = {"val_iou": "val mean IoU of classes", "val_f1_pixel": "val mean F1 of classes"}


_PLACE_COLUMN = re.compile(rf"(val_iou|val_f1)\[({PLACE_PATTERN})\]")


def place_column(score: str, place: str) -> str:
    """Return the column of a place's score."""
    return f"{score}[{place}]"


def is_place_column(column: str) -> bool:
    """Return whether a column holds the score of a place."""
    return _PLACE_COLUMN.fullmatch(column) is not None


def list_place_columns(columns: Iterable[str], score: str | None = None) -> list[str]:
    """Return the columns with scores of places, each once, in order.

    Args:
        columns: Names of columns.
        score: Keep columns of this score only.
    """
    found = [column for column in dict.fromkeys(columns) if is_place_column(column)]
    return [column for column in found if score is None or column.startswith(f"{score}[")]


def tracker_name(column: str) -> str:
    """Return the name of a column in experiment trackers.

    They refuse brackets, and MLflow all but ASCII; the slash groups the places of a score.
    """
    matched = _PLACE_COLUMN.fullmatch(column)
    if matched is None:
        return column
    score, place = matched.groups()
    plain = place.encode("ascii", "backslashreplace").decode().replace("\\", "")
    return f"{score}_by_place/" + re.sub(r"[^\w.-]", "_", plain)


def label_score(column: str, columns: Container[str]) -> str:
    """Return the label of a column.

    Args:
        column: Its name in `metrics.csv`.
        columns: The columns that have values; only buildings have `val_f1`.
    """
    labels = _LABELS if "val_f1" in columns else _LABELS | _CLASS_LABELS
    return labels[column]
