"""Evaluations as the run directory holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sparse_rcnn.detection_table import DetectionTable
from sparse_rcnn.evaluation import COCO_MAX_DETS, CocoEvaluator, CocoMetrics
from sparse_rcnn.rundir import metric_keys

WIDEST_AR = f"AR{COCO_MAX_DETS[-1]}"
MAX_DETS_300 = 300  # always evaluated: detectors of 300 proposals are compared at it


@dataclass(frozen=True)
class Evaluation:
    """COCO metrics of a detector on a data set.

    ``last`` and ``wider`` are the detector's, which are its last stage's; ``wider`` at other numbers of detections of a
    class in an image than COCO's 100, by that number, 300 among them. ``stages`` are those of every stage, or none
    where only the detector was evaluated. ``tables`` holds the detections evaluated, the detector's last.
    """

    last: CocoMetrics
    wider: dict[int, CocoMetrics]
    stages: list[CocoMetrics]
    backend: str
    tables: list[DetectionTable]

    def flat(self, split: str = "val") -> dict[str, float]:
        """All numbers under keys: ``val/bbox/AP``, ``val/bbox_maxdets300/AP``, ``val/stage_0/AP`` ..."""
        flat = self.last.flat(f"{split}/{metric_keys.BBOX}")
        for number, metrics in self.wider.items():
            flat.update(metrics.flat(metric_keys.bbox_at(number, split)))
        for s, metrics in enumerate(self.stages):
            flat.update(metrics.flat(metric_keys.stage_group(s, split)))
        return flat

    def to_json(self, split: str = "val", **about: Any) -> dict[str, Any]:
        """The content of ``eval/step_*.json``, see docs/run_directory.md; ``about`` comes first."""
        return {
            **about,
            "split": split,
            "backend": self.backend,
            "metrics": self.flat(split),
            "per_class": {
                name: {"AP": ap, "AP50": self.last.per_class_50[name]} for name, ap in self.last.per_class.items()
            },
            "precision_recall": {
                iou: [round(precision, 4) for precision in curve] for iou, curve in self.last.precision_recall.items()
            },
        }


def evaluate_stages(
    tables: Sequence[DetectionTable],
    evaluator: CocoEvaluator,
    reference: bool,
    all_stages: bool = True,
    max_dets: Sequence[int] = (),
) -> Evaluation:
    """Evaluate every stage's detections, or only the detector's.

    Args:
        tables: of the stages, or of the last one alone.
        evaluator: of the ground truth, with the backend for evaluations during training.
        reference: take the numbers of the last stage from pycocotools, whatever the backend.
        all_stages: whether ``tables`` are those of all stages.
        max_dets: numbers of detections of a class in an image to evaluate at, besides 100 and 300.
    """
    *earlier, table = tables
    if reference and evaluator.backend != "pycocotools":
        detector_evaluator = CocoEvaluator(evaluator.ground_truth, "pycocotools")
    else:
        detector_evaluator = evaluator
    last = detector_evaluator.evaluate(table)
    largest = largest_group(table)
    wider: dict[int, CocoMetrics] = {}
    for number in sorted({*max_dets, MAX_DETS_300} - set(COCO_MAX_DETS)):
        limits = (*COCO_MAX_DETS[:2], number)
        # The limit is for each image and class. Where nothing is cut off at 100, nothing changes above.
        if largest <= COCO_MAX_DETS[-1] < number:
            summary = {f"AR{number}" if name == WIDEST_AR else name: value for name, value in last.summary.items()}
            wider[number] = replace(last, summary=summary, max_dets=limits)
        else:
            wider[number] = evaluator.evaluate(table, limits)
    stages = [*map(evaluator.evaluate, earlier), last] if all_stages else []
    return Evaluation(last, wider, stages, detector_evaluator.backend, list(tables))


def largest_group(table: DetectionTable) -> int:
    """The largest number of detections of one class in one image."""
    order = np.lexsort((table.category_ids, table.image_ids))
    images, categories = table.image_ids[order], table.category_ids[order]
    is_first = np.ones(len(order) + 1, dtype=bool)
    is_first[1:-1] = (images[1:] != images[:-1]) | (categories[1:] != categories[:-1])
    return int(np.diff(np.flatnonzero(is_first)).max(initial=0))
