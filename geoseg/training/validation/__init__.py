"""Judging a network on ground that it has not learnt from.

`ground` puts predicted tiles together and counts their footprints, `tune` finds thresholds on it,
`calibration` a temperature.
"""
