"""Validation: predicted areas, calibration and tuning of thresholds.

`area_choice` samples large splits, `areas` stitches predicted validation tiles and scores their
footprints, `tuning` searches thresholds on them, `calibration` fits a temperature, and `rating` a
rule for confidences, by `confidence`; `reliability` measures both. `merged_labels` decides in which
areas buildings count, and `gain` compares a model with the one that it continues from.
"""
