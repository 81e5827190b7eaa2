"""From a probability raster to footprints, the same however the raster is cut."""
