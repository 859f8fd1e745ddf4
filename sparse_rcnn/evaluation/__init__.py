"""COCO evaluation of boxes: ground truth loaded once, two backends, the twelve numbers and per-class AP."""

from sparse_rcnn.evaluation.detections import detections_to_coco
from sparse_rcnn.evaluation.evaluator import BACKENDS, CocoEvaluator, evaluate_detections
from sparse_rcnn.evaluation.ground_truth import CocoGroundTruth
from sparse_rcnn.evaluation.metrics import COCO_MAX_DETS, CocoMetrics

__all__ = [
    "BACKENDS",
    "COCO_MAX_DETS",
    "CocoEvaluator",
    "CocoGroundTruth",
    "CocoMetrics",
    "detections_to_coco",
    "evaluate_detections",
]
