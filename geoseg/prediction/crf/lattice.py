"""Gaussian sums over points in many dimensions, on the permutohedral lattice.

Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice",
Eurographics 2010. Each point is distributed to the corners of its lattice simplex (splat), the
lattice is blurred along its axes, and each point is interpolated from its corners (slice).

Three differences from the paper make the sums more exact:

- Vertices that connect two others are added before the blur. The original blurs only between
  vertices that have points; where those are sparse, its paths are interrupted.
- The points are scaled slightly up, which compensates a blur that is flatter than a Gaussian.
- Weights are scaled so that the weight of a point for itself is 1, as in the exact kernel, if all
  vertices around it exist. In the original, this weight depends on the position in the simplex.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from scipy import sparse

# Factor on the scale of equal variance. It minimizes the error against exp(-r²/2) over 0 < r < 4
# for 3 to 6 dimensions, to within a few percent of the minimum.
_SCALE = 1.05

# Rounds in which connecting vertices are added; more rounds change the sums very little.
_ROUNDS = 2

# Powers of this odd 64-bit number are the coefficients of vertex keys. A key is linear in the
# coordinates of its vertex, so the keys of neighbours differ by a constant. The probability that
# any two of n vertices have the same key is about n² / 2⁶⁵.
_MULTIPLIER = np.int64(-7046029254386353131)


class Lattice:
    """Sums over points, weighted by exp(-½ |f_i - f_j|²).

    Args:
        features: (d, N), in units of the kernel's standard deviation. Vertices depend on the
            absolute features, so equal features have equal vertices in every block.
    """

    def __init__(self, features: np.ndarray) -> None:
        axes = len(features) + 1
        steps = _steps(axes)
        keys, weights = _simplices(features * (axes * np.sqrt(2 / 3) * _SCALE), steps)
        weights /= np.sqrt(_self_weight(weights))
        occupied, inverse = np.unique(keys.T, return_inverse=True)
        vertices = occupied
        for _ in range(_ROUNDS):
            vertices = _with_connecting(vertices, steps)
        corners = np.searchsorted(vertices, occupied).astype(np.int32)[inverse.ravel()]
        starts = np.arange(0, weights.size + 1, axes)
        self._splat = sparse.csr_matrix(
            (weights.T.ravel(), corners, starts), shape=(weights.shape[1], len(vertices))
        )
        self._neighbours = [_neighbours(vertices, step) for step in steps]

    def __len__(self) -> int:
        return int(self._splat.shape[1])

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Return for each point the weighted sum of the values of all points.

        Args:
            values: float32 (C, N).

        Returns:
            float32 (C, N).
        """
        return np.stack([self._splat @ self._blurred(self._splat.T @ row) for row in values])

    def _blurred(self, spread: np.ndarray) -> np.ndarray:
        """Blur the values of the vertices, (M,), by (1, 2, 1) / 4 along one axis after another."""
        # The last element is the value of neighbours that do not exist.
        values = np.append(spread, np.float32(0))
        for ahead, behind in self._neighbours:
            beside = values.take(ahead)
            beside += values.take(behind)
            beside *= 0.25
            values[:-1] *= 0.5
            values[:-1] += beside
        blurred: np.ndarray = values[:-1]
        return blurred


def _steps(axes: int) -> np.ndarray:
    """Return what a step along each axis, (1, ..., 1, -d, 1, ..., 1), adds to a vertex key."""
    multipliers = np.cumprod(np.full(axes, _MULTIPLIER))
    steps: np.ndarray = multipliers.sum() - axes * multipliers
    return steps


def _simplices(points: np.ndarray, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return keys and weights of the corners of each point's simplex, each (d + 1, N).

    Each corner differs from the one before by a step along one axis. The axes are ordered by the
    distance of the point from the first corner, the largest first.
    """
    axes = len(steps)
    vertex, offset, rank = _nearest_vertex(_project(points) / axes)
    ordered, order = np.empty_like(offset), np.empty_like(rank)
    np.put_along_axis(ordered, rank, offset, axis=0)
    np.put_along_axis(order, rank, np.arange(axes, dtype=rank.dtype)[:, None], axis=0)
    weights = np.empty(offset.shape, dtype=np.float32)
    weights[0] = 1 + ordered[-1] - ordered[0]
    weights[1:] = (ordered[:-1] - ordered[1:])[::-1]
    keys = np.empty(offset.shape, dtype=np.int64)
    # The coordinates of these vertices are multiples of d + 1, the number of axes.
    keys[0] = (vertex * -steps[:, None]).sum(axis=0)
    keys[1:] = steps[order[:0:-1]]
    return np.cumsum(keys, axis=0, out=keys), weights


def _project(points: np.ndarray) -> np.ndarray:
    """Rotate points (d, N) onto the hyperplane of d + 1 coordinates that sum to 0."""
    k = np.arange(1, len(points) + 1)[:, None]
    scaled = points / np.sqrt(k * (k + 1))
    elevated = np.zeros((len(points) + 1, points.shape[1]))
    elevated[:-1] = np.cumsum(scaled[::-1], axis=0)[::-1]
    elevated[1:] -= k * scaled
    return elevated


def _nearest_vertex(elevated: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the nearest vertex with integer coordinates for each point.

    Args:
        elevated: (d + 1, N), in units of d + 1.

    Returns:
        The vertex, the offset of the point from it, and the rank of the offset among the axes, the
        largest first; each (d + 1, N).
    """
    axes = len(elevated)
    rounded = np.rint(elevated)
    offset = (elevated - rounded).astype(np.float32)
    rank = np.zeros(elevated.shape, dtype=np.int16)
    for one, other in combinations(range(axes), 2):
        smaller = offset[one] < offset[other]
        rank[one] += smaller
        rank[other] += ~smaller
    # Rounded coordinates may not sum to 0; the axes that were rounded most are corrected.
    vertex = rounded.astype(np.int64)
    rank += vertex.sum(axis=0).astype(np.int16)
    correction = (rank < 0).astype(np.int16) - (rank >= axes)
    return vertex + correction, offset - correction, rank + np.int16(axes) * correction


def _self_weight(weights: np.ndarray) -> np.ndarray:
    """Return the weight of each point for itself, (N,), through the d + 1 corners of its simplex.

    The blur (1, 2, 1) / 4 along every axis carries a value from one corner to another that is m
    steps along m axes away, in two ways: along these m axes, or backwards along all others (a
    step along every axis leads back to the start). From a corner to itself there is a third way.
    """
    axes = len(weights)
    corner = np.arange(axes)
    steps = np.abs(corner[:, None] - corner)
    carried = 0.5**axes * (0.5**steps + 0.5 ** (axes - steps) + 0.5**axes * (steps == 0))
    own: np.ndarray = np.einsum("kn,kn->n", carried.astype(weights.dtype) @ weights, weights)
    return own


def _with_connecting(vertices: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Add the vertices that are one step from two others, which connect these two.

    Args:
        vertices: Keys, sorted and distinct.
        steps: Key differences along each axis.
    """
    # The array consists of sorted runs, which a stable sort merges quickly.
    around = np.concatenate([vertices + step for step in (*steps, *-steps)])
    around.sort(kind="stable")
    connecting = _distinct(around[1:][around[1:] == around[:-1]])
    together = np.concatenate([vertices, connecting])
    together.sort(kind="stable")
    return _distinct(together)


def _distinct(ordered: np.ndarray) -> np.ndarray:
    first = np.ones(len(ordered), dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return ordered[first]


def _neighbours(vertices: np.ndarray, step: np.int64) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the vertices one step ahead and behind, (M,) each; M for none."""
    count = len(vertices)
    wanted = vertices + step
    ahead = np.searchsorted(vertices, wanted).astype(np.int32)
    ahead[ahead == count] = 0
    ahead[vertices[ahead] != wanted] = count
    behind = np.full(count, count, dtype=np.int32)
    here = np.flatnonzero(ahead < count).astype(np.int32)
    behind[ahead[here]] = here
    return ahead, behind
