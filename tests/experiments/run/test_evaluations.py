"""Evaluation of every stage from tables of detections."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.run.evaluation_record import MAX_DETS_300, evaluate_stages, largest_group
from sparse_rcnn.detection_table import DetectionTable
from sparse_rcnn.evaluation import CocoEvaluator, CocoGroundTruth, evaluate_detections
from tests.support.coco_numbers import cats_and_dogs, random_table


@pytest.mark.parametrize("num_detections", [90, 1500])  # below and above 100 of one class in one image
@pytest.mark.parametrize("backend", ["pycocotools", "hotcoco"])
def test_the_numbers_at_300_are_those_of_an_evaluation_at_300(backend: str, num_detections: int) -> None:
    ground_truth = cats_and_dogs(2, boxes_per_image=20)
    table = random_table(ground_truth, num_detections)
    assert (largest_group(table) > 100) == (num_detections > 1000)
    evaluation = evaluate_stages([table], CocoEvaluator(CocoGroundTruth(ground_truth), backend), True)
    expected = evaluate_detections(ground_truth, table.to_coco(), "pycocotools", (1, 10, MAX_DETS_300))
    assert list(evaluation.wider[300].summary) == list(expected.summary)
    assert evaluation.wider[300].summary == pytest.approx(expected.summary, abs=1e-12)
    assert evaluation.wider[300].max_dets == (1, 10, 300)
    assert evaluation.backend == "pycocotools"


def test_any_other_limits_are_evaluated_beside_100_and_300() -> None:
    ground_truth = cats_and_dogs(2, boxes_per_image=20)
    table = random_table(ground_truth, 1500)
    evaluator = CocoEvaluator(CocoGroundTruth(ground_truth), "pycocotools")
    evaluation = evaluate_stages([table], evaluator, True, max_dets=[1, 10, 50, 1000])
    assert list(evaluation.wider) == [50, 300, 1000]
    for number in (50, 1000):
        expected = evaluate_detections(ground_truth, table.to_coco(), "pycocotools", (1, 10, number)).summary
        assert evaluation.wider[number].summary == pytest.approx(expected, abs=1e-12)
        assert evaluation.flat()[f"val/bbox_maxdets{number}/AR{number}"] == expected[f"AR{number}"]


def test_the_largest_group_is_counted_per_image_and_class() -> None:
    def count(images: list[int], categories: list[int]) -> int:
        ids = (np.array(images, dtype=np.int64), np.array(categories, dtype=np.int64))
        return largest_group(DetectionTable(*ids, np.zeros((len(images), 4)), np.zeros(len(images))))

    assert count([], []) == 0
    assert count([4], [1]) == 1
    assert count([1, 2, 1, 2, 1], [7, 7, 8, 7, 7]) == 2
    assert count([1, 2, 3, 3, 3], [7, 7, 7, 7, 7]) == 3
