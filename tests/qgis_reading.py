"""Says what QGIS finds in layers and rasters; to be run by the Python that QGIS comes with.

    python3 qgis_reading.py FOLDER SOURCE ...

Prints one JSON object by source: whether it is valid, its renderer and the texts of its legend; of
a layer also count, CRS, fields, the types of its geometries, and what QGIS's own checks of them
find; of a raster the picture into which it is drawn in FOLDER, as QGIS shows it.
"""

import json
import sys
from pathlib import Path

from qgis.analysis import QgsAnalysis, QgsGeometryCheckContext, QgsSingleGeometryCheck
from qgis.core import (
    Qgis,
    QgsApplication,
    QgsLayerTreeModelLegendNode,
    QgsMapRendererParallelJob,
    QgsMapSettings,
    QgsProject,
    QgsRasterLayer,
    QgsVectorLayer,
    QgsWkbTypes,
)
from qgis.core import QgsLayerTreeLayer as TreeLayer
from qgis.core import QgsMapLayerLegend as Legend
from qgis.PyQt import sip
from qgis.PyQt.QtCore import QSize, Qt
from qgis.PyQt.QtGui import QColor

CHECKS = ("QgsIsValidCheck", "QgsGeometrySelfIntersectionCheck")


def look(source, folder):
    if source.endswith(".tif"):
        return look_at_raster(QgsRasterLayer(source, "raster"), Path(source), folder)
    layer = QgsVectorLayer(source, "layer", "ogr")
    return look_at_layer(layer) if layer.isValid() else {"valid": False}


def look_at_raster(layer, source, folder):
    settings = QgsMapSettings()
    settings.setLayers([layer])
    settings.setExtent(layer.extent())
    settings.setOutputSize(QSize(layer.width(), layer.height()))
    settings.setBackgroundColor(QColor(0, 0, 0, 0))
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    picture = Path(folder) / f"{source.stem}.png"
    job.renderedImage().save(str(picture))
    found = {"valid": layer.isValid(), "picture": str(picture)}
    return {**found, "renderer": layer.renderer().type(), "legend": legend_of(layer)}


def legend_of(layer):
    """Return the texts that the legend shows below the name of the layer."""
    node = TreeLayer(layer)
    entries = Legend.defaultVectorLegend(layer) if isinstance(layer, QgsVectorLayer) else (
        Legend.defaultRasterLegend(layer)
    )  # fmt: skip
    nodes = entries.createLayerTreeModelLegendNodes(node)
    texts = [entry.data(Qt.DisplayRole) for entry in nodes]
    ramps = [entry for entry in nodes if hasattr(entry, "settings")]
    for ramp in ramps:
        texts += [ramp.settings().minimumLabel(), ramp.settings().maximumLabel()]
    assert all(isinstance(entry, QgsLayerTreeModelLegendNode) for entry in nodes)
    return [text for text in texts if text]


def look_at_layer(layer):
    project = QgsProject.instance()
    context = QgsGeometryCheckContext(8, layer.crs(), project.transformContext(), project)
    registry = QgsAnalysis.geometryCheckRegistry()
    made = [registry.geometryCheck(name, context, {}) for name in CHECKS]
    checks = [sip.cast(check, QgsSingleGeometryCheck) for check in made]
    problems, kinds, values = [], set(), []
    for feature in layer.getFeatures():
        geometry = feature.geometry()
        kinds.add(QgsWkbTypes.displayString(geometry.wkbType()))
        values.append(feature.attributes())
        for engine in (
            Qgis.GeometryValidationEngine.QgisInternal,
            Qgis.GeometryValidationEngine.Geos,
        ):
            problems += [error.what() for error in geometry.validateGeometry(engine)]
        for check in checks:
            problems += [error.description() for error in check.processGeometry(geometry)]
    return {
        "valid": True,
        "count": layer.featureCount(),
        "crs": layer.crs().toWkt(),
        "fields": [field.name() for field in layer.fields()],
        "types": [field.typeName() for field in layer.fields()],
        "titles": [layer.attributeDisplayName(i) for i in range(layer.fields().count())],
        "values": values,
        "renderer": layer.renderer().type(),
        "legend": legend_of(layer),
        "kinds": sorted(kinds),
        "problems": problems,
    }


if __name__ == "__main__":
    application = QgsApplication([], True)
    application.initQgis()
    found = {source: look(source, sys.argv[1]) for source in sys.argv[2:]}
    sys.stdout.write(json.dumps(found, default=str) + "\n")
    application.exitQgis()
