"""Says what QGIS finds in layers; to be run by the Python that QGIS comes with.

    python3 qgis_reading.py LAYER ...

Prints one JSON object by layer: whether it is valid, its count, CRS, fields, renderer, the types
of its geometries, and what QGIS's own checks of them find.
"""

import json
import sys

from qgis.analysis import QgsAnalysis, QgsGeometryCheckContext, QgsSingleGeometryCheck
from qgis.core import Qgis, QgsApplication, QgsProject, QgsVectorLayer, QgsWkbTypes
from qgis.PyQt import sip

ENGINES = Qgis.GeometryValidationEngine
CHECKS = ("QgsIsValidCheck", "QgsGeometrySelfIntersectionCheck")


def look(source):
    layer = QgsVectorLayer(source, "layer", "ogr")
    if not layer.isValid():
        return {"valid": False}
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
        "values": values,
        "renderer": layer.renderer().type(),
        "kinds": sorted(kinds),
        "problems": problems,
    }


if __name__ == "__main__":
    application = QgsApplication([], False)
    application.initQgis()
    found = {source: look(source) for source in sys.argv[1:]}
    sys.stdout.write(json.dumps(found, default=str) + "\n")
    application.exitQgis()
