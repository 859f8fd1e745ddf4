"""Non-maximum suppression of stored detections, and what it changes: AP and the number of duplicates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.statistics.average_precision import AveragePrecision
from analysis.statistics.breakdown import percent
from analysis.statistics.coco_columns import FoundBoxes, GroundTruth, IntArray
from analysis.statistics.duplicates import DuplicateCounts, count_duplicates
from analysis.statistics.matching import box_ious, match

NMS_IOU = 0.5
_CHUNK = 4_000_000  # pairs of boxes at a time
_THRESHOLD = "nms_threshold"
_FIRST_STEPS = ("rpn", "proposal")  # in keys: NMS of what a detector starts from, not of what it finds


@dataclass(frozen=True)
class SuppressionEffect:
    """AP in percent and the duplicates from a score on, of detections as they are and after NMS."""

    ap: float | None
    ap_after: float | None
    counts: DuplicateCounts
    counts_after: DuplicateCounts


def suppression_effect(
    truth: GroundTruth, detections: FoundBoxes, min_score: float, iou: float = NMS_IOU
) -> SuppressionEffect:
    """The effect of NMS at an IoU on detections."""
    kept = detections.chosen(kept_by_nms(detections, iou))
    ap, ap_after = (percent(AveragePrecision(match(truth, own))()) for own in (detections, kept))
    return SuppressionEffect(
        ap, ap_after, count_duplicates(truth, detections, min_score), count_duplicates(truth, kept, min_score)
    )


def kept_by_nms(detections: FoundBoxes, iou: float) -> npt.NDArray[np.bool_]:
    """Which detections greedy NMS keeps, (D,): by image and class, best score first, each removes those after it that
    overlap it with an IoU above ``iou``. Of equal scores the earlier detection comes first.
    """
    order = np.lexsort((-detections.scores, detections.category_indices, detections.image_indices))
    own = detections.chosen(order)
    is_first = np.ones(len(own), np.bool_)
    is_first[1:] = (np.diff(own.image_indices) != 0) | (np.diff(own.category_indices) != 0)
    starts = np.flatnonzero(is_first)
    ends = np.append(starts[1:], len(own))
    kept = np.ones(len(own), np.bool_)
    for better, worse in _pairs(starts, ends):
        boxes = own.boxes_xywh_abs
        near = box_ious(boxes[better], boxes[worse], np.zeros(len(better), np.bool_)) > iou
        better, worse = better[near], worse[near]
        # Pairs of one rank within their groups have no detection in common as the better one, and whether that one is
        # kept was decided by the ranks before.
        ranks = better - starts[np.searchsorted(starts, better, side="right") - 1]
        by_rank = np.argsort(ranks, kind="stable")
        for rows in np.split(by_rank, np.flatnonzero(np.diff(ranks[by_rank])) + 1):
            kept[worse[rows[kept[better[rows]]]]] = False
    found = np.empty(len(own), np.bool_)
    found[order] = kept
    return found


def own_nms_threshold(config: Mapping[str, Any]) -> float | None:
    """The IoU of the NMS that a run's detector itself ends with; None for one without.

    It is the number of a key in the run's ``model`` that is called nms_threshold or ends so, outside what makes the
    boxes to begin with.
    """
    found = [value for key, value in _numbers(config.get("model"), "") if key.endswith(_THRESHOLD)]
    return found[0] if found else None


def _numbers(node: Any, key: str) -> Iterator[tuple[str, float]]:
    if isinstance(node, Mapping):
        for name, value in node.items():
            if not str(name).startswith(_FIRST_STEPS):
                yield from _numbers(value, str(name))
    elif isinstance(node, (int, float)) and not isinstance(node, bool):
        yield key, float(node)


def _pairs(starts: IntArray, ends: IntArray) -> Iterator[tuple[IntArray, IntArray]]:
    """All pairs of positions within groups, the better first, whole groups at a time."""
    sizes = ends - starts
    cuts = np.flatnonzero(np.diff(np.cumsum(sizes * (sizes - 1) // 2) // _CHUNK, prepend=0))
    for groups in np.split(np.arange(len(starts)), cuts):
        positions = np.concatenate([np.arange(starts[g], ends[g]) for g in groups]) if len(groups) else groups
        # Each position with all after it in its group.
        counts = np.repeat(ends[groups], sizes[groups]) - positions - 1
        better = np.repeat(positions, counts)
        within = np.arange(len(better)) - np.repeat(np.cumsum(counts) - counts, counts)
        yield better, better + 1 + within
