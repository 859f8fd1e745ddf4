"""Box formats, generalised IoU and the refinement of boxes by deltas."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# semantics.md#box-refinement: a size grows by at most this factor in one stage; there is no lower bound.
MAX_LOG_SCALE = math.log(100_000.0 / 16)
DELTA_WEIGHTS = (2.0, 2.0, 1.0, 1.0)


def cxcywh_to_xyxy(boxes_cxcywh: Tensor) -> Tensor:
    """Turn (..., 4) centre-and-size boxes into corners, in the same unit."""
    cx, cy, w, h = boxes_cxcywh.unbind(-1)
    return torch.stack((cx - 0.5 * w, cy - 0.5 * h, cx + 0.5 * w, cy + 0.5 * h), dim=-1)


def xyxy_to_cxcywh(boxes_xyxy: Tensor) -> Tensor:
    """Turn (..., 4) corner boxes into centre and size, in the same unit."""
    x1, y1, x2, y2 = boxes_xyxy.unbind(-1)
    return torch.stack(((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1), dim=-1)


def whwh(image_sizes_hw: Tensor) -> Tensor:
    """Image sizes (N, 2) as (height, width) to the float scale (N, 4) of xyxy or cxcywh coordinates."""
    return image_sizes_hw.flip(-1).repeat(1, 2).float()


def apply_deltas(deltas: Tensor, boxes_xyxy_abs: Tensor) -> Tensor:
    """Refine boxes (..., 4) by deltas (..., 4) = (dx, dy, dw, dh), weighted by 2, 2, 1, 1.

    Source: semantics.md#box-refinement.
    """
    x1, y1, x2, y2 = boxes_xyxy_abs.unbind(-1)
    w, h = x2 - x1, y2 - y1
    dx, dy, dw, dh = (d / weight for d, weight in zip(deltas.unbind(-1), DELTA_WEIGHTS, strict=True))
    cx = dx * w + (x1 + 0.5 * w)
    cy = dy * h + (y1 + 0.5 * h)
    w = dw.clamp(max=MAX_LOG_SCALE).exp() * w
    h = dh.clamp(max=MAX_LOG_SCALE).exp() * h
    return torch.stack((cx - 0.5 * w, cy - 0.5 * h, cx + 0.5 * w, cy + 0.5 * h), dim=-1)


def generalized_iou(a_xyxy_abs: Tensor, b_xyxy_abs: Tensor) -> Tensor:
    """Generalised IoU of boxes that broadcast against each other, (..., 4) and (..., 4) to (...).

    No epsilon (semantics.md#matching): two boxes without area give NaN, so one of the two (the ground truth) has
    to have an area. Pairwise values come from ``a[:, None]`` and ``b[None]``. Source: Rezatofighi et al. 2019.
    """
    ax1, ay1, ax2, ay2 = a_xyxy_abs.unbind(-1)
    bx1, by1, bx2, by2 = b_xyxy_abs.unbind(-1)
    area_a = (ax2 - ax1) * (ay2 - ay1)
    area_b = (bx2 - bx1) * (by2 - by1)
    inter_w = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)
    inter_h = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    intersection = inter_w * inter_h
    union = area_a + area_b - intersection
    hull_w = (torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1)).clamp(min=0)
    hull_h = (torch.maximum(ay2, by2) - torch.minimum(ay1, by1)).clamp(min=0)
    hull = hull_w * hull_h
    return intersection / union - (hull - union) / hull


def pairwise_l1(a: Tensor, b: Tensor) -> Tensor:
    """L1 distances (S, N, P, M) of boxes (S, N, P, 4) and (N, M, 4).

    One coordinate after the other, in place: (S, N, P, M, 4) differences would be gigabytes at 12 stages and 500
    proposals, and ``torch.cdist`` is slower by far.
    """
    first, *others = zip(a[..., None].unbind(-2), b[None, :, None].unbind(-1), strict=True)
    distance = (first[0] - first[1]).abs_()
    for one, other in others:
        distance += (one - other).abs_()
    return distance
