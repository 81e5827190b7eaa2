"""Metrics per pixel, per area and per building.

Buildings are matched as in the SpaceNet-2 challenge: in order of falling confidence, each
proposal is compared with the unmatched true footprint of highest IoU, and matches it if the
IoU exceeds the threshold. All rates are 0.0 where undefined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Self, TypeAlias

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray

# A list of polygons or an object array of them.
Polygons: TypeAlias = "Sequence[Any] | NDArray[np.object_]"


@dataclass(frozen=True)
class AreaCounts:
    """Amounts of agreement and disagreement, in pixels or square units; can be added.

    Attributes:
        tp: Amount in both prediction and truth.
        fp: Amount in the prediction only.
        fn: Amount in the truth only.
    """

    tp: float
    fp: float
    fn: float

    def __add__(self, other: Self) -> Self:
        if type(other) is not type(self):
            return NotImplemented
        names = [field.name for field in fields(self)]
        return type(self)(*(getattr(self, name) + getattr(other, name) for name in names))

    def __truediv__(self, unit: float) -> AreaCounts:
        """Convert to another unit."""
        return AreaCounts(self.tp / unit, self.fp / unit, self.fn / unit)

    @property
    def precision(self) -> float:
        """Share of the prediction that is true."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """Share of the truth that is predicted."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        # The formula of the challenge, so that its published scores are reproduced exactly.
        return _ratio(2 * self.precision * self.recall, self.precision + self.recall)

    @property
    def iou(self) -> float:
        """Intersection over union."""
        return _ratio(self.tp, self.tp + self.fp + self.fn)


@dataclass(frozen=True)
class Score(AreaCounts):
    """Counts of matched and unmatched buildings; can be added over scenes.

    Attributes:
        tp: Number of matched proposals.
        fp: Number of unmatched proposals.
        fn: Number of unmatched true footprints.
    """

    tp: int
    fp: int
    fn: int


@dataclass(frozen=True)
class PixelCounts(AreaCounts):
    """Counts of valid pixels of two boolean arrays; can be added over tiles.

    Attributes:
        tp: Pixels that are True in both.
        fp: Pixels that are True in the prediction only.
        fn: Pixels that are True in the truth only.
        tn: Pixels that are False in both.
    """

    tp: int
    fp: int
    fn: int
    tn: int


@dataclass(frozen=True, eq=False)
class Confusion:
    """Confusion matrix of classes; can be added over tiles.

    Attributes:
        counts: int64 (classes, classes), [truth, prediction] in pixels.
    """

    counts: NDArray[np.int64]

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(self.counts + other.counts)

    @property
    def per_class(self) -> tuple[PixelCounts, ...]:
        """Counts of each class against all others."""
        hits = self.counts.diagonal()
        fp, fn = self.counts.sum(axis=0) - hits, self.counts.sum(axis=1) - hits
        tn = self.counts.sum() - hits - fp - fn
        columns = (column.tolist() for column in (hits, fp, fn, tn))
        return tuple(PixelCounts(*row) for row in zip(*columns, strict=True))

    @property
    def accuracy(self) -> float:
        """Share of the pixels with the right class."""
        return _ratio(float(self.counts.trace()), float(self.counts.sum()))

    @property
    def mean_iou(self) -> float:
        """Mean IoU of the classes that occur in the truth or the prediction."""
        return _mean([one.iou for one in self._occurring])

    @property
    def mean_f1(self) -> float:
        """Mean F1 of the classes that occur in the truth or the prediction."""
        return _mean([one.f1 for one in self._occurring])

    @property
    def _occurring(self) -> list[PixelCounts]:
        return [one for one in self.per_class if one.tp + one.fp + one.fn > 0]


@dataclass(frozen=True, eq=False)
class Matches:
    """Matches of proposals and true footprints.

    Attributes:
        proposal_match: (P,) index of the true footprint of each proposal, -1 if unmatched.
        proposal_iou: (P,) IoU with the best unmatched true footprint, even if below the threshold.
        truth_match: (T,) index of the proposal of each true footprint, -1 if unmatched.
        truth_iou: (T,) highest IoU of the proposals compared with each true footprint, even if
            below the threshold.
    """

    proposal_match: NDArray[np.intp]
    proposal_iou: NDArray[np.float64]
    truth_match: NDArray[np.intp]
    truth_iou: NDArray[np.float64]

    @cached_property
    def tp(self) -> int:
        """Number of matched proposals."""
        return int(np.count_nonzero(self.proposal_match >= 0))

    @property
    def fp(self) -> int:
        """Number of unmatched proposals."""
        return len(self.proposal_match) - self.tp

    @property
    def fn(self) -> int:
        """Number of unmatched true footprints."""
        return len(self.truth_match) - self.tp

    @property
    def score(self) -> Score:
        """The three counts with their rates."""
        return Score(self.tp, self.fp, self.fn)

    @property
    def iou_sum(self) -> float:
        """Sum of the IoU of the matched pairs; divided by `tp` it is their mean."""
        return float(self.proposal_iou[self.proposal_match >= 0].sum())


def count_pixels(
    pred: NDArray[np.bool_], truth: NDArray[np.bool_], valid: NDArray[np.bool_]
) -> PixelCounts:
    """Compare two boolean arrays on valid pixels.

    Args:
        pred: Prediction (..., H, W).
        truth: Truth of the same shape.
        valid: Array of the same shape, True for pixels to compare.

    Returns:
        Counts that sum to the number of valid pixels.

    Raises:
        ValueError: If the shapes differ.
    """
    if not pred.shape == truth.shape == valid.shape:
        raise ValueError(
            f"pred {pred.shape}, truth {truth.shape} and valid {valid.shape} must have one shape"
        )
    pred, truth = pred[valid].astype(bool), truth[valid].astype(bool)
    tp = int(np.count_nonzero(pred & truth))
    fp = int(np.count_nonzero(pred)) - tp
    fn = int(np.count_nonzero(truth)) - tp
    return PixelCounts(tp, fp, fn, pred.size - tp - fp - fn)


def count_classes(
    pred: NDArray[np.integer], truth: NDArray[np.integer], valid: NDArray[np.bool_], classes: int
) -> Confusion:
    """Count pairs of true and predicted classes on valid pixels.

    Args:
        pred: Predicted classes (..., H, W), from 0.
        truth: True classes of the same shape.
        valid: Array of the same shape, True for pixels to compare.
        classes: Number of classes.

    Raises:
        ValueError: If the shapes differ, or a valid pixel has a value outside the classes.
    """
    if not pred.shape == truth.shape == valid.shape:
        raise ValueError(
            f"pred {pred.shape}, truth {truth.shape} and valid {valid.shape} must have one shape"
        )
    pairs = truth[valid].astype(np.int64), pred[valid].astype(np.int64)
    if any(len(part) and not 0 <= part.min() <= part.max() < classes for part in pairs):
        raise ValueError(f"classes are 0 to {classes - 1}; a valid pixel has another value")
    counts = np.bincount(pairs[0] * classes + pairs[1], minlength=classes**2)
    return Confusion(counts.reshape(classes, classes))


def match_footprints(
    proposals: Polygons,
    truth: Polygons,
    *,
    confidence: ArrayLike | None = None,
    threshold: float = 0.5,
) -> Matches:
    """Match proposals to true footprints as in SpaceNet-2.

    Proposals are processed in order of falling confidence; ties keep their order and NaN comes
    last. Each is compared with the unmatched true footprint of highest IoU (the first one of
    several) and matches it if the IoU exceeds the threshold. Invalid proposals are repaired by
    `buffer(0)`; an invalid true footprint has IoU 0 with every proposal.

    Args:
        proposals: Polygons (P,).
        truth: True polygons (T,) in the same coordinates.
        confidence: Confidence of each proposal (P,); None keeps their order.
        threshold: IoU that a match must exceed; an IoU equal to it does not match.

    Returns:
        The matches.

    Raises:
        ValueError: If the number of confidences differs from the number of proposals.
    """
    proposals, truth = _as_array(proposals), _as_array(truth)
    order = _matching_order(confidence, len(proposals))
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    left, right, iou = _overlapping_pairs(_repair(proposals), truth)
    # Sorted by rank of the proposal, then by falling IoU.
    sequence = np.lexsort((right, -iou, rank[left]))
    matches = _no_matches(len(proposals), len(truth))
    _assign(matches, left[sequence], right[sequence], iou[sequence], threshold)
    return matches


def spacenet_filter(
    proposal_area: ArrayLike, truth_area: ArrayLike, min_area: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Select the footprints that are large enough to compare.

    As in SpaceNet-2, true footprints of exactly the minimum area are kept, but proposals of
    exactly that area are not. Footprints without area are never kept.

    Args:
        proposal_area: (P,) areas.
        truth_area: (T,) areas in the same unit.
        min_area: Minimum in that unit.

    Returns:
        Boolean arrays (P,) and (T,), True for footprints to keep.
    """
    proposal_area, truth_area = np.asarray(proposal_area), np.asarray(truth_area)
    kept_truth = (truth_area >= min_area) & (truth_area > 0)
    return proposal_area > max(min_area, 0.0), kept_truth


def compare_areas(proposals: Polygons, truth: Polygons) -> AreaCounts:
    """Compare the areas covered by two layers.

    The result is the limit of a comparison of pixels as their size approaches zero. Areas
    covered by several polygons of one layer are counted once.

    Args:
        proposals: Polygons (P,).
        truth: True polygons (T,) in the same coordinates.

    Returns:
        Areas in square units of the coordinates.
    """
    pred_parts, true_parts = (
        _disjoint_parts(_as_array(proposals)),
        _disjoint_parts(_as_array(truth)),
    )
    left, right = _intersecting_pairs(pred_parts, true_parts)
    both = float(shapely.area(shapely.intersection(pred_parts[left], true_parts[right])).sum())
    pred_area = float(shapely.area(pred_parts).sum())
    true_area = float(shapely.area(true_parts).sum())
    return AreaCounts(both, max(pred_area - both, 0.0), max(true_area - both, 0.0))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _as_array(polygons: Polygons) -> NDArray[np.object_]:
    return np.asarray(polygons, dtype=object)


def _repair(polygons: NDArray[np.object_]) -> NDArray[np.object_]:
    invalid = ~shapely.is_valid(polygons)
    if not invalid.any():
        return polygons
    polygons = polygons.copy()
    polygons[invalid] = shapely.buffer(polygons[invalid], 0)
    return polygons


def _disjoint_parts(polygons: NDArray[np.object_]) -> NDArray[np.object_]:
    """Return disjoint polygons that cover the same area."""
    polygons = _repair(polygons)
    # Footprints are usually disjoint already, and a union is slow.
    disjoint = shapely.coverage_is_valid(polygons)
    parts: NDArray[np.object_] = shapely.get_parts(
        polygons if disjoint else shapely.union_all(polygons)
    )
    return parts


def _matching_order(confidence: ArrayLike | None, count: int) -> NDArray[np.intp]:
    if confidence is None:
        return np.arange(count)
    values = np.asarray(confidence, dtype=float)
    if values.shape != (count,):
        raise ValueError(f"{count} proposals need {count} confidences, got {values.shape}")
    return np.argsort(-values, kind="stable")


def _intersecting_pairs(
    left: NDArray[np.object_], right: NDArray[np.object_]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    pairs = shapely.STRtree(right).query(left, predicate="intersects")
    return pairs[0], pairs[1]


def _overlapping_pairs(
    proposals: NDArray[np.object_], truth: NDArray[np.object_]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Return pairs of proposals and valid true polygons that intersect, and their IoU."""
    usable = np.flatnonzero(shapely.is_valid(truth))
    left, right = _intersecting_pairs(proposals, truth[usable])
    right = usable[right]
    both = shapely.area(shapely.intersection(proposals[left], truth[right]))
    union = shapely.area(proposals[left]) + shapely.area(truth[right]) - both
    return left, right, np.divide(both, union, out=np.zeros_like(both), where=union > 0)


def _no_matches(proposals: int, truth: int) -> Matches:
    return Matches(
        proposal_match=np.full(proposals, -1, dtype=np.intp),
        proposal_iou=np.zeros(proposals),
        truth_match=np.full(truth, -1, dtype=np.intp),
        truth_iou=np.zeros(truth),
    )


def _assign(
    matches: Matches,
    left: NDArray[np.intp],
    right: NDArray[np.intp],
    iou: NDArray[np.float64],
    threshold: float,
) -> None:
    """Fill in the matches; pairs are sorted by rank of the proposal, then by falling IoU."""
    current = -1
    for proposal, truth, value in zip(left.tolist(), right.tolist(), iou.tolist(), strict=True):
        if proposal == current or matches.truth_match[truth] >= 0:
            continue
        current = proposal
        matches.proposal_iou[proposal] = value
        matches.truth_iou[truth] = max(matches.truth_iou[truth], value)
        if value > threshold:
            matches.proposal_match[proposal] = truth
            matches.truth_match[truth] = proposal
