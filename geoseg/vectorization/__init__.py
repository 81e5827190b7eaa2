"""Vectorization: from a probability raster to footprints or class polygons.

1. `components`: connected components of the thresholded raster, found block by block.
2. `objects`: components split into single buildings, holes filled.
3. `outlines`: outlines of the objects, traced, simplified and made right-angled.
4. `footprint_frames`: outlines in the CRS of the raster, measured and numbered.

`footprints` (buildings) and `class_polygons` (exclusive classes) combine the steps for one window,
`tasks` runs them in any process, and `layer` writes the output file.
"""
