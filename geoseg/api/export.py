"""Export a model to the formats of other programs."""

from __future__ import annotations

from pathlib import Path

from geoseg.networks.model_file import find_model


def export(model: str | Path, output: str | Path, *, overwrite: bool = False) -> Path:
    """Export a model: ONNX for QGIS, torch.export, or a STAC item with the MLM extension.

    The exported model is run and compared with the original before it appears.

    Args:
        model: A model file, or the name of a shipped model.
        output: A file `.onnx`, `.pt2` or `.json`.
        overwrite: Replace an existing file.

    Raises:
        GeosegError: If the model cannot be read or exported.
    """
    from geoseg.networks.export import export as write

    return write(find_model(model), output, overwrite=overwrite)
