"""Training data: labels, splits, tiles and the label report."""
