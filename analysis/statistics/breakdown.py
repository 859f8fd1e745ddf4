"""AP of a run by size of the boxes, by class, by how crowded the images are and by stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from analysis.statistics.average_precision import AveragePrecision
from analysis.statistics.coco_columns import FoundBoxes, GroundTruth, IntArray
from analysis.statistics.duplicates import DuplicateCounts, count_duplicates, count_duplicates_of_best
from analysis.statistics.matching import box_ious, match

BOX_COUNTS = (0, 1, 2, 4, 8, 16)
OVERLAPS = (0.0, 0.1, 0.3, 0.5)
CROWDED_IOU = 0.3


@dataclass(frozen=True)
class SubsetAP:
    """AP of a part of the validation set, in percent, None without a box, and how many boxes or images are in it."""

    name: str
    count: int
    ap: float | None


class CountsByCrowding(NamedTuple):
    """Counts of duplicates in all images, in crowded and in other ones."""

    everywhere: DuplicateCounts
    crowded: DuplicateCounts
    elsewhere: DuplicateCounts


@dataclass(frozen=True)
class StageBreakdown:
    """AP of a stage in percent, and its duplicates from a score on and among its N best detections."""

    index: int
    ap: float | None
    above_score: CountsByCrowding
    best: CountsByCrowding


def by_size(truth: GroundTruth, detections: FoundBoxes) -> list[SubsetAP]:
    """AP of small, medium and large boxes (COCO's areas), with the number of boxes."""
    parts = []
    for name in ("small", "medium", "large"):
        matches = match(truth, detections, area=name)
        parts.append(SubsetAP(name, len(matches.truth_images), percent(AveragePrecision(matches)())))
    return parts


def by_class(truth: GroundTruth, precision: AveragePrecision) -> list[SubsetAP]:
    """AP of each class that has boxes, with their number."""
    ap = precision.per_class()
    counts = np.bincount(truth.category_indices[~truth.is_crowd], minlength=len(truth.category_ids))
    return [SubsetAP(truth.class_names[k], int(counts[k]), percent(ap[:, k])) for k in np.flatnonzero(counts).tolist()]


def contributions(classes: Sequence[SubsetAP], others: Sequence[SubsetAP]) -> list[float | None]:
    """Each class's part of the difference in AP, ``others`` less ``classes``, in points of AP; they sum up to it.

    AP is the mean over the classes that have boxes, so a class adds its own difference divided by their number.
    """
    pairs = [(first.ap, second.ap) for first, second in zip(classes, others, strict=True)]
    num_classes = sum(first is not None for first, _ in pairs)
    return [None if a is None or b is None else (b - a) / num_classes for a, b in pairs]


def by_box_count(truth: GroundTruth, precision: AveragePrecision) -> list[SubsetAP]:
    """AP over the images with so many boxes, with the number of images; crowd boxes are not counted."""
    counts = boxes_per_image(truth)
    parts = []
    for low, high in zip(BOX_COUNTS, [*BOX_COUNTS[1:], None], strict=True):
        name = f"{low} or more" if high is None else str(low) if high == low + 1 else f"{low} to {high - 1}"
        parts.append(_subset(name, (counts >= low) & (counts < (high or np.inf)), precision))
    return [part for part in parts if part.count]


def by_overlap(truth: GroundTruth, precision: AveragePrecision) -> list[SubsetAP]:
    """AP over the images whose two most overlapping boxes have such an IoU, with the number of images."""
    overlaps = largest_overlaps(truth)
    parts = [_subset("none", overlaps == 0, precision)]
    for low, high in zip(OVERLAPS, [*OVERLAPS[1:], None], strict=True):
        name = f"{low:g} or more" if high is None else f"below {high:g}" if low == 0 else f"{low:g} to {high:g}"
        inside = (overlaps >= low) & (overlaps > 0) & (overlaps < (high or np.inf))
        parts.append(_subset(name, inside, precision))
    return [part for part in parts if part.count]


def by_stage(truth: GroundTruth, stages: Sequence[FoundBoxes], min_score: float) -> list[StageBreakdown]:
    """AP and duplicates of every stage's own output; crowded images have two boxes with an IoU of ``CROWDED_IOU``."""
    is_crowded = largest_overlaps(truth) >= CROWDED_IOU
    scenes = (None, is_crowded, ~is_crowded)
    found = []
    for index, detections in enumerate(stages):
        ap = percent(AveragePrecision(match(truth, detections))())
        above_score = CountsByCrowding(*(count_duplicates(truth, detections, min_score, images) for images in scenes))
        best = CountsByCrowding(*(count_duplicates_of_best(truth, detections, images) for images in scenes))
        found.append(StageBreakdown(index, ap, above_score, best))
    return found


def boxes_per_image(truth: GroundTruth) -> IntArray:
    """The boxes of each image, (N,), without crowd boxes."""
    return np.bincount(truth.image_indices[~truth.is_crowd], minlength=len(truth.image_ids))


def largest_overlaps(truth: GroundTruth) -> npt.NDArray[np.float64]:
    """The largest IoU between two boxes of each image, of whatever class, (N,); 0 with fewer than two."""
    rows = np.flatnonzero(~truth.is_crowd)
    rows = rows[np.argsort(truth.image_indices[rows], kind="stable")]
    ends = np.cumsum(boxes_per_image(truth))
    largest = np.zeros(len(truth.image_ids))
    for image, boxes in enumerate(np.split(rows, ends[:-1])):
        if len(boxes) > 1:
            first, second = (boxes[side] for side in np.triu_indices(len(boxes), 1))
            own = truth.boxes_xywh_abs
            largest[image] = box_ious(own[first], own[second], np.zeros(len(first), np.bool_)).max()
    return largest


def percent(ap: npt.NDArray[np.float64]) -> float | None:
    """The mean over thresholds in percent, None for NaN."""
    mean = 100 * float(ap.mean())
    return None if np.isnan(mean) else mean


def _subset(name: str, images: npt.NDArray[np.bool_], precision: AveragePrecision) -> SubsetAP:
    return SubsetAP(name, int(images.sum()), percent(precision(images.astype(np.int64))))
