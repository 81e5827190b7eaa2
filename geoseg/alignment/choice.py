"""Choice of the shift of each group of polygons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely

from geoseg.alignment.groups import find_groups, merge_colliding
from geoseg.alignment.likelihood import LikelihoodMeter
from geoseg.alignment.neighbourhood import ShiftPrior, infer_prior

# A group is moved if its likelihood with the prior, in natural logarithms, grows by this.
_LEAST_GAIN = 0.5

# The shift of a group tells about its neighbours' if it is better than others by this.
_LEAST_CONTRAST = 2.0

# Area in which the errors of probabilities are alike, in m²: so many pixels count as one.
_ALIKE_M2 = 4.0


# Groups are visited in squares of this side, in metres.
_BLOCK_M = 200.0


@dataclass(frozen=True)
class Scores:
    """Scores of all polygons; those outside the scene are not seen.

    Attributes:
        surfaces: Sum of the log likelihood over the pixels of a polygon and its ring, at each
            shift, relative to no shift, for each polygon in the scene (n, rows, columns); may be a
            memory map.
        rows: Position of each polygon in `surfaces`, or -1 (N,).
        pixels: Pixels of polygon and ring together (N,).
        is_supported: Whether the probabilities have a building at the polygon, bool (N,).
        is_seen: Whether it is on valid pixels, bool (N,).
    """

    surfaces: np.ndarray
    rows: np.ndarray
    pixels: np.ndarray
    is_supported: np.ndarray
    is_seen: np.ndarray

    def surface(self, index: int) -> np.ndarray:
        """Return the log likelihood of a polygon in the scene by shift (rows, columns)."""
        return np.asarray(self.surfaces[self.rows[index]], dtype=np.float64)


@dataclass(frozen=True)
class ChosenShifts:
    """The shift of each polygon.

    Attributes:
        shifts_m: Metres along (columns, rows), (N, 2).
        gains: Growth of the mean log likelihood of the polygon's pixels (N,).
        groups: Polygons of the same number were moved together (N,).
        centres_m: Middle of the group of each polygon, in metres (N, 2).
    """

    shifts_m: np.ndarray
    gains: np.ndarray
    groups: np.ndarray
    centres_m: np.ndarray


def choose_shifts(polygons: np.ndarray, scores: Scores, meter: LikelihoodMeter) -> ChosenShifts:
    """Choose the shift of each group of touching polygons.

    Groups that would collide are joined, and their common shift is chosen anew, until none do.
    Those without a polygon on valid pixels stay, and so do groups that would collide with them.

    Args:
        polygons: Polygons (N,) in metric pixel coordinates.
        scores: Their scores.
        meter: What has measured them; it tries shorter steps where those of its lattice are long.
    """
    groups = find_groups(polygons)
    chooser = _Chooser(polygons, scores, meter, _find_anchors(groups, scores.is_seen))
    prior = chooser.infer_prior(groups)
    while True:
        shifts = chooser.choose(groups, prior)
        merged = merge_colliding(polygons, groups, shifts)
        if merged is groups:
            break
        prior, groups = _join_priors(prior, groups, merged), merged
    gains = chooser.measure_gains(shifts)
    return ChosenShifts(shifts, gains, groups, _centres(polygons, groups)[groups])


class _Chooser:
    """Chooses shifts for given groups; a group that did not change is not computed again.

    Args:
        polygons: See `choose_shifts`.
        scores: See `choose_shifts`.
        meter: See `choose_shifts`.
        anchors: Polygons that must not move, nor any of their group, bool (N,).
    """

    def __init__(
        self,
        polygons: np.ndarray,
        scores: Scores,
        meter: LikelihoodMeter,
        anchors: np.ndarray,
    ) -> None:
        self._polygons, self._scores, self._meter = polygons, scores, meter
        self._lattice = lattice = meter.lattice
        self._anchors = anchors
        self._weight = lattice.gsd_m[0] * lattice.gsd_m[1] / _ALIKE_M2
        self._known: dict[bytes, np.ndarray] = {}

    def infer_prior(self, groups: np.ndarray) -> ShiftPrior:
        """Return the prior of each group."""
        lattice, places = self._lattice, _centres(self._polygons, groups)
        wide = lattice.max_shift_m / 2
        best, is_sure = np.zeros((len(places), 2)), np.zeros(len(places), bool)
        for number, members in self._visit(groups):
            evidence = self._evidence(members)
            if evidence is None:
                continue
            best[number], _ = self._find_best(members, evidence, np.zeros(2), wide)
            tried = evidence[lattice.allowed]
            is_sure[number] = tried.max() - np.median(tried) >= _LEAST_CONTRAST
        return infer_prior(places, best, is_sure, lattice.max_shift_m)

    def choose(self, groups: np.ndarray, prior: ShiftPrior) -> np.ndarray:
        """Return the shift of each polygon in metres (N, 2)."""
        shifts = np.zeros((len(groups), 2))
        known: dict[bytes, np.ndarray] = {}
        for number, members in self._visit(groups):
            key = members.tobytes()
            if key not in self._known:
                self._known[key] = self._choose_one(
                    members, prior.mean_m[number], prior.spread_m[number]
                )
            known[key] = shifts[members] = self._known[key]
        self._known = known
        return shifts

    def _visit(self, groups: np.ndarray) -> list[tuple[int, np.ndarray]]:
        """Return the number and the members of each group, block by block of the raster.

        So stored blocks are read few times where shorter steps are measured.
        """
        columns, rows = (_centres(self._polygons, groups) // _BLOCK_M).T
        members = _members(groups)
        return [(number, members[number]) for number in np.lexsort((columns, rows)).tolist()]

    def _choose_one(self, members: np.ndarray, mean_m: np.ndarray, spread_m: float) -> np.ndarray:
        stays = np.zeros(2)
        if self._anchors[members].any():
            return stays
        shift, gain = self._find_best(members, self._evidence(members), mean_m, spread_m)
        return shift if gain >= _LEAST_GAIN else stays

    def _find_best(
        self, members: np.ndarray, evidence: np.ndarray | None, mean_m: np.ndarray, spread_m: float
    ) -> tuple[np.ndarray, float]:
        """Return the best shift of a group, in metres (2,), and its gain over no shift.

        Around the best one of the lattice shorter steps are tried, until they are short enough.

        Args:
            members: Positions of the polygons of the group.
            evidence: Their log likelihood, see `_evidence`.
            mean_m: Mean of the prior, in metres (2,).
            spread_m: Standard deviation of the prior, in metres.
        """
        lattice = self._lattice
        while True:
            posterior = _log_prior(lattice.metres, mean_m, spread_m)
            if evidence is not None:
                posterior = posterior + evidence
            shift, _ = lattice.find_peak(posterior)
            if lattice.is_fine:
                break
            lattice = lattice.refine(shift)
            if evidence is not None:
                supported = members[self._scores.is_supported[members]].tolist()
                parts = [self._meter.compare(index, lattice) for index in supported]
                evidence = np.sum(parts, axis=0) * self._weight
        # Scores are relative to no shift, where the evidence is 0.
        still = _log_prior(np.zeros(2), mean_m, spread_m)
        return shift, lattice.value_at(posterior, shift) - float(still)

    def _evidence(self, members: np.ndarray) -> np.ndarray | None:
        """Return the log likelihood of a group by shift, of independent pixels; None without any.

        Polygons that the probabilities do not show say nothing; neither does a group whose
        likelihood still rises at the limit, since it is drawn to something farther away.
        """
        supported = members[self._scores.is_supported[members]]
        if not len(supported):
            return None
        evidence = np.zeros(self._lattice.shape)
        for index in supported.tolist():
            evidence += self._scores.surface(index)
        evidence *= self._weight
        _, is_maximum = self._lattice.find_peak(evidence)
        return evidence if is_maximum else None

    def measure_gains(self, shifts: np.ndarray) -> np.ndarray:
        """Return the growth of each polygon's mean log likelihood (N,)."""
        lattice = self._lattice
        gains = np.zeros(len(shifts))
        moved = (shifts != 0).any(axis=1) & self._scores.is_seen
        for index in np.flatnonzero(moved).tolist():
            if lattice.is_fine:
                near, surface = lattice, self._scores.surface(index)
            else:
                near = lattice.neighbours(shifts[index])
                surface = self._meter.compare(index, near)
            gains[index] = near.value_at(surface, shifts[index]) / self._scores.pixels[index]
        return gains


def _log_prior(shifts_m: np.ndarray, mean_m: np.ndarray, spread_m: float) -> np.ndarray:
    """Return the logarithm of a normal prior at some shifts (..., 2), up to a constant."""
    logs: np.ndarray = -0.5 * ((shifts_m - mean_m) ** 2).sum(axis=-1) / spread_m**2
    return logs


def _find_anchors(groups: np.ndarray, is_seen: np.ndarray) -> np.ndarray:
    """Return which polygons are in a group without any on valid pixels, bool (N,)."""
    seen = np.bincount(groups, weights=is_seen) > 0
    anchors: np.ndarray = ~seen[groups]
    return anchors


def _members(groups: np.ndarray) -> list[np.ndarray]:
    """Return the positions of the polygons of each group."""
    order = np.argsort(groups, kind="stable")
    return np.split(order, np.cumsum(np.bincount(groups))[:-1])


def _centres(polygons: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the middle of the bounds of each group (G, 2)."""
    left, bottom, right, top = shapely.bounds(polygons).reshape(-1, 4).T
    count = int(groups.max()) + 1
    low, high = np.full((count, 2), np.inf), np.full((count, 2), -np.inf)
    np.minimum.at(low, groups, np.stack([left, bottom], axis=-1))
    np.maximum.at(high, groups, np.stack([right, top], axis=-1))
    centres: np.ndarray = (low + high) / 2
    return centres


def _join_priors(prior: ShiftPrior, groups: np.ndarray, merged: np.ndarray) -> ShiftPrior:
    """Return the prior of merged groups: the mean of those of their parts."""
    _, first = np.unique(groups, return_index=True)
    owners = merged[first]
    number = np.bincount(owners)
    mean = np.stack([np.bincount(owners, weights=part) for part in prior.mean_m.T], axis=-1)
    spread = np.bincount(owners, weights=prior.spread_m)
    return ShiftPrior(mean / number[:, None], spread / number)
