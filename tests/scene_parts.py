"""Scenes cut into parts of one pixel grid."""

import rasterio
from rasterio.windows import Window


def cut_scene(scene, folder, rows, columns):
    """Write the parts of a scene; rows and columns are (begin, end) pairs.

    Returns:
        The folder, with a file for each row and column, such as `02.tif`.
    """
    folder.mkdir()
    with rasterio.open(scene) as source:
        for row, (top, bottom) in enumerate(rows):
            for column, (left, right) in enumerate(columns):
                window = Window(left, top, right - left, bottom - top)
                profile = {
                    **source.profile, "height": window.height, "width": window.width,
                    "transform": source.window_transform(window),
                }  # fmt: skip
                with rasterio.open(folder / f"{row}{column}.tif", "w", **profile) as sink:
                    sink.write(source.read(window=window))
                    sink.descriptions = source.descriptions
    return folder
