"""Predicts scenes: overlapping tiles, stitched without a seam, to probability rasters."""
