"""Tiles → a model: `train`, and `find_lr` before it.

`setup` puts tiles, network and loss together, `loop` is Lightning's, `segmenter` is what a step
does; `run` is the way from one to the next, and `finish` what a run ends with.
"""
