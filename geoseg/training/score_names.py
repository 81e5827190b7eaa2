"""Names of the columns of `metrics.csv` as people read them."""

from __future__ import annotations

from collections.abc import Container

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


def label_score(column: str, columns: Container[str]) -> str:
    """Return the label of a column.

    Args:
        column: Its name in `metrics.csv`.
        columns: The columns that have values; only buildings have `val_f1`.
    """
    labels = _LABELS if "val_f1" in columns else _LABELS | _CLASS_LABELS
    return labels[column]
