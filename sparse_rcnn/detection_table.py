"""Detections of many images in columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sparse_rcnn.structures import Detections


@dataclass(frozen=True)
class DetectionTable:
    """Detections of many images in columns: a fraction of the memory of as many dictionaries.

    Shapes: ``image_ids``, ``category_ids`` (D,) int64, ids of the data set; ``boxes_xywh_abs`` (D, 4) and
    ``scores`` (D,) float64, in pixels of the original images.
    """

    image_ids: npt.NDArray[np.int64]
    category_ids: npt.NDArray[np.int64]
    boxes_xywh_abs: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def of_image(cls, image_id: int, detections: Detections, category_ids: npt.NDArray[np.int64]) -> DetectionTable:
        """The detections of one image, on the CPU; ``category_ids`` (K,) are those of the labels."""
        boxes = detections.boxes_xyxy_abs.double().numpy()
        return cls(
            np.full(len(detections), image_id, dtype=np.int64),
            category_ids[detections.labels.numpy()],
            np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), axis=1),
            detections.scores.double().numpy(),
        )

    def of_score(self, score_threshold: float) -> DetectionTable:
        """Those of at least a score."""
        kept = self.scores >= score_threshold
        return DetectionTable(*(column[kept] for column in vars(self).values()))

    @classmethod
    def concatenate(cls, tables: Sequence[DetectionTable]) -> DetectionTable:
        if not tables:
            return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0))
        columns = zip(*(vars(t).values() for t in tables), strict=True)
        return cls(*(np.concatenate(c) for c in columns))

    def to_coco(self) -> list[dict[str, Any]]:
        """As COCO results, ready for JSON."""
        rows = zip(
            self.image_ids.tolist(),
            self.category_ids.tolist(),
            self.boxes_xywh_abs.tolist(),
            self.scores.tolist(),
            strict=True,
        )
        return [{"image_id": i, "category_id": c, "bbox": b, "score": s} for i, c, b, s in rows]
