"""Evaluations as the run directory holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sparse_rcnn.detection_table import DetectionTable
from sparse_rcnn.evaluation import COCO_MAX_DETS, CocoEvaluator, CocoMetrics
from sparse_rcnn.rundir import metric_keys

MAX_DETS_300 = (1, 10, 300)
_AT_300 = {"AR100": "AR300"}


@dataclass(frozen=True)
class Evaluation:
    """COCO metrics of a detector on a data set.

    ``last`` and ``max_dets_300`` are the detector's, which are its last stage's; ``stages`` those of every
    stage, or none where only the detector was evaluated. ``tables`` holds the detections evaluated, the
    detector's last.
    """

    last: CocoMetrics
    max_dets_300: CocoMetrics
    stages: list[CocoMetrics]
    backend: str
    tables: list[DetectionTable]

    def flat(self, split: str = "val") -> dict[str, float]:
        """All numbers under keys: ``val/bbox/AP``, ``val/bbox_maxdets300/AP``, ``val/stage_0/AP`` ..."""
        flat = {
            **self.last.flat(f"{split}/{metric_keys.BBOX}"),
            **self.max_dets_300.flat(f"{split}/{metric_keys.BBOX_MAXDETS_300}"),
        }
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
    tables: Sequence[DetectionTable], evaluator: CocoEvaluator, reference: bool, all_stages: bool = True
) -> Evaluation:
    """Evaluate every stage's detections, or only the detector's.

    Args:
        tables: of the stages, or of the last one alone.
        evaluator: of the ground truth, with the backend for evaluations during training.
        reference: take the numbers of the last stage from pycocotools, whatever the backend.
        all_stages: whether ``tables`` are those of all stages.
    """
    *earlier, table = tables
    if reference and evaluator.backend != "pycocotools":
        detector_evaluator = CocoEvaluator(evaluator.ground_truth, "pycocotools")
    else:
        detector_evaluator = evaluator
    last = detector_evaluator.evaluate(table)
    # maxDets counts per image and class. Where nothing is cut off at 100, nothing changes at 300.
    if largest_group(table) <= COCO_MAX_DETS[-1]:
        summary = {_AT_300.get(name, name): value for name, value in last.summary.items()}
        max_dets_300 = replace(last, summary=summary, max_dets=MAX_DETS_300)
    else:
        max_dets_300 = evaluator.evaluate(table, MAX_DETS_300)
    stages = [*map(evaluator.evaluate, earlier), last] if all_stages else []
    return Evaluation(last, max_dets_300, stages, detector_evaluator.backend, list(tables))


def largest_group(table: DetectionTable) -> int:
    """The largest number of detections of one class in one image."""
    order = np.lexsort((table.category_ids, table.image_ids))
    images, categories = table.image_ids[order], table.category_ids[order]
    is_first = np.ones(len(order) + 1, dtype=bool)
    is_first[1:-1] = (images[1:] != images[:-1]) | (categories[1:] != categories[:-1])
    return int(np.diff(np.flatnonzero(is_first)).max(initial=0))
