"""COCO evaluation by two libraries, part by part."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch

from experiments.benchmark.forward import with_total
from experiments.benchmark.measure import interleaved
from experiments.benchmark.meters import Clock
from experiments.benchmark.replacing import replaced
from experiments.benchmark.report import Row
from sparse_rcnn.detection_table import DetectionTable
from sparse_rcnn.evaluation import CocoEvaluator, CocoGroundTruth
from sparse_rcnn.evaluation.evaluator import BACKENDS

MATCHING, REST = "matching", "columns and summary"


def evaluation_rows(num_repeats: int, num_images: int = 500) -> list[Row]:
    """Images with 100 detections each: pycocotools against hotcoco."""
    truth, table = _truth_and_detections(num_images)
    sides = {f"eval.backend={name}": partial(_pass, CocoEvaluator(truth, name), table) for name in BACKENDS}
    measured = interleaved(sides, num_repeats)
    return [
        Row("evaluation", side, part, seconds) for side, parts in measured.items() for part, seconds in parts.items()
    ]


def _pass(evaluator: CocoEvaluator, table: DetectionTable) -> dict[str, float]:
    """Seconds of the library's matching and accumulation, and of all around it."""
    clock = Clock(torch.device("cpu"))
    accumulate = evaluator._backend.accumulate

    def timed(*arguments: Any) -> Any:
        clock.switch(MATCHING)
        try:
            return accumulate(*arguments)
        finally:
            clock.switch(REST)

    with replaced(evaluator._backend, "accumulate", timed):
        clock.switch(REST)
        evaluator.evaluate(table)
        clock.switch(None)
    return with_total(clock.seconds)


def _truth_and_detections(num_images: int) -> tuple[CocoGroundTruth, DetectionTable]:
    rng = np.random.default_rng(0)
    num_detections, num_classes = 100, 20
    categories = [{"id": i + 1, "name": f"class_{i}"} for i in range(num_classes)]
    annotations = [
        {"id": k + 1, "image_id": k % num_images, "category_id": int(rng.integers(num_classes)) + 1,
         "bbox": [*rng.uniform(0, 400, 2).tolist(), *rng.uniform(10, 200, 2).tolist()], "iscrowd": 0}
        for k in range(7 * num_images)
    ]  # fmt: skip
    images = [{"id": i, "width": 640, "height": 480, "file_name": f"{i}.jpg"} for i in range(num_images)]
    truth = CocoGroundTruth({"images": images, "annotations": annotations, "categories": categories})
    count = num_images * num_detections
    table = DetectionTable(
        np.repeat(np.arange(num_images), num_detections),
        rng.integers(1, num_classes + 1, count),
        np.concatenate((rng.uniform(0, 400, (count, 2)), rng.uniform(10, 200, (count, 2))), axis=1),
        rng.uniform(size=count),
    )
    return truth, table
