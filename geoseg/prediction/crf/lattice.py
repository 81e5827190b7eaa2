"""Gaussian sums over points in many dimensions, on the permutohedral lattice.

Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice",
Eurographics 2010. Each point is shared out among the corners of the lattice simplex it lies in,
the lattice is blurred along its axes, and the points read the corners back.

Three things are done otherwise than there, because they make the sums more exact:

- Vertices that join two others are added before the blur. The original blurs only between
  vertices that points have touched; where those lie scattered, its paths break.
- The points are spread a little wider, which makes up for a blur that is flatter than a Gaussian.
- Shares are scaled so that a point weighs itself 1, as in the true kernel, wherever the vertices
  around it are there. In the original this weight depends on where in its simplex it lies.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from scipy import sparse

# How much wider than by equal variance points are spread over the lattice. It gives the smallest
# error against exp(-r²/2) over 0 < r < 4, for 3 to 6 dimensions, to within a few percent of it.
_SPREAD = 1.05

# Rounds in which joining vertices are added; a further round changes nothing that matters.
_ROUNDS = 2

# Powers of an odd number of 64 random-looking bits tell vertices apart: a vertex's key is linear
# in its coordinates, so that its neighbour's key is a constant away. Of n vertices any two share
# a key with a probability of about n² / 2⁶⁵.
_MULTIPLIER = np.int64(-7046029254386353131)


class Lattice:
    """Sums over points, weighted by exp(-½ |f_i - f_j|²).

    Args:
        features: (d, N), in units of the kernel's standard deviation. Only their differences
            count in theory; in practice the same features give the same vertices, whatever
            other points there are.
    """

    def __init__(self, features: np.ndarray) -> None:
        axes = len(features) + 1
        steps = _steps(axes)
        keys, weights = _simplices(features * (axes * np.sqrt(2 / 3) * _SPREAD), steps)
        weights /= np.sqrt(_self_weight(weights))
        touched, inverse = np.unique(keys.T, return_inverse=True)
        vertices = touched
        for _ in range(_ROUNDS):
            vertices = _with_joining(vertices, steps)
        corners = np.searchsorted(vertices, touched).astype(np.int32)[inverse.ravel()]
        starts = np.arange(0, weights.size + 1, axes)
        self._splat = sparse.csr_matrix(
            (weights.T.ravel(), corners, starts), shape=(weights.shape[1], len(vertices))
        )
        self._neighbours = [_neighbours(vertices, step) for step in steps]

    def __len__(self) -> int:
        return int(self._splat.shape[1])

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Sums of the values of all points, as seen from each.

        Args:
            values: float32 (C, N).

        Returns:
            float32 (C, N).
        """
        return np.stack([self._splat @ self._blurred(self._splat.T @ row) for row in values])

    def _blurred(self, spread: np.ndarray) -> np.ndarray:
        """Blurs the values of the vertices, (M,), by (1, 2, 1) / 4 along one axis after another."""
        # What lies beyond the vertices is 0.
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
    """What a step along each axis, (1, ..., 1, -d, 1, ..., 1), adds to a vertex's key."""
    multipliers = np.cumprod(np.full(axes, _MULTIPLIER))
    steps: np.ndarray = multipliers.sum() - axes * multipliers
    return steps


def _simplices(points: np.ndarray, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keys and weights of the corners of the simplices that points lie in, each (d + 1, N).

    A corner differs from the one before by a step along one axis: the axes in the order of how
    far the point lies past the first corner.
    """
    axes = len(steps)
    whole, past, rank = _nearest(_elevated(points) / axes)
    ordered, order = np.empty_like(past), np.empty_like(rank)
    np.put_along_axis(ordered, rank, past, axis=0)
    np.put_along_axis(order, rank, np.arange(axes, dtype=rank.dtype)[:, None], axis=0)
    weights = np.empty(past.shape, dtype=np.float32)
    weights[0] = 1 + ordered[-1] - ordered[0]
    weights[1:] = (ordered[:-1] - ordered[1:])[::-1]
    keys = np.empty(past.shape, dtype=np.int64)
    # The coordinates of these vertices are multiples of d + 1, which is the step's -axes.
    keys[0] = (whole * -steps[:, None]).sum(axis=0)
    keys[1:] = steps[order[:0:-1]]
    return np.cumsum(keys, axis=0, out=keys), weights


def _elevated(points: np.ndarray) -> np.ndarray:
    """Turns (d, N) onto the plane of d + 1 coordinates that sum to 0."""
    k = np.arange(1, len(points) + 1)[:, None]
    scaled = points / np.sqrt(k * (k + 1))
    elevated = np.zeros((len(points) + 1, points.shape[1]))
    elevated[:-1] = np.cumsum(scaled[::-1], axis=0)[::-1]
    elevated[1:] -= k * scaled
    return elevated


def _nearest(elevated: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The vertex of whole coordinates nearest to each point.

    Args:
        elevated: (d + 1, N), in units of d + 1.

    Returns:
        The vertex, how far the point lies past it, and the rank of that among the axes, the
        farthest first; each (d + 1, N).
    """
    axes = len(elevated)
    rounded = np.rint(elevated)
    past = (elevated - rounded).astype(np.float32)
    rank = np.zeros(elevated.shape, dtype=np.int16)
    for one, other in combinations(range(axes), 2):
        behind = past[one] < past[other]
        rank[one] += behind
        rank[other] += ~behind
    # Rounding each coordinate leaves the plane; the axes that were rounded most give way.
    whole = rounded.astype(np.int64)
    rank += whole.sum(axis=0).astype(np.int16)
    turn = (rank < 0).astype(np.int16) - (rank >= axes)
    return whole + turn, past - turn, rank + np.int16(axes) * turn


def _self_weight(weights: np.ndarray) -> np.ndarray:
    """What each point gets back of itself, (N,), through its simplex's d + 1 corners.

    The blur (1, 2, 1) / 4 along every axis carries a share from one corner to another, m steps
    along as many axes away, in two ways: by these m axes, or backwards by all the others (all
    axes together lead back to where one was). From a corner to itself there is a third.
    """
    axes = len(weights)
    corner = np.arange(axes)
    apart = np.abs(corner[:, None] - corner)
    carried = 0.5**axes * (0.5**apart + 0.5 ** (axes - apart) + 0.5**axes * (apart == 0))
    got: np.ndarray = np.einsum("kn,kn->n", carried.astype(weights.dtype) @ weights, weights)
    return got


def _with_joining(vertices: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Adds the vertices that lie a step from two others: only they can carry from one to one.

    Args:
        vertices: Keys, sorted and distinct.
        steps: Key differences along each axis.
    """
    # Sorted runs, which a stable sort merges.
    around = np.concatenate([vertices + step for step in (*steps, *-steps)])
    around.sort(kind="stable")
    joining = _distinct(around[1:][around[1:] == around[:-1]])
    together = np.concatenate([vertices, joining])
    together.sort(kind="stable")
    return _distinct(together)


def _distinct(ordered: np.ndarray) -> np.ndarray:
    first = np.ones(len(ordered), dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return ordered[first]


def _neighbours(vertices: np.ndarray, step: np.int64) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the vertices a step ahead and behind, (M,) each; M where there is none."""
    count = len(vertices)
    wanted = vertices + step
    ahead = np.searchsorted(vertices, wanted).astype(np.int32)
    ahead[ahead == count] = 0
    ahead[vertices[ahead] != wanted] = count
    behind = np.full(count, count, dtype=np.int32)
    here = np.flatnonzero(ahead < count).astype(np.int32)
    behind[ahead[here]] = here
    return ahead, behind
