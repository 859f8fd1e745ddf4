"""Small sets of boxes and detections whose numbers can be counted by hand."""

from __future__ import annotations

from typing import Any

from analysis.statistics.coco_columns import FoundBoxes, GroundTruth, columns_to_detections
from tests.support.truths import truth_of

IMAGES = {"images": [{"id": 1}, {"id": 2}], "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]}


def box(image: int, category: int, xywh: list[float], crowd: int = 0) -> dict[str, Any]:
    """An annotation."""
    return {"id": 9, "image_id": image, "category_id": category, "bbox": xywh, "iscrowd": crowd}


def detections(truth: GroundTruth, *records: tuple[int, int, list[float], float]) -> FoundBoxes:
    """Of tuples of an image id, a category id, a box and a score."""
    columns = zip(*records, strict=True) if records else ([], [], [], [])
    return columns_to_detections(truth, columns, "hand")


def coco_detections(truth: GroundTruth, found: list[dict[str, Any]]) -> FoundBoxes:
    """Of a COCO results list."""
    return detections(truth, *((r["image_id"], r["category_id"], r["bbox"], r["score"]) for r in found))


def by_hand() -> tuple[GroundTruth, FoundBoxes]:
    """Two images of four boxes and a crowd, with detections that find them, duplicates and others."""
    boxes = [
        box(1, 1, [0, 0, 10, 10]),
        box(1, 1, [50, 0, 10, 10]),
        box(1, 2, [0, 50, 10, 10]),
        box(2, 1, [0, 0, 10, 10]),
    ]
    truth = truth_of(IMAGES | {"annotations": [*boxes, box(1, 1, [100, 100, 40, 40], crowd=1)]})
    found = detections(
        truth,
        (1, 1, [0, 0, 10, 9], 0.9),  # finds the first box
        (1, 1, [0, 0, 10, 10], 0.8),  # a better box but a lower score: its duplicate
        (1, 1, [0, 1, 10, 9], 0.7),  # another
        (1, 1, [0, 0, 10, 4], 0.65),  # IoU 0.4: on nothing
        (1, 2, [0, 0, 10, 10], 0.6),  # the wrong class: on nothing
        (1, 1, [50, 0, 10, 10], 0.5),  # finds the second
        (1, 2, [0, 50, 10, 10], 0.4),  # finds the third
        (1, 1, [101, 101, 9, 9], 0.4),  # in the crowd: ignored
        (1, 1, [0, 0, 10, 10], 0.2),  # a duplicate below the score
        (2, 1, [0, 0, 10, 10], 0.3),  # finds the fourth; another image's detections are no matter
    )
    return truth, found


def two_stages() -> tuple[dict[str, Any], list[list[dict[str, Any]]]]:
    """Two images of two boxes, crowded in the first; a first stage that scores low and a last one that scores high."""
    annotations = [box(1, 1, [0, 0, 10, 10]), box(1, 1, [5, 0, 10, 10])]
    annotations += [box(2, 1, [0, 0, 10, 10]), box(2, 1, [50, 0, 10, 10]), box(2, 1, [100, 100, 40, 40], crowd=1)]
    annotations = [
        record | {"id": k, "area": record["bbox"][2] * record["bbox"][3]} for k, record in enumerate(annotations, 1)
    ]
    first = [
        (2, [0, 0, 10, 10], 0.4),  # finds a box
        (2, [0, 0, 10, 9], 0.35),  # its duplicate
        (1, [0, 0, 10, 10], 0.25),  # finds a box
        (1, [0, 0, 10, 9], 0.2),  # its duplicate
        (1, [5, 0, 10, 10], 0.1),  # the other two boxes, too late for the four best
        (2, [50, 0, 10, 10], 0.05),
    ]
    last = [
        (2, [0, 0, 10, 10], 0.95),  # three find a box
        (1, [0, 0, 10, 10], 0.9),
        (1, [5, 0, 10, 10], 0.8),
        (1, [5, 0, 10, 9], 0.7),  # a duplicate
        (2, [50, 0, 10, 10], 0.6),  # the fourth, too late for the four best
        (2, [0, 0, 10, 9], 0.5),  # duplicates
        (2, [50, 0, 10, 9], 0.45),
    ]
    stages = [
        [{"image_id": image, "category_id": 1, "bbox": xywh, "score": score} for image, xywh, score in stage]
        for stage in (first, last)
    ]
    return IMAGES | {"annotations": annotations}, stages
