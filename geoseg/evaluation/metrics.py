"""How well a prediction fits the truth: per pixel, per area and per building.

Buildings are matched as in the SpaceNet-2 contest: the surest proposal chooses first, each
takes the truth it overlaps best among those still free, and it counts when their
intersection over union (IoU) exceeds the threshold. All rates are 0.0 where undefined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Self, TypeAlias

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray

# A list of polygons, an object array of them or a GeoSeries.
Polygons: TypeAlias = "Sequence[Any] | NDArray[np.object_]"


@dataclass(frozen=True)
class AreaCounts:
    """Agreement of two sets as amounts, in pixels or square units; adds up over places.

    Attributes:
        tp: In both.
        fp: In the prediction alone.
        fn: In the truth alone.
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
        """The same in another unit."""
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
        # Spelt as the contest does: its published scores are then met to the last digit.
        return _ratio(2 * self.precision * self.recall, self.precision + self.recall)

    @property
    def iou(self) -> float:
        """Intersection over union."""
        return _ratio(self.tp, self.tp + self.fp + self.fn)


@dataclass(frozen=True)
class Score(AreaCounts):
    """Agreement of two layers counted in buildings; adds up over scenes.

    Attributes:
        tp: Proposals that match a truth.
        fp: Proposals that match none.
        fn: Truths that no proposal matches.
    """

    tp: int
    fp: int
    fn: int


@dataclass(frozen=True)
class PixelCounts(AreaCounts):
    """Agreement of two boolean arrays counted in valid pixels; adds up over tiles.

    Attributes:
        tp: True in both.
        fp: True in the prediction alone.
        fn: True in the truth alone.
        tn: True in neither.
    """

    tp: int
    fp: int
    fn: int
    tn: int


@dataclass(frozen=True, eq=False)
class Confusion:
    """Which class pixels are of and which they were taken for; adds up over tiles.

    Attributes:
        counts: int64 (classes, classes), [truth, prediction] in pixels.
    """

    counts: NDArray[np.int64]

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(self.counts + other.counts)

    @property
    def per_class(self) -> tuple[PixelCounts, ...]:
        """Each class against all others."""
        hits = self.counts.diagonal()
        false, missed = self.counts.sum(axis=0) - hits, self.counts.sum(axis=1) - hits
        right = self.counts.sum() - hits - false - missed
        columns = (column.tolist() for column in (hits, false, missed, right))
        return tuple(PixelCounts(*row) for row in zip(*columns, strict=True))

    @property
    def accuracy(self) -> float:
        """Share of the pixels whose class is right."""
        return _ratio(float(self.counts.trace()), float(self.counts.sum()))

    @property
    def mean_iou(self) -> float:
        """Mean IoU of the classes that occur, in the truth or the prediction."""
        return _mean([one.iou for one in self._occurring])

    @property
    def mean_f1(self) -> float:
        """Mean F1 of the classes that occur, in the truth or the prediction."""
        return _mean([one.f1 for one in self._occurring])

    @property
    def _occurring(self) -> list[PixelCounts]:
        return [one for one in self.per_class if one.tp + one.fp + one.fn > 0]


@dataclass(frozen=True, eq=False)
class Matches:
    """Which proposal found which truth.

    Attributes:
        proposal_match: (P,) index of each proposal's truth, -1 where it has none.
        proposal_iou: (P,) IoU with the best truth that was free, matched or not.
        truth_match: (T,) index of each truth's proposal, -1 where it has none.
        truth_iou: (T,) best IoU among the proposals that chose this truth, matched or not.
    """

    proposal_match: NDArray[np.intp]
    proposal_iou: NDArray[np.float64]
    truth_match: NDArray[np.intp]
    truth_iou: NDArray[np.float64]

    @cached_property
    def tp(self) -> int:
        """Matched proposals."""
        return int(np.count_nonzero(self.proposal_match >= 0))

    @property
    def fp(self) -> int:
        """Proposals without a truth."""
        return len(self.proposal_match) - self.tp

    @property
    def fn(self) -> int:
        """Truths without a proposal."""
        return len(self.truth_match) - self.tp

    @property
    def score(self) -> Score:
        """The three counts with their rates."""
        return Score(self.tp, self.fp, self.fn)

    @property
    def iou_sum(self) -> float:
        """Sum of the matched pairs' IoU; over `tp` it is their mean."""
        return float(self.proposal_iou[self.proposal_match >= 0].sum())


def count_pixels(
    pred: NDArray[np.bool_], truth: NDArray[np.bool_], valid: NDArray[np.bool_]
) -> PixelCounts:
    """Counts agreement where valid.

    Args:
        pred: (..., H, W) predicted.
        truth: The same shape, what is there.
        valid: The same shape, True where pixels count.

    Returns:
        Counts that sum to the number of valid pixels.

    Raises:
        ValueError: If the shapes differ.
    """
    if not pred.shape == truth.shape == valid.shape:
        raise ValueError(
            f"pred {pred.shape}, truth {truth.shape} and valid {valid.shape} need one shape"
        )
    pred, truth = pred[valid].astype(bool), truth[valid].astype(bool)
    tp = int(np.count_nonzero(pred & truth))
    fp = int(np.count_nonzero(pred)) - tp
    fn = int(np.count_nonzero(truth)) - tp
    return PixelCounts(tp, fp, fn, pred.size - tp - fp - fn)


def count_classes(
    pred: NDArray[np.integer], truth: NDArray[np.integer], valid: NDArray[np.bool_], classes: int
) -> Confusion:
    """Counts classes where valid.

    Args:
        pred: (..., H, W) predicted classes, from 0.
        truth: The same shape, what is there.
        valid: The same shape, True where pixels count.
        classes: How many there are.

    Raises:
        ValueError: If the shapes differ, or a valid pixel is of none of the classes.
    """
    if not pred.shape == truth.shape == valid.shape:
        raise ValueError(
            f"pred {pred.shape}, truth {truth.shape} and valid {valid.shape} need one shape"
        )
    pairs = truth[valid].astype(np.int64), pred[valid].astype(np.int64)
    if any(len(part) and not 0 <= part.min() <= part.max() < classes for part in pairs):
        raise ValueError(f"classes are 0 to {classes - 1}; a valid pixel is of another")
    counts = np.bincount(pairs[0] * classes + pairs[1], minlength=classes**2)
    return Confusion(counts.reshape(classes, classes))


def match_footprints(
    proposals: Polygons,
    truth: Polygons,
    *,
    confidence: ArrayLike | None = None,
    threshold: float = 0.5,
) -> Matches:
    """Matches proposals to truths as SpaceNet-2 does.

    Proposals choose in order of falling confidence, ties and NaN (which comes last) in the
    given order. Each looks at the truths that are still free, takes the one of highest IoU
    (of equals the first), and matches it if that IoU exceeds the threshold. An invalid
    proposal is mended by `buffer(0)`; an invalid truth has IoU 0 with everything.

    Args:
        proposals: (P,) polygons.
        truth: (T,) polygons in the same coordinates.
        confidence: (P,) any real numbers; None keeps the given order.
        threshold: IoU that a match must exceed; exactly the threshold does not match.

    Returns:
        Who matched whom.

    Raises:
        ValueError: If the number of confidences differs from the number of proposals.
    """
    proposals, truth = _as_array(proposals), _as_array(truth)
    order = _choosing_order(confidence, len(proposals))
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    left, right, iou = _overlaps(_mended(proposals), truth)
    # By chooser, then from the best truth to the worst.
    sequence = np.lexsort((right, -iou, rank[left]))
    matches = _no_matches(len(proposals), len(truth))
    _assign(matches, left[sequence], right[sequence], iou[sequence], threshold)
    return matches


def spacenet_filter(
    proposal_area: ArrayLike, truth_area: ArrayLike, min_area: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which footprints are large enough to count.

    The contest keeps truths of exactly the minimum area, and of proposals only larger ones.
    What has no area never counts.

    Args:
        proposal_area: (P,) areas.
        truth_area: (T,) areas in the same unit.
        min_area: Minimum in that unit.

    Returns:
        (P,) and (T,) booleans, True where the footprint counts.
    """
    proposal_area, truth_area = np.asarray(proposal_area), np.asarray(truth_area)
    kept_truth = (truth_area >= min_area) & (truth_area > 0)
    return proposal_area > max(min_area, 0.0), kept_truth


def compare_areas(proposals: Polygons, truth: Polygons) -> AreaCounts:
    """Compares the ground that two layers cover, exactly.

    This is what counting pixels tends to as pixels shrink, so it depends on no raster.
    Ground that several polygons of one layer share counts once.

    Args:
        proposals: Polygons.
        truth: Polygons in the same coordinates.

    Returns:
        Areas in square units of the coordinates.
    """
    pred_parts, true_parts = _apart(_as_array(proposals)), _apart(_as_array(truth))
    left, right = _touching(pred_parts, true_parts)
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


def _mended(polygons: NDArray[np.object_]) -> NDArray[np.object_]:
    invalid = ~shapely.is_valid(polygons)
    if not invalid.any():
        return polygons
    polygons = polygons.copy()
    polygons[invalid] = shapely.buffer(polygons[invalid], 0)
    return polygons


def _apart(polygons: NDArray[np.object_]) -> NDArray[np.object_]:
    """Polygons of the same ground, no two of which share any."""
    polygons = _mended(polygons)
    apart = shapely.coverage_is_valid(polygons)  # as footprints are, and a union takes long
    parts: NDArray[np.object_] = shapely.get_parts(
        polygons if apart else shapely.union_all(polygons)
    )
    return parts


def _choosing_order(confidence: ArrayLike | None, count: int) -> NDArray[np.intp]:
    if confidence is None:
        return np.arange(count)
    values = np.asarray(confidence, dtype=float)
    if values.shape != (count,):
        raise ValueError(f"{count} proposals need {count} confidences, got {values.shape}")
    return np.argsort(-values, kind="stable")


def _touching(
    left: NDArray[np.object_], right: NDArray[np.object_]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    pairs = shapely.STRtree(right).query(left, predicate="intersects")
    return pairs[0], pairs[1]


def _overlaps(
    proposals: NDArray[np.object_], truth: NDArray[np.object_]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Pairs of proposal and valid truth that touch, and their IoU."""
    usable = np.flatnonzero(shapely.is_valid(truth))
    left, right = _touching(proposals, truth[usable])
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
    """Lets each proposal choose; pairs come by chooser, best truth first."""
    chooser = -1
    for proposal, truth, value in zip(left.tolist(), right.tolist(), iou.tolist(), strict=True):
        if proposal == chooser or matches.truth_match[truth] >= 0:
            continue
        chooser = proposal
        matches.proposal_iou[proposal] = value
        matches.truth_iou[truth] = max(matches.truth_iou[truth], value)
        if value > threshold:
            matches.proposal_match[proposal] = truth
            matches.truth_match[truth] = proposal
