"""Connected components of a raster that is read block by block."""
