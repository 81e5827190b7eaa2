"""Prediction of scenes: overlapping tiles, blended without seams into probability rasters."""
