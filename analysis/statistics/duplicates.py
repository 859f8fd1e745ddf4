"""Duplicates: detections of a box that a better-scored detection has already found, per stage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.statistics.coco_columns import FoundBoxes, GroundTruth
from analysis.statistics.matching import match, near_pairs

IOU = 0.5


@dataclass(frozen=True)
class DuplicateCounts:
    """Of ``num_detections``, by kind: found a box, again a box already found, an ignored one (crowd), or none at all.

    They add up.
    """

    num_detections: int
    num_true: int
    num_duplicates: int
    num_ignored: int

    @property
    def num_others(self) -> int:
        """Detections of nothing: the wrong class, a poor box, background."""
        return self.num_detections - self.num_true - self.num_duplicates - self.num_ignored

    @property
    def share(self) -> float | None:
        """Duplicates among all these detections; None without any."""
        return self.num_duplicates / self.num_detections if self.num_detections else None

    @property
    def per_box_found(self) -> float | None:
        """Duplicates for each detection that finds a box; None without any."""
        return self.num_duplicates / self.num_true if self.num_true else None


def count_duplicates(
    truth: GroundTruth, detections: FoundBoxes, min_score: float, images: npt.NDArray[np.bool_] | None = None
) -> DuplicateCounts:
    """Count what the detections with a score of at least ``min_score`` are.

    Best score first, each takes the free box of its class with the largest IoU of at least 0.5, as COCO's matching. A
    duplicate takes none and overlaps one, with an IoU of at least 0.5, that a better-scored detection has taken.

    Args:
        images: (N,) which images to count in; None for all.
    """
    chosen = detections.scores >= min_score
    if images is not None:
        chosen &= images[detections.image_indices]
    return _count(truth, detections.chosen(chosen))


def count_duplicates_of_best(
    truth: GroundTruth, detections: FoundBoxes, images: npt.NDArray[np.bool_] | None = None
) -> DuplicateCounts:
    """Count what the N best-scored detections are, N the number of boxes without crowd boxes; all if there are fewer.

    A stage that scores everything low and one that scores everything high are compared at the same number of
    detections, which no threshold gives. Of equal scores the earlier detection is the better one.

    Args:
        images: which images to take boxes and detections of, (number of images,); None for all.
    """
    is_counted = ~truth.is_crowd
    rows = np.arange(len(detections))
    if images is not None:
        is_counted &= images[truth.image_indices]
        rows = np.flatnonzero(images[detections.image_indices])
    best = rows[np.argsort(-detections.scores[rows], kind="stable")][: is_counted.sum()]
    return _count(truth, detections.chosen(best))


def removed_percent(first: DuplicateCounts, last: DuplicateCounts) -> float | None:
    """Of the duplicates per box found in ``first`` the percentage that ``last`` is without; negative if it has more.

    None where ``first`` has no duplicate or one of the two finds no box.
    """
    before, after = first.per_box_found, last.per_box_found
    return 100 * (1 - after / before) if before and after is not None else None


def _count(truth: GroundTruth, own: FoundBoxes) -> DuplicateCounts:
    matches = match(truth, own, np.array([IOU]), max_dets=len(own) + 1)
    is_true, is_ignored = (np.zeros(len(own), np.bool_) for _ in range(2))
    is_true[matches.rows], is_ignored[matches.rows] = matches.is_true[0], matches.is_ignored[0]
    rows, _, _ = near_pairs(truth, own, IOU, truth.is_crowd)
    # A box near enough that was free would have been taken, and a crowd is always free: what is near a box and took
    # none comes too late for it.
    overlaps = np.zeros(len(own), np.bool_)
    overlaps[rows] = True
    is_duplicate = overlaps & ~is_true & ~is_ignored
    return DuplicateCounts(len(own), int(is_true.sum()), int(is_duplicate.sum()), int(is_ignored.sum()))
