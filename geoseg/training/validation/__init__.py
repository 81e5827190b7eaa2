"""Validation: predicted areas, calibration and tuning of thresholds.

`areas` stitches predicted validation tiles and scores their footprints, `tuning` searches
thresholds on them, `calibration` fits a temperature. `merged_labels` decides which areas count.
"""
