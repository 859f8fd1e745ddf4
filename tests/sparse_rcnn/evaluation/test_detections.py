"""Detections as COCO's records: made of a detector's, and refused where they are none."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from sparse_rcnn.detection_table import DetectionTable
from sparse_rcnn.errors import DataError
from sparse_rcnn.evaluation import (
    CocoEvaluator,
    CocoGroundTruth,
    detections_to_coco,
    evaluate_detections,
)
from sparse_rcnn.evaluation.detections import DetectionColumns
from sparse_rcnn.structures import Detections
from tests.support.coco_numbers import BOX, FAR, annotation, cats_and_dogs, coco, detection, random_table


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 99}, r"detection 1 \(image 99\): image id 99 is not in the annotations"),
        ({"image_id": [1]}, r"image id \[1\] is not in"),
        ({"category_id": 8}, r"detection 1 \(image 1\): category id 8 is not in"),
        ({"bbox": [1, 2, 3]}, r"bbox \[1, 2, 3\]: give four"),
        ({"bbox": [1, 2, math.nan, 3]}, r"detection 1 \(image 1\): bbox"),
        ({"bbox": [1, 2, -3, 3]}, r"bbox \[1, 2, -3, 3\]"),
        ({"score": math.nan}, r"score nan: give a finite number"),
        ({"score": None}, r"score None"),
    ],
)
def test_bad_detections(change: dict[str, Any], message: str) -> None:
    detections = [detection(BOX), {**detection(BOX), **change}]
    with pytest.raises(DataError, match=message) as error:
        evaluate_detections(coco([annotation(BOX)]), detections, "hotcoco")
    assert "\n" not in str(error.value)


def test_detection_without_score() -> None:
    with pytest.raises(DataError, match="detection 0 has no 'score'"):
        evaluate_detections(coco([]), [{"image_id": 1, "category_id": 1, "bbox": BOX}], "hotcoco")


def test_detections_to_coco() -> None:
    boxes = torch.tensor([[0.1, 0.2, 1000.3, 5.5], [1.0, 2.0, 3.0, 7.0]])
    detections = Detections(boxes, torch.tensor([0.7, 0.25]), torch.tensor([1, 0]))
    first, second = detections_to_coco(2**40, detections, category_ids=[13, 90])
    assert second == {"image_id": 2**40, "category_id": 13, "bbox": [1.0, 2.0, 2.0, 5.0], "score": 0.25}
    assert first["category_id"] == 90
    assert first["score"] == float(torch.tensor(0.7))
    assert first["bbox"][0] + first["bbox"][2] == float(boxes[0, 2])  # nothing rounded
    assert json.loads(json.dumps([first, second])) == [first, second]
    assert {type(value) for value in (*first["bbox"], first["score"])} == {float}


def test_detections_to_coco_of_none() -> None:
    none = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    assert detections_to_coco(1, none, [1]) == []


@pytest.mark.parametrize("label", [2, -1])
def test_label_without_category(label: int) -> None:
    detections = Detections(torch.zeros(1, 4), torch.zeros(1), torch.tensor([label]))
    with pytest.raises(DataError, match=rf"image 6: label {label} has no category among the 2"):
        detections_to_coco(6, detections, [1, 5])


def test_round_trip_from_detections_to_metrics() -> None:
    boxes = torch.tensor([[10.0, 10.0, 60.0, 60.0], [200.0, 200.0, 250.0, 250.0]])
    detections = Detections(boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 1]))
    ground_truth = CocoGroundTruth(
        coco([annotation(BOX, category_id=4), annotation(FAR, category_id=9)], names={4: "a", 9: "b"})
    )
    results = detections_to_coco(1, detections, ground_truth.category_ids)
    assert CocoEvaluator(ground_truth, "hotcoco").evaluate(results).per_class == pytest.approx({"a": 1, "b": 1})


# ---- tables ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["pycocotools", "hotcoco"])
@pytest.mark.parametrize("image_ids", [None, [5, 25, 65]])
def test_a_table_and_its_coco_results_are_evaluated_alike(backend: str, image_ids: list[int] | None) -> None:
    ground_truth = cats_and_dogs(8)
    table = random_table(ground_truth, 400)
    evaluator = CocoEvaluator(CocoGroundTruth(ground_truth, image_ids), backend)
    metrics = evaluator.evaluate(table)
    assert metrics == evaluator.evaluate(table.to_coco())
    assert 0.01 < metrics.summary["AP"] < 0.99

    columns = DetectionColumns.from_table(table, evaluator.ground_truth)
    expected = DetectionColumns.from_coco(table.to_coco(), evaluator.ground_truth)
    for name, values in vars(expected).items():
        np.testing.assert_array_equal(getattr(columns, name), values)
    assert len(columns) < len(table) if image_ids else len(columns) == len(table)


def test_no_detections_are_evaluated_too() -> None:
    ground_truth = cats_and_dogs(2)
    empty = DetectionTable.concatenate([])
    assert CocoEvaluator(CocoGroundTruth(ground_truth), "pycocotools").evaluate(empty).summary["AP"] == 0
    no_categories = CocoGroundTruth({"images": [], "annotations": [], "categories": []})
    assert len(DetectionColumns.from_table(empty, no_categories)) == 0


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("image_ids", 6, r"detection 2 \(image 6\): image id 6 is not in the annotations"),
        ("image_ids", 999, "image id 999 is not in the annotations"),
        ("category_ids", 4, "category id 4 is not in the annotations"),
        ("category_ids", 8, "category id 8 is not in the annotations"),
        ("scores", np.nan, "detection 2 .*: score nan: give a finite number"),
        ("boxes_xywh_abs", -1.0, r"detection 2 .*: bbox \[-1.0, -1.0, -1.0, -1.0\]"),
        ("boxes_xywh_abs", np.inf, "detection 2 .*: bbox"),
    ],
)
def test_what_a_table_cannot_hold_is_named(column: str, value: float, message: str) -> None:
    ground_truth = cats_and_dogs(3)
    table = random_table(ground_truth, 5)
    values = getattr(table, column).copy()
    values[2] = value
    with pytest.raises(DataError, match=message):
        CocoEvaluator(CocoGroundTruth(ground_truth), "hotcoco").evaluate(replace(table, **{column: values}))
