"""Boxes that leave their image: one rule for training and evaluation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparse_rcnn.data.annotations import CocoAnnotations
from sparse_rcnn.data.box_formats import percent_note, wrong_format
from sparse_rcnn.data.findings import ERROR, LEFT_OUT, NOTE

OUTSIDE = "boxes outside"  # the kind of the finding, whose items are the ids of the annotations


def without_boxes_outside(coco: CocoAnnotations) -> CocoAnnotations:
    """Annotations without the boxes that lie wholly outside of their image; images of unknown size keep all.

    Boxes that most likely have another format or unit are noted as a fault.
    """
    sizes = coco.image_sizes_hw[coco.image_indices]
    boxes = coco.boxes_xywh_abs
    wrong = wrong_format(boxes, sizes)
    if wrong is not None:
        suspects = coco.annotation_ids[wrong.suspects].tolist()
        i = int(np.argmax(wrong.suspects))
        first = f"annotation id {suspects[0]}, {boxes[i].tolist()} in an image of {_size_text(sizes[i])}"
        coco.findings.say(ERROR, "box format", f"{wrong.message} (the first: {first})", suspects)
    if (note := percent_note(boxes, sizes)) is not None:
        coco.findings.say(NOTE, "box format", note)
    low = np.maximum(boxes[:, :2], 0)
    with np.errstate(over="ignore"):
        high = np.minimum(boxes[:, :2] + boxes[:, 2:], sizes[:, ::-1])
    outside = np.asarray((high - low <= 1e-5).any(axis=1)) & (sizes > 0).all(axis=1)
    if outside.any():
        coco.findings.add(
            LEFT_OUT,
            OUTSIDE,
            "box",
            "wholly outside of the image left out of training and evaluation",
            coco.annotation_ids[outside].tolist(),
            "annotation ids",
        )
    return coco.with_boxes(~outside)


def _size_text(size_hw: NDArray[np.int64]) -> str:
    return f"{size_hw[0]} x {size_hw[1]} pixels (height x width)"
