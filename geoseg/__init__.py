"""geoseg: from a GeoTIFF scene to a map layer of footprints or land cover.

The five verbs each live in a module of their own: `geoseg.data.tiles`, `geoseg.training.run`,
`geoseg.prediction`, `geoseg.vectorization` and `geoseg.evaluation`. This package imports nothing
heavy, so that `import geoseg` and `geoseg --help` answer at once.
"""

__version__ = "0.1.0"
