"""A real scene with the footprints of its buildings, for the demo and for first tries.

Sources and licences: `README.md` in this folder. Shipped models are not trained on its area.
"""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent

# A scene of three bands, its footprints, uncut at the edge, and the extent of the scene.
SAMPLE_SCENE = _FOLDER / "scene.tif"
SAMPLE_FOOTPRINTS = _FOLDER / "footprints.geojson"
SAMPLE_AREA = _FOLDER / "area.geojson"
SAMPLE_README = _FOLDER / "README.md"

__all__ = ["SAMPLE_AREA", "SAMPLE_FOOTPRINTS", "SAMPLE_README", "SAMPLE_SCENE"]
