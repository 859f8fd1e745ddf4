"""Duplicates counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.statistics.duplicates import DuplicateCounts, count_duplicates, count_duplicates_of_best
from tests.support.hand_boxes import IMAGES, box, by_hand, detections
from tests.support.truths import truth_of


def test_duplicates_by_hand() -> None:
    truth, found = by_hand()
    assert count_duplicates(truth, found, 0.3) == DuplicateCounts(9, 4, 2, 1)
    assert count_duplicates(truth, found, 0.3).num_others == 2
    assert count_duplicates(truth, found, 0.3).share == pytest.approx(2 / 9)
    assert count_duplicates(truth, found, 0.0) == DuplicateCounts(10, 4, 3, 1)
    assert count_duplicates(truth, found, 0.75) == DuplicateCounts(2, 1, 1, 0)
    assert count_duplicates(truth, found, 0.3, np.array([False, True])) == DuplicateCounts(1, 1, 0, 0)
    assert count_duplicates(truth, found, 0.95) == DuplicateCounts(0, 0, 0, 0)
    assert count_duplicates(truth, found, 0.95).share is None


def test_a_detection_near_two_boxes_takes_the_free_one() -> None:
    boxes = [box(1, 1, [0, 0, 10, 10]), box(1, 1, [2, 0, 10, 10])]
    truth = truth_of(IMAGES | {"annotations": boxes})
    two = [(1, 1, [0.0, 0, 10, 10], 0.9), (1, 1, [0.5, 0, 10, 10], 0.8)]
    assert count_duplicates(truth, detections(truth, *two), 0.3) == DuplicateCounts(2, 2, 0, 0)
    three = [*two, (1, 1, [1.0, 0, 10, 10], 0.7)]
    assert count_duplicates(truth, detections(truth, *three), 0.3) == DuplicateCounts(3, 2, 1, 0)


def test_what_lies_in_a_crowd_is_no_duplicate() -> None:
    boxes = [box(1, 1, [0, 0, 10, 10]), box(1, 1, [0, 0, 40, 40], crowd=1)]
    truth = truth_of(IMAGES | {"annotations": boxes})
    two = [(1, 1, [0.0, 0, 10, 10], 0.9), (1, 1, [0.0, 0, 10, 9], 0.8)]
    assert count_duplicates(truth, detections(truth, *two), 0.3) == DuplicateCounts(2, 1, 0, 1)


def test_the_best_detections() -> None:
    truth, found = by_hand()
    assert count_duplicates_of_best(truth, found.chosen(np.array([0, 1]))) == DuplicateCounts(2, 1, 1, 0), (
        "fewer than boxes"
    )
    assert count_duplicates_of_best(truth, found, np.array([False, True])) == DuplicateCounts(1, 1, 0, 0)
    nothing = np.zeros(2, np.bool_)
    assert count_duplicates_of_best(truth, found, nothing) == DuplicateCounts(0, 0, 0, 0)
    one = truth_of(IMAGES | {"annotations": [box(1, 1, [0, 0, 10, 10])]})
    equal = detections(one, (1, 1, [50, 0, 10, 10], 0.5), (1, 1, [0, 0, 10, 10], 0.5))
    assert count_duplicates_of_best(one, equal) == DuplicateCounts(1, 0, 0, 0), "the earlier of equal scores"
