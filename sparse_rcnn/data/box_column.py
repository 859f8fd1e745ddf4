"""The boxes of annotation records, in every spelling that means one thing."""

from __future__ import annotations

import json
import math
import re
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_rcnn.data.findings import REPAIRED
from sparse_rcnn.data.records import Records

_BRACKETS = str.maketrans("[](){},", 7 * " ")
EXPECTED = "four numbers (x, y, width, height) are expected"


def read_boxes(annotations: Records) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """The boxes (A, 4) as x, y, width, height in pixels, which (A,) are absent, and which are malformed.

    Absent and malformed boxes are NaN; others may be NaN or infinite as well.

    A box may be a list, a text of numbers, or an object of x, y, width and height; where there is none, the polygons or
    the mask of the segmentation have one. Boxes of another form are noted as faults.
    """
    values = annotations.values("bbox")
    plain = (
        set(map(type, values)) <= {list}
        and set(map(len, values)) <= {4}
        and set(map(type, chain.from_iterable(values))) <= {int, float}
    )
    if plain:
        try:
            boxes = np.fromiter(chain.from_iterable(values), np.float64, 4 * len(values)).reshape(-1, 4)
            return boxes, np.zeros(len(values), np.bool_), np.zeros(len(values), np.bool_)
        except OverflowError:
            pass
    boxes = np.full((len(values), 4), np.nan)
    absent, malformed = np.zeros(len(values), np.bool_), np.zeros(len(values), np.bool_)
    from_shapes, from_text = [], []
    for i, value in enumerate(values):
        if value is None or value in ([], {}, ""):
            box = box_of_segmentation(annotations.records[i].get("segmentation"))
            if box is None:
                absent[i] = True
                continue
            from_shapes.append(i)
        else:
            box = numbers_of(value)
            if box is None:
                malformed[i] = True
                continue
            if isinstance(value, str):
                from_text.append(i)
        boxes[i] = box
    annotations.refuse(malformed, "boxes malformed", lambda i: f"has bbox {values[i]!r:.100}, {EXPECTED}")
    for group, kind, words in (
        (from_shapes, "boxes from shapes", "taken from the segmentation"),
        (from_text, "boxes as text", "written as text"),
    ):
        if group:
            labels = [annotations.label(i) for i in group]
            annotations.findings.add(REPAIRED, kind, "box", words, labels, "annotation ids")
    return boxes, absent, malformed


def numbers_of(value: Any) -> list[float] | None:
    """Four numbers of a list, a text or an object; None where it is something else."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            # Also the text of numpy's numbers and arrays: [np.float64(1.0), ...], array([1., ...]).
            value = re.sub(r"[A-Za-z_][\w.]*\(", " ", value).translate(_BRACKETS).split()
    if isinstance(value, dict):
        value = [value.get(key, value.get(key[0])) for key in ("x", "y", "width", "height")]
    if not isinstance(value, list) or len(value) != 4:
        return None
    numbers = [math.nan if item is None else number_of(item) for item in value]
    return [number for number in numbers if number is not None] if None not in numbers else None


def number_of(value: Any) -> float | None:
    """A number, also as text; infinite where it is beyond floats, None where it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except ValueError:
        return None


def box_of_segmentation(segmentation: Any) -> list[float] | None:
    """The box around polygons or around a mask in COCO's run-length encoding; None where there is neither."""
    if isinstance(segmentation, dict) and {"counts", "size"} <= segmentation.keys():
        return _box_of_mask(segmentation)
    if not isinstance(segmentation, list) or not segmentation:
        return None
    polygons = segmentation if isinstance(segmentation[0], list) else [segmentation]
    try:
        points = np.concatenate([np.array(polygon, np.float64).reshape(-1, 2) for polygon in polygons])
    except (ValueError, TypeError):
        return None
    if not len(points) or not np.isfinite(points).all():
        return None
    low, high = points.min(axis=0), points.max(axis=0)
    return [float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1])]


def _box_of_mask(mask: dict[str, Any]) -> list[float] | None:
    from pycocotools import mask as masks

    try:
        height, width = mask["size"]
        encoded = masks.frPyObjects(mask, height, width) if isinstance(mask["counts"], list) else mask
        box = masks.toBbox(encoded).tolist()
    except Exception:  # whatever the C code says of a broken mask
        return None
    return box if box[2] > 0 and box[3] > 0 else None
