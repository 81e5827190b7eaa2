"""Buildings as boxes: what a network of task `boxes` learns, finds and is judged by.

The way of the data is that of pixels, `dataset` → `augment` → `learner` in training and
`predictor` → `stitch` → `predict` on a scene. `geoseg.train.setup` and `geoseg.predict` turn off to
it at one place each.
"""
