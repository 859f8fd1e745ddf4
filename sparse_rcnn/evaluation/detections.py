"""Detections on their way to an evaluation: tensors to COCO results, COCO results to columns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sparse_rcnn.detection_table import DetectionTable
from sparse_rcnn.errors import DataError
from sparse_rcnn.evaluation.ground_truth import BoxColumns, CocoGroundTruth
from sparse_rcnn.structures import Detections


def detections_to_coco(image_id: int, detections: Detections, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """One image's detections as COCO results, in their order.

    ``detections`` in pixels of the original image; ``category_ids[label]`` is the COCO id of a label. Boxes
    become x, y, width, height; coordinates and scores are plain floats and are not rounded.

    Raises: DataError for a label without a category id.
    """
    labels = detections.labels.tolist()
    for label in labels:
        if not 0 <= label < len(category_ids):
            raise DataError(
                f"image {image_id}: label {label} has no category among the {len(category_ids)} of the data "
                f"set: use a model of num_classes={len(category_ids)}"
            )
    # In float64, so that x + width is the very right edge that the detector gave.
    boxes = detections.boxes_xyxy_abs.detach().to("cpu", torch.float64)
    boxes_xywh_abs = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1)
    return [
        {"image_id": int(image_id), "category_id": int(category_ids[label]), "bbox": box, "score": score}
        for label, box, score in zip(labels, boxes_xywh_abs.tolist(), detections.scores.tolist(), strict=True)
    ]


@dataclass(frozen=True)
class DetectionColumns(BoxColumns):
    """Detections of the images of a ground truth in columns, with ``scores`` (N,) float64."""

    scores: npt.NDArray[np.float64]

    @classmethod
    def from_coco(cls, detections: Sequence[Mapping[str, Any]], ground_truth: CocoGroundTruth) -> DetectionColumns:
        """Check COCO results against the ground truth and put them in columns, in their order.

        Detections of images that the file has and the evaluation leaves out are left out too.

        Raises: DataError that names the detection's position and the unknown image or category id, the box
        or the score that cannot be used.
        """
        number = len(detections)
        try:
            image_indices, are_images = ground_truth.image_indices_of([d["image_id"] for d in detections])
            category_indices, are_categories = ground_truth.category_indices_of([d["category_id"] for d in detections])
            columns = cls(
                image_indices,
                category_indices,
                np.array([d["bbox"] for d in detections], dtype=np.float64).reshape(number, 4),
                np.array([d["score"] for d in detections], dtype=np.float64).reshape(number),
            )
        except (KeyError, TypeError, ValueError):
            raise DataError(_first_fault(detections, ground_truth)) from None
        if not (are_images.all() and are_categories.all() and columns._is_usable()):
            raise DataError(_first_fault(detections, ground_truth))
        return columns._evaluated()

    @classmethod
    def from_table(cls, table: DetectionTable, ground_truth: CocoGroundTruth) -> DetectionColumns:
        """What ``from_coco`` makes of ``table.to_coco()``, without a dictionary for each detection."""
        image_indices, is_evaluated = _positions(table.image_ids, ground_truth.image_ids)
        category_indices, is_known = _positions(table.category_ids, ground_truth.category_ids)
        columns = cls(np.where(is_evaluated, image_indices, -1), category_indices, table.boxes_xywh_abs, table.scores)
        left_out = np.unique(table.image_ids[~is_evaluated]).tolist()
        if not (is_known.all() and ground_truth.known_image_ids.issuperset(left_out) and columns._is_usable()):
            raise DataError(_first_fault(table.to_coco(), ground_truth))
        return columns._evaluated()

    def _is_usable(self) -> bool:
        return bool(
            np.isfinite(self.boxes_xywh_abs).all()
            and (self.boxes_xywh_abs[:, 2:] >= 0).all()
            and np.isfinite(self.scores).all()
        )

    def _evaluated(self) -> DetectionColumns:
        """The detections of the images that are evaluated."""
        kept = self.image_indices >= 0
        return DetectionColumns(
            self.image_indices[kept],
            self.category_indices[kept],
            self.boxes_xywh_abs[kept],
            self.scores[kept],
        )


def _positions(
    ids: npt.NDArray[np.int64], sorted_ids: Sequence[int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Where each of ``ids`` (N,) stands among ``sorted_ids``, and whether it is there at all."""
    known = np.asarray(sorted_ids, dtype=np.int64)
    if not len(known):
        return np.zeros(len(ids), np.int64), np.zeros(len(ids), np.bool_)
    positions = np.searchsorted(known, ids).clip(max=len(known) - 1)
    return positions, known[positions] == ids


def _first_fault(detections: Sequence[Mapping[str, Any]], ground_truth: CocoGroundTruth) -> str:
    """Say what is wrong with the first bad detection; the columns above only know that there is one."""
    for position, detection in enumerate(detections):
        if not isinstance(detection, Mapping):
            return f"detection {position} is a {type(detection).__name__}, not an object: give COCO results"
        missing = [key for key in ("image_id", "category_id", "bbox", "score") if key not in detection]
        if missing:
            return f"detection {position} has no '{missing[0]}': give COCO results"
        image_id, category_id = detection["image_id"], detection["category_id"]
        name = f"detection {position} (image {image_id!r})"
        if not ground_truth.image_indices_of([image_id])[1].all():
            return f"{name}: image id {image_id!r} is not in {ground_truth.source}: evaluate on its own data"
        if not ground_truth.category_indices_of([category_id])[1].all():
            return (
                f"{name}: category id {category_id!r} is not in {ground_truth.source}: "
                "evaluate on the data set whose categories the detections use"
            )
        if not is_box_xywh(detection["bbox"]):
            return f"{name}: bbox {detection['bbox']!r}: give four finite numbers x, y, width and height (not negative)"
        if not is_finite_number(detection["score"]):
            return f"{name}: score {detection['score']!r}: give a finite number"
    raise AssertionError("every detection is in order")


def is_box_xywh(box: Any) -> bool:
    """Whether ``box`` is four finite numbers x, y, width, height, the last two not negative."""
    if not isinstance(box, Sequence | np.ndarray) or len(box) != 4:
        return False
    return all(is_finite_number(value) for value in box) and box[2] >= 0 and box[3] >= 0


def is_finite_number(value: Any) -> bool:
    """Whether ``value`` is a number, neither NaN nor infinite."""
    return isinstance(value, int | float | np.integer | np.floating) and math.isfinite(value)
