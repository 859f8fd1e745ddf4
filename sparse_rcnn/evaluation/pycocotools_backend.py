"""Matching and accumulation by pycocotools, the reference."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sparse_rcnn.evaluation.detections import DetectionColumns
from sparse_rcnn.evaluation.ground_truth import BoxColumns, CocoGroundTruth


class PycocotoolsBackend:
    """Ground truth as pycocotools holds it. Silent: what pycocotools prints is swallowed."""

    def __init__(self, ground_truth: CocoGroundTruth) -> None:
        self._images = [{"id": i} for i in range(len(ground_truth.image_ids))]
        self._categories = [{"id": i} for i in range(len(ground_truth.category_ids))]
        self._ground_truth = self._coco(
            ground_truth.annotations,
            area=ground_truth.areas.tolist(),
            iscrowd=ground_truth.is_crowd.astype(int).tolist(),
        )

    def accumulate(
        self, detections: DetectionColumns, max_dets: tuple[int, int, int]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Precision and recall arrays, shaped as in ``metrics.summarise``."""
        boxes = detections.boxes_xywh_abs
        results = self._coco(
            detections,
            area=(boxes[:, 2] * boxes[:, 3]).tolist(),
            iscrowd=[0] * len(detections),
            score=detections.scores.tolist(),
        )
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(self._ground_truth, results, "bbox")
            evaluation.params.maxDets = list(max_dets)
            evaluation.evaluate()
            evaluation.accumulate()
        return evaluation.eval["precision"], evaluation.eval["recall"]

    def _coco(self, columns: BoxColumns, **fields: list[Any]) -> COCO:
        """A COCO object of boxes; unlike ``COCO.loadRes`` it takes none at all and alters no one's dicts."""
        rows = zip(
            # pycocotools reads the id of a match as a truth value, so ids begin with 1.
            range(1, len(columns) + 1),
            columns.image_indices.tolist(),
            columns.category_indices.tolist(),
            columns.boxes_xywh_abs.tolist(),
            *fields.values(),
            strict=True,
        )
        keys = ("id", "image_id", "category_id", "bbox", *fields)
        coco = COCO()
        coco.dataset = {
            "images": self._images,
            "categories": self._categories,
            "annotations": [dict(zip(keys, row, strict=True)) for row in rows],
        }
        with contextlib.redirect_stdout(io.StringIO()):
            coco.createIndex()
        return coco
