"""Boxes in a wrong frame or unit: which format they look like."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 1.5  # pixels past the border: rounding, and tools that count pixels from 1
MIN_NUM_BOXES = 3
MOST, MANY, FEW = 0.5, 0.1, 0.02  # shares of all boxes
MANY_BOXES = 5
SWAPPED = "y, x, height, width (swapped axes)"
# Boxes with swapped axes fit exactly those images that boxes in order fit after their sides are swapped.
CONVERT_SWAPPED = "convert them, or correct the width and height of the images, if these are swapped or pictures turned"


@dataclass(frozen=True)
class WrongFormat:
    """Why boxes cannot be x, y, width, height in pixels of their images.

    Attributes:
        message: in words, without the name of the file.
        suspects: (A,) the boxes that give it away.
    """

    message: str
    suspects: NDArray[np.bool_]


def wrong_format(boxes_xywh_abs: NDArray[np.float64], sizes_hw: NDArray[np.int64]) -> WrongFormat | None:
    """Which other format boxes look like; None for boxes that can be what they should be.

    Args:
        boxes_xywh_abs: (A, 4) finite, as the file has them.
        sizes_hw: (A, 2) of their images; boxes of images of unknown size (0) are left out.
    """
    known = np.asarray((sizes_hw > 0).all(axis=1))
    boxes, sizes = boxes_xywh_abs[known], sizes_hw[known]
    outside = ~fits(boxes, sizes)
    tiny = (boxes[:, 2:] < 1).all(axis=1)
    if len(boxes) < MIN_NUM_BOXES and not (len(boxes) and tiny.all()):
        return None
    suspects = np.zeros(len(known), np.bool_)
    suspects[known] = outside | tiny
    share, number = (outside | tiny).mean(), int((outside | tiny).sum())
    is_common = outside.mean() > MANY and int(outside.sum()) >= MANY_BOXES
    if share <= MOST and not is_common:
        return None
    said = f"{number} of {len(boxes)} boxes leave their image or are smaller than a pixel"
    if ((boxes >= -0.01) & (boxes <= 1.01)).all(axis=1).mean() > 1 - FEW:
        return WrongFormat(
            f"{said}: they look like fractions of the image size (0..1), not pixels; multiply them by it", suspects
        )
    for name, other in _readings(boxes).items():
        if _is_plausible(other, sizes):
            advice = CONVERT_SWAPPED if name == SWAPPED else "convert them"
            return WrongFormat(f"{said}: they look like {name}, not x, y, width, height; {advice}", suspects)
    if share > MOST:
        return WrongFormat(
            f"{said}: they are not x, y, width, height in pixels of the images of these sizes; convert them", suspects
        )
    return None


def percent_note(boxes_xywh_abs: NDArray[np.float64], sizes_hw: NDArray[np.int64]) -> str | None:
    """A word on boxes that may be percentages: all lie within the first 100 pixels of larger images."""
    known = np.asarray((sizes_hw > 0).all(axis=1))
    boxes, sizes = boxes_xywh_abs[known], sizes_hw[known]
    if len(boxes) < 20 or sizes.min(initial=10**9) < 200:
        return None
    ends = boxes[:, :2] + boxes[:, 2:]
    if ends.max() > 100.5 or ends.max() < 90:
        return None
    return f"all {len(boxes)} boxes lie within the first 100 x 100 pixels: are they percentages of the image size?"


def fits(boxes_xywh_abs: NDArray[np.float64], sizes_hw: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each box (A, 4) lies in its image (A, 2), but for rounding."""
    with np.errstate(over="ignore"):
        ends = boxes_xywh_abs[:, :2] + boxes_xywh_abs[:, 2:]
    inside = (boxes_xywh_abs[:, :2] >= -TOLERANCE) & (ends <= sizes_hw[:, ::-1] + TOLERANCE)
    return np.asarray(inside.all(axis=1))


def _readings(boxes: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """The boxes read as other formats, as x, y, width, height."""
    first, second = boxes[:, :2], boxes[:, 2:]
    yx = boxes[:, [1, 0, 3, 2]]
    return {
        "x1, y1, x2, y2": np.concatenate((first, second - first), axis=1),
        SWAPPED: yx,
        "y1, x1, y2, x2": np.concatenate((yx[:, :2], yx[:, 2:] - yx[:, :2]), axis=1),
        "the centre, width and height": np.concatenate((first - second / 2, second), axis=1),
    }


def _is_plausible(boxes: NDArray[np.float64], sizes: NDArray[np.int64]) -> bool:
    good = fits(boxes, sizes) & (boxes[:, 2:] > 0).all(axis=1)
    return bool(good.mean() > 1 - FEW)
