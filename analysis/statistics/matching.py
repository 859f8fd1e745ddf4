"""Which detections find which boxes, once per run, as pycocotools' evaluateImg decides it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.statistics.coco_columns import FloatArray, FoundBoxes, GroundTruth, IntArray

BoolArray = npt.NDArray[np.bool_]

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
MAX_DETS = 100
_CHUNK = 4_000_000  # pairs of boxes at a time


@dataclass(frozen=True)
class MatchedDetections:
    """D kept detections sorted by category, then falling score, then image; T IoU thresholds; N images, K categories.

    Shapes: ``rows`` (D,) positions in the detections matched; ``image_indices``, ``category_indices`` (D,);
    ``is_true``, ``is_ignored`` (T, D): found a box that counts, or is not to be counted. A detection that is neither is
    false. ``truth_images``, ``truth_categories`` (G,) of the boxes that count.
    """

    rows: IntArray
    image_indices: IntArray
    category_indices: IntArray
    is_true: BoolArray
    is_ignored: BoolArray
    truth_images: IntArray
    truth_categories: IntArray
    num_images: int
    num_categories: int


def match(
    truth: GroundTruth,
    detections: FoundBoxes,
    iou_thresholds: FloatArray = IOU_THRESHOLDS,
    area: str = "all",
    max_dets: int = MAX_DETS,
) -> MatchedDetections:
    """Match as pycocotools does: best score first, each takes the free box of its class with the largest IoU.

    Crowd boxes and boxes outside ``area`` are ignored, and so are the detections that find them or that find nothing
    and lie outside ``area`` themselves. Of each image and class the ``max_dets`` best are kept. Every annotation can be
    found, whatever its id (pycocotools by itself takes the id 0 for "not found", the suite's evaluation does not).
    """
    low, high = AREAS[area]
    ignore = truth.is_crowd | (truth.areas < low) | (truth.areas > high)
    kept, ranks = _best(truth, detections, max_dets)
    own = detections.chosen(kept)
    lowest = min(float(iou_thresholds.min()), 1 - 1e-10)
    pair_detections, pair_truths, ious = near_pairs(truth, own, lowest, ignore)
    found = _assign(pair_detections, pair_truths, ious, ranks, truth.is_crowd, ignore, iou_thresholds)
    sizes = own.boxes_xywh_abs[:, 2] * own.boxes_xywh_abs[:, 3]
    is_outside = (sizes < low) | (sizes > high)
    is_found = found >= 0
    is_ignored = np.where(is_found, np.append(ignore, False)[found], is_outside)
    order = np.lexsort((ranks, own.image_indices, -own.scores, own.category_indices))
    return MatchedDetections(
        kept[order],
        own.image_indices[order],
        own.category_indices[order],
        (is_found & ~is_ignored)[:, order],
        is_ignored[:, order],
        truth.image_indices[~ignore],
        truth.category_indices[~ignore],
        len(truth.image_ids),
        len(truth.category_ids),
    )


def box_ious(boxes_xywh_abs: FloatArray, others_xywh_abs: FloatArray, is_crowd: BoolArray) -> FloatArray:
    """IoU of boxes pair by pair, (P,) of (P, 4) each; over the first box's own area where the other is a crowd."""
    (x, y, w, h), (ox, oy, ow, oh) = boxes_xywh_abs.T, others_xywh_abs.T
    width = np.minimum(x + w, ox + ow) - np.maximum(x, ox)
    height = np.minimum(y + h, oy + oh) - np.maximum(y, oy)
    overlap = np.where((width > 0) & (height > 0), width * height, 0.0)
    area = w * h
    union = np.where(is_crowd, area, area + ow * oh - overlap)
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=overlap > 0)


def near_pairs(
    truth: GroundTruth, detections: FoundBoxes, min_iou: float, ignore: BoolArray
) -> tuple[IntArray, IntArray, FloatArray]:
    """Pairs of a detection and a box of its image and class with an IoU of at least ``min_iou``.

    Returns the positions of both, (P,) each, and their IoU; by detection, and of a detection those in ``ignore`` (G,)
    last, else in the order of the file.
    """
    groups = _groups(truth, detections.image_indices, detections.category_indices)
    truth_groups = _groups(truth, truth.image_indices, truth.category_indices)
    truth_order = np.lexsort((ignore, truth_groups))
    sorted_groups = truth_groups[truth_order]
    starts, ends = (np.searchsorted(sorted_groups, groups, side) for side in ("left", "right"))
    counts = ends - starts
    cuts = np.flatnonzero(np.diff(np.cumsum(counts) // _CHUNK, prepend=0))
    parts: list[tuple[IntArray, IntArray, FloatArray]] = []
    for chunk in np.split(np.arange(len(groups)), cuts):
        detection = np.repeat(chunk, counts[chunk])
        within = np.arange(len(detection)) - np.repeat(np.cumsum(counts[chunk]) - counts[chunk], counts[chunk])
        box = truth_order[starts[detection] + within]
        ious = box_ious(detections.boxes_xywh_abs[detection], truth.boxes_xywh_abs[box], truth.is_crowd[box])
        near = ious >= min_iou
        parts.append((detection[near], box[near], ious[near]))
    detection, box, ious = (np.concatenate(column) for column in zip(*parts, strict=True))
    return detection, box, ious


def _groups(truth: GroundTruth, images: IntArray, categories: IntArray) -> IntArray:
    return categories * len(truth.image_ids) + images


def _best(truth: GroundTruth, detections: FoundBoxes, max_dets: int) -> tuple[IntArray, IntArray]:
    """The detections kept, by class, image and falling score, and their ranks within image and class."""
    groups = _groups(truth, detections.image_indices, detections.category_indices)
    order = np.lexsort((-detections.scores, groups))
    groups = groups[order]
    ranks = np.arange(len(order)) - np.searchsorted(groups, groups)
    keep = ranks < max_dets
    return order[keep], ranks[keep]


def _assign(
    pair_detections: IntArray,
    pair_truths: IntArray,
    ious: FloatArray,
    ranks: IntArray,
    is_crowd: BoolArray,
    ignore: BoolArray,
    iou_thresholds: FloatArray,
) -> IntArray:
    """The box that each detection takes at each threshold, (T, D), -1 for none.

    Detections of one rank are of different groups and compete for no box, so they are assigned together.
    """
    found = np.full((len(iou_thresholds), len(ranks)), -1, np.int64)
    is_taken = np.zeros((len(iou_thresholds), len(is_crowd)), np.bool_)
    thresholds = np.minimum(iou_thresholds, 1 - 1e-10)[:, None]
    pair_ranks = ranks[pair_detections]
    by_rank = np.argsort(pair_ranks, kind="stable")
    for pairs in np.split(by_rank, np.flatnonzero(np.diff(pair_ranks[by_rank])) + 1):
        if not len(pairs):
            continue
        boxes, overlaps = pair_truths[pairs], ious[pairs]
        firsts = np.flatnonzero(np.diff(pair_detections[pairs], prepend=-1))
        is_free = (overlaps >= thresholds) & ~is_taken[:, boxes]
        best = _last_largest(np.where(is_free & ~ignore[boxes], overlaps, -1.0), firsts)
        # Only who finds no box that counts may find an ignored one.
        other = _last_largest(np.where(is_free & ignore[boxes], overlaps, -1.0), firsts)
        chosen = np.where(best >= 0, best, other)
        levels, columns = np.nonzero(chosen >= 0)
        taken = boxes[chosen[levels, columns]]
        found[levels, pair_detections[pairs][firsts][columns]] = taken
        is_single = ~is_crowd[taken]
        is_taken[levels[is_single], taken[is_single]] = True
    return found


def _last_largest(values: FloatArray, firsts: IntArray) -> IntArray:
    """Of each segment of (T, P) values the position of its largest, the last of equal ones; -1 where that is -1."""
    lengths = np.diff(firsts, append=values.shape[1])
    largest = np.repeat(np.maximum.reduceat(values, firsts, axis=1), lengths, axis=1)
    positions = np.where((values == largest) & (values >= 0), np.arange(values.shape[1]), -1)
    return np.maximum.reduceat(positions, firsts, axis=1)
