"""A dense CRF: probabilities refined by the colours around each pixel."""

from geoseg.crf.blocks import block_windows, refine_block
from geoseg.crf.lattice import Lattice
from geoseg.crf.mean_field import refine

__all__ = ["Lattice", "block_windows", "refine", "refine_block"]
