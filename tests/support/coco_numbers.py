"""COCO sets, by hand and drawn by a seed, and pycocotools' own numbers for them."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sparse_rcnn.detection_table import DetectionTable
from tests.support.detectors import small_card

BOX = [10.0, 10.0, 50.0, 50.0]  # of medium area


FAR = [200.0, 200.0, 50.0, 50.0]


def annotation(box: list[float], image_id: int | str = 1, category_id: int = 1, **fields: Any) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": category_id, "bbox": box, "area": box[2] * box[3], **fields}


def detection(box: list[float], score: float = 0.5, image_id: int | str = 1, category_id: int = 1) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}


def coco(
    annotations: list[dict[str, Any]], image_ids: tuple[int | str, ...] = (1,), names: dict[int, str] | None = None
) -> dict[str, Any]:
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 640, "height": 480} for i in image_ids],
        "annotations": [{"id": i, "iscrowd": 0, **a} for i, a in enumerate(annotations)],
        "categories": [{"id": i, "name": name} for i, name in (names or {1: "cat"}).items()],
    }


def random_coco(
    seed: int, num_images: int = 30, num_classes: int = 4, max_boxes: int = 6, ties: bool = True
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Annotations with crowd boxes, a class without boxes and an image without any, and detections with ties in their
    scores; ids are neither contiguous nor sorted.
    """
    rng = np.random.default_rng(seed)
    image_ids = (rng.permutation(num_images) * 7 + 3).tolist()
    categories = [{"id": 2 * k + 1, "name": f"class {k}"} for k in range(num_classes)]
    annotations, detections = [], []
    for rank, image_id in enumerate(image_ids):
        for _ in range(int(rng.integers(0, max_boxes + 1)) if rank else 0):
            box = [*rng.uniform(0, 150, 2), *rng.choice([12.0, 40.0, 120.0], 2) * rng.uniform(0.7, 1.3, 2)]
            category = int(rng.choice(categories[: num_classes - 1])["id"])  # the last class has no box
            record = {"id": len(annotations) + 1, "image_id": image_id, "category_id": category, "bbox": box}
            record |= {"area": box[2] * box[3] * 0.8, "iscrowd": int(rng.random() < 0.15)}
            annotations.append(record)
            for _ in range(int(rng.integers(0, 4))):
                noisy = (np.array(box) + rng.normal(0, 0.07, 4) * [box[2], box[3], box[2], box[3]]).tolist()
                detections.append((image_id, category, noisy))
            if rng.random() < 0.3:
                detections.append((image_id, category, list(box)))
        for _ in range(int(rng.integers(0, 4))):
            category = int(rng.choice(categories)["id"])
            detections.append((image_id, category, [*rng.uniform(0, 150, 2), *rng.uniform(5, 130, 2)]))
    scores = rng.random(len(detections))
    if ties:
        scores = np.round(scores, 1)
    found = [
        {"image_id": i, "category_id": c, "bbox": [float(v) for v in b], "score": float(s)}
        for (i, c, b), s in zip(detections, scores, strict=True)
    ]
    for record in annotations:
        record["bbox"] = [float(value) for value in record["bbox"]]
        record["area"] = float(record["area"])
    images = [{"id": i, "width": 400, "height": 400, "file_name": f"{i}.jpg"} for i in image_ids]
    return {"images": images, "annotations": annotations, "categories": categories}, found


def cats_and_dogs(num_images: int, boxes_per_image: int = 3, seed: int = 0) -> dict[str, Any]:
    """Annotations of the categories of `tests.support.detectors.small_card`."""
    rng, categories = np.random.default_rng(seed), small_card().categories
    image_ids = [10 * i + 5 for i in range(num_images)]
    annotations = []
    for image_id in image_ids:
        for _ in range(boxes_per_image):
            x, y, w, h = rng.integers(1, 30, 4).tolist()
            category_id = categories[rng.integers(2)]["id"]
            record = {"image_id": image_id, "category_id": category_id, "bbox": [x, y, w, h], "area": w * h}
            annotations.append({"id": len(annotations) + 1, "iscrowd": 0, **record})
    images = [{"id": i, "file_name": f"{i}.png", "height": 40, "width": 60} for i in image_ids]
    return {"images": images, "annotations": annotations, "categories": categories}


def random_table(ground_truth: dict[str, Any], num_detections: int, seed: int = 0) -> DetectionTable:
    """Random detections, some of them near the boxes, with score ties."""
    rng = np.random.default_rng(seed)
    ids = [image["id"] for image in ground_truth["images"]]
    near = rng.integers(len(ground_truth["annotations"]), size=num_detections)
    boxes = np.array([ground_truth["annotations"][i]["bbox"] for i in near], dtype=np.float64)
    return DetectionTable(
        np.where(
            rng.random(num_detections) < 0.7,
            [ground_truth["annotations"][i]["image_id"] for i in near],
            rng.choice(ids, num_detections),
        ),
        rng.choice([3, 7], num_detections),
        np.abs(boxes + rng.normal(0, 1, boxes.shape)),
        rng.random(num_detections).round(2),
    )


def pycocotools_precision(
    coco: dict[str, Any], detections: list[dict[str, Any]], max_det: int = 100, image_ids: list[int] | None = None
) -> np.ndarray:
    """pycocotools' own precision array at ``max_det``: (10 IoU thresholds, 101 recalls, K classes, 4 areas)."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = json.loads(json.dumps(coco))
        truth.createIndex()
        found = truth.loadRes(json.loads(json.dumps(detections)))
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.params.maxDets = [1, 10, max_det]
        if image_ids is not None:
            evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][..., -1]


def mean_of(precision: np.ndarray) -> float:
    """The mean as pycocotools' summary takes it."""
    return float(precision[precision > -1].mean())
