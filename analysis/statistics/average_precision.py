"""COCO's average precision of matches with images weighted: all once, a part of them, or a bootstrap resample."""

from __future__ import annotations

import numpy as np

from analysis.statistics.coco_columns import FloatArray, IntArray
from analysis.statistics.matching import MatchedDetections

RECALLS = np.linspace(0.0, 1.0, 101)


class AveragePrecision:
    """AP of one run's matches for any weights of images.

    An image of weight 2 counts as the image and a copy of it, one of weight 0 is left out: the numbers are what
    pycocotools gives for such a set of images, but for the order among an image's detections of equal score. Only true
    positives can change the interpolated precision, so only their positions are kept: a resample costs a few passes
    over those and one over the detections.
    """

    def __init__(self, matches: MatchedDetections) -> None:
        num_thresholds, num_detections = matches.is_true.shape
        num_classes = matches.num_categories
        self.num_images = matches.num_images
        self._images = matches.image_indices
        self._truth_images, self._truth_categories = matches.truth_images, matches.truth_categories
        self._shape = (num_thresholds, num_classes)
        class_starts = np.searchsorted(matches.category_indices, np.arange(num_classes + 1))
        levels, self._positions = np.nonzero(matches.is_true)
        categories = matches.category_indices[self._positions]
        segments = levels * num_classes + categories
        # Where each segment (threshold, class) begins, one more for the end.
        starts = np.searchsorted(segments, np.arange(num_thresholds * num_classes + 1))
        self._segments, self._before = segments, starts[segments]
        self._class_starts = class_starts[categories]
        ignored_levels, self._ignored_positions = np.nonzero(matches.is_ignored)
        keys = ignored_levels * num_detections + self._ignored_positions
        self._ignored_until = np.searchsorted(keys, levels * num_detections + self._positions)
        self._ignored_from = np.searchsorted(keys, levels * num_detections + self._class_starts)
        # After the true positives of each segment stands one entry that is never reached.
        self._entries = np.arange(len(segments)) + segments
        self._ends = starts[1:] + np.arange(len(starts) - 1)

    def per_class(self, weights: IntArray | None = None) -> FloatArray:
        """AP of each threshold and class, (T, K); NaN where a class has no box in the images chosen.

        Args:
            weights: (N,) how often each image counts; None for once each.
        """
        if weights is None:
            weights = np.ones(self.num_images, np.int64)
        num_boxes = np.bincount(self._truth_categories, weights[self._truth_images], minlength=self._shape[1])
        num_boxes = num_boxes.astype(np.int64)
        own = weights[self._images]
        num_true = _sums(own[self._positions])
        num_true_own = num_true[1:] - num_true[self._before]
        num_all = _sums(own)
        num_ignored = _sums(own[self._ignored_positions])
        counted = num_all[self._positions + 1] - num_all[self._class_starts]
        counted -= num_ignored[self._ignored_until] - num_ignored[self._ignored_from]
        length = len(self._entries) + len(self._ends)
        precision = np.zeros(length)
        precision[self._entries] = num_true_own / (counted + np.spacing(1))
        # One sorted list of (segment, true positives so far), so that one search answers for all.
        base = int(num_boxes.max(initial=0)) + 2
        reached = np.empty(length, np.int64)
        reached[self._entries] = self._segments * base + num_true_own
        reached[self._ends] = np.arange(len(self._ends)) * base + base - 1
        needed = _needed(num_boxes)
        wanted = np.arange(len(self._ends)).reshape(*self._shape, 1) * base + needed
        firsts = np.searchsorted(reached, wanted.ravel())
        largest = np.maximum.reduceat(precision, firsts).reshape(*self._shape, len(RECALLS))
        interpolated = np.maximum.accumulate(largest[..., ::-1], axis=-1)
        ap = interpolated.mean(axis=-1)
        ap[:, num_boxes == 0] = np.nan
        return ap

    def __call__(self, weights: IntArray | None = None) -> FloatArray:
        """AP of each threshold, (T,), averaged over the classes that have boxes; NaN where none has."""
        ap = self.per_class(weights)
        present = ~np.isnan(ap[0])
        return ap[:, present].mean(axis=1) if present.any() else np.full(len(ap), np.nan)


def _sums(values: IntArray) -> IntArray:
    """Sums of the first 0, 1, ... values."""
    return np.concatenate(([0], np.cumsum(values)))


def _needed(num_boxes: IntArray) -> IntArray:
    """The fewest true positives with which recall, as a float, is at least each of ``RECALLS``; (K, 101)."""
    totals = np.maximum(num_boxes, 1)[:, None]
    guess = np.ceil(RECALLS * totals).astype(np.int64)
    lower = np.maximum(guess - 1, 0)
    return np.where(lower / totals >= RECALLS, lower, np.where(guess / totals >= RECALLS, guess, guess + 1))
