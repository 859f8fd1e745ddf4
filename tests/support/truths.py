"""The ground truth of annotations that a test writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.statistics.coco_columns import GroundTruth
from sparse_rcnn.data.annotations import read_annotations


def truth_of(content: Mapping[str, Any], num_images: int | None = None) -> GroundTruth:
    """The annotations of the first ``num_images`` images by id; None takes all."""
    coco = read_annotations(content, drop_degenerate_boxes=True)
    number = len(coco.image_ids) if num_images is None else num_images
    return GroundTruth.of(coco.with_images(np.arange(len(coco.image_ids)) < number))
