"""Georeferenced data: grids, areas of interest, raster and vector files."""
