"""Tiles → a model: `train`, and `find_lr` before it.

`run` calls the modules in this order: `setup` reads tiles and builds network and loss, `loop`
builds Lightning's trainer, `segmenter` defines a training step, `finishing` tunes and saves the
model.
"""
