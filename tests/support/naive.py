"""The detector's mathematics a second time, in plain Python loops over floats: slow, and written from
the semantics (docs/semantics.md, whose sections the docstrings name) without a look at the library."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

Box = Sequence[float]


def area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def giou(a: Box, b: Box) -> float:
    """Generalised IoU of two xyxy boxes, no epsilon (semantics.md#matching)."""
    overlap_w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    overlap_h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    overlap = overlap_w * overlap_h
    union = area(a) + area(b) - overlap
    hull = max(0.0, max(a[2], b[2]) - min(a[0], b[0])) * max(0.0, max(a[3], b[3]) - min(a[1], b[1]))
    return overlap / union - (hull - union) / hull


def l1(a: Box, b: Box, size_hw: Sequence[float]) -> float:
    """Sum of the four corner differences, each over its image side (semantics.md#matching)."""
    height, width = size_hw
    return sum(abs(p - q) / side for p, q, side in zip(a, b, (width, height, width, height), strict=True))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def match_cost(logits: Sequence[float], box: Box, label: int, target: Box, size_hw: Sequence[float]) -> float:
    """Cost of one pair (semantics.md#matching)."""
    p, alpha, gamma = sigmoid(logits[label]), 0.25, 2
    positive = alpha * (1 - p) ** gamma * -math.log(p + 1e-8)
    negative = (1 - alpha) * p**gamma * -math.log(1 - p + 1e-8)
    return 2 * (positive - negative) + 5 * l1(box, target, size_hw) + 2 * -giou(box, target)


def best_assignment(cost: np.ndarray) -> tuple[float, dict[int, int]]:
    """The least total of ``cost`` (P, M) over all assignments, by trying all; and proposal by target."""
    num_proposals, num_targets = cost.shape
    if num_targets > num_proposals:
        total, by_proposal = best_assignment(cost.T)
        return total, {target: proposal for proposal, target in by_proposal.items()}
    best = min(
        itertools.permutations(range(num_proposals), num_targets),
        key=lambda rows: sum(cost[p, m] for m, p in enumerate(rows)),
    )
    return sum(float(cost[p, m]) for m, p in enumerate(best)), dict(enumerate(best))


def focal_loss(logit: float, is_target: bool) -> float:
    """Sigmoid focal loss of one number, alpha .25 and gamma 2 (Lin et al. 2017, semantics.md#losses)."""
    p = sigmoid(logit if is_target else -logit)  # probability given to what is true
    log_p = -math.log1p(math.exp(-abs(logit))) - (max(0.0, -logit) if is_target else max(0.0, logit))
    return (0.25 if is_target else 0.75) * (1 - p) ** 2 * -log_p


def set_loss(
    logits: np.ndarray,
    boxes: np.ndarray,
    targets: Sequence[tuple[Sequence[Box], Sequence[int]]],
    sizes_hw: Sequence[Sequence[float]],
    num_boxes: float,
) -> np.ndarray:
    """Weighted losses (3, S) of logits (S, N, P, K) and boxes (S, N, P, 4): class, L1, GIoU (semantics.md#losses)."""
    num_stages, num_images, num_proposals, num_classes = logits.shape
    losses = np.zeros((3, num_stages))
    for s in range(num_stages):
        for n in range(num_images):
            target_boxes, labels = targets[n]
            cost = np.zeros((num_proposals, len(labels)))
            for p in range(num_proposals):
                for m, label in enumerate(labels):
                    cost[p, m] = match_cost(
                        logits[s, n, p].tolist(), boxes[s, n, p].tolist(), label, target_boxes[m], sizes_hw[n]
                    )
            _, pairs = best_assignment(cost)
            wanted = {p: labels[m] for m, p in pairs.items()}
            for p in range(num_proposals):
                for k in range(num_classes):
                    losses[0, s] += focal_loss(float(logits[s, n, p, k]), wanted.get(p) == k)
            for m, p in pairs.items():
                losses[1, s] += l1(boxes[s, n, p].tolist(), target_boxes[m], sizes_hw[n])
                losses[2, s] += 1 - giou(boxes[s, n, p].tolist(), target_boxes[m])
    return losses * np.array([[2.0], [5.0], [2.0]]) / num_boxes


def apply_deltas(deltas: Sequence[float], box: Box) -> list[float]:
    """The refined box (semantics.md#box-refinement)."""
    width, height = box[2] - box[0], box[3] - box[1]
    cx, cy = box[0] + width / 2, box[1] + height / 2
    dx, dy, dw, dh = deltas[0] / 2, deltas[1] / 2, deltas[2], deltas[3]
    limit = math.log(100000 / 16)
    cx, cy = cx + dx * width, cy + dy * height
    width, height = width * math.exp(min(dw, limit)), height * math.exp(min(dh, limit))
    return [cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2]


def level(box: Box) -> int | None:
    """Pyramid level of a box; None for a negative area, which has no root (semantics.md#roi-pooling)."""
    if area(box) < 0:
        return None
    return min(5, max(2, math.floor(4 + math.log2(math.sqrt(area(box)) / 224 + 1e-8))))


def bilinear(plane: np.ndarray, y: float, x: float) -> float:
    """One sample of a plane (H, W) as RoIAlign takes it: nothing beyond a pixel outside, else the rim."""
    height, width = plane.shape
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = max(y, 0.0), max(x, 0.0)
    y0, x0 = min(int(y), height - 1), min(int(x), width - 1)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    fy = 0.0 if y0 == height - 1 else y - y0
    fx = 0.0 if x0 == width - 1 else x - x0
    top = plane[y0, x0] * (1 - fx) + plane[y0, x1] * fx
    bottom = plane[y1, x0] * (1 - fx) + plane[y1, x1] * fx
    return float(top * (1 - fy) + bottom * fy)


def roi_align(maps: Sequence[np.ndarray], box: Box, size: int, ratio: int) -> np.ndarray:
    """RoI feature (C, size, size) of a box from maps p2.. (C, H, W), zero without level (semantics.md#roi-pooling)."""
    pooled = np.zeros((maps[0].shape[0], size, size))
    box_level = level(box)
    if box_level is None:
        return pooled
    feature_map, stride = maps[box_level - 2], 2**box_level
    x1, y1, x2, y2 = (edge / stride - 0.5 for edge in box)
    bin_w, bin_h = (x2 - x1) / size, (y2 - y1) / size
    for c in range(pooled.shape[0]):
        for i in range(size):
            for j in range(size):
                samples = [
                    bilinear(
                        feature_map[c],
                        y1 + (i + (a + 0.5) / ratio) * bin_h,
                        x1 + (j + (b + 0.5) / ratio) * bin_w,
                    )
                    for a in range(ratio)
                    for b in range(ratio)
                ]
                pooled[c, i, j] = sum(samples) / ratio**2
    return pooled


def layer_norm(x: Sequence[float], weight: Sequence[float], bias: Sequence[float]) -> list[float]:
    mean = sum(x) / len(x)
    variance = sum((v - mean) ** 2 for v in x) / len(x)
    return [(v - mean) / math.sqrt(variance + 1e-5) * w + b for v, w, b in zip(x, weight, bias, strict=True)]


def relu(x: Sequence[float]) -> list[float]:
    return [max(0.0, v) for v in x]


def linear(x: Sequence[float], weight: np.ndarray, bias: Sequence[float]) -> list[float]:
    return [sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(weight, bias, strict=True)]


def dynamic_interaction(
    parameters: dict[str, np.ndarray], feature: Sequence[float], roi: np.ndarray, width: int
) -> list[float]:
    """New object feature (C,) from a proposal feature (C,) and its RoI feature (C, S, S).

    Source: semantics.md#dynamic-interaction.

    ``parameters`` by the names of the library's module; ``width`` is that between the two products (64).
    """
    num_channels, size, _ = roi.shape
    p = parameters
    numbers = linear(feature, p["dynamic_layer.weight"], p["dynamic_layer.bias"])
    flat: list[float] = []
    for y in range(size):
        for x in range(size):
            # The first C * width numbers are a C x width matrix, row by row; the rest is width x C.
            hidden = [sum(roi[c, y, x] * numbers[c * width + d] for c in range(num_channels)) for d in range(width)]
            hidden = relu(layer_norm(hidden, p["norm1.weight"], p["norm1.bias"]))
            offset = num_channels * width
            out = [
                sum(hidden[d] * numbers[offset + d * num_channels + c] for d in range(width))
                for c in range(num_channels)
            ]
            flat += relu(layer_norm(out, p["norm2.weight"], p["norm2.bias"]))  # position-major
    mixed = linear(flat, p["out_layer.weight"], p["out_layer.bias"])
    mixed = relu(layer_norm(mixed, p["norm3.weight"], p["norm3.bias"]))
    return layer_norm([f + m for f, m in zip(feature, mixed, strict=True)], p["norm.weight"], p["norm.bias"])


def self_attention(parameters: dict[str, np.ndarray], features: np.ndarray, num_heads: int) -> np.ndarray:
    """New object features of one image, (P, C) to (P, C) (semantics.md#stage)."""
    p = parameters
    num_channels = features.shape[1]
    width = num_channels // num_heads
    packed = [linear(f, p["attention.in_proj_weight"], p["attention.in_proj_bias"]) for f in features.tolist()]
    result = []
    for i, feature in enumerate(features.tolist()):
        joined: list[float] = []
        for head in range(num_heads):
            first = head * width
            query = packed[i][first : first + width]
            scores = []
            for other in packed:
                key = other[num_channels + first : num_channels + first + width]
                scores.append(sum(q * k for q, k in zip(query, key, strict=True)) / math.sqrt(width))
            weights = [math.exp(s - max(scores)) for s in scores]
            for d in range(width):
                values = [other[2 * num_channels + first + d] for other in packed]
                joined.append(sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights))
        mixed = linear(joined, p["attention.out_proj.weight"], p["attention.out_proj.bias"])
        added = [f + m for f, m in zip(feature, mixed, strict=True)]
        result.append(layer_norm(added, p["norm.weight"], p["norm.bias"]))
    return np.array(result)


def select_detections(
    logits: np.ndarray, boxes: np.ndarray, size_hw: Sequence[float], original_hw: Sequence[float]
) -> list[tuple[float, int, list[float]]]:
    """(score, label, box) of one image, best first (semantics.md#inference)."""
    num_proposals, num_classes = logits.shape
    scored = [(sigmoid(float(logits[p, k])), k, p) for p in range(num_proposals) for k in range(num_classes)]
    scored.sort(key=lambda entry: -entry[0])
    height, width = original_hw
    scale_y, scale_x = height / size_hw[0], width / size_hw[1]
    found = []
    for score, label, p in scored[:num_proposals]:
        x1, y1, x2, y2 = boxes[p].tolist()
        x1, x2 = (min(max(x * scale_x, 0.0), width) for x in (x1, x2))
        y1, y2 = (min(max(y * scale_y, 0.0), height) for y in (y1, y2))
        if x2 > x1 and y2 > y1:
            found.append((score, label, [x1, y1, x2, y2]))
    return found


def attention_interaction(
    parameters: dict[str, np.ndarray], feature: Sequence[float], roi: np.ndarray, num_heads: int
) -> list[float]:
    """New object feature (C,) from an object feature (C,) that attends to its RoI feature (C, S, S) (table 8)."""
    p = parameters
    num_channels, size, _ = roi.shape
    width = num_channels // num_heads
    weight, bias = p["attention.in_proj_weight"], p["attention.in_proj_bias"]
    query = linear(feature, weight[:num_channels], bias[:num_channels])
    positions = [roi[:, y, x].tolist() for y in range(size) for x in range(size)]
    keys = [
        linear(f, weight[num_channels : 2 * num_channels], bias[num_channels : 2 * num_channels]) for f in positions
    ]
    values = [linear(f, weight[2 * num_channels :], bias[2 * num_channels :]) for f in positions]
    joined = []
    for channel in range(num_channels):
        head = range(channel // width * width, (channel // width + 1) * width)
        scores = [math.exp(sum(query[d] * key[d] for d in head) / math.sqrt(width)) for key in keys]
        joined.append(sum(s * value[channel] for s, value in zip(scores, values, strict=True)) / sum(scores))
    mixed = linear(joined, p["attention.out_proj.weight"], p["attention.out_proj.bias"])
    return layer_norm([f + m for f, m in zip(feature, mixed, strict=True)], p["norm.weight"], p["norm.bias"])


def fully_connected(
    parameters: dict[str, np.ndarray], roi: np.ndarray, num_fc: int, reused: Sequence[float] | None
) -> list[float]:
    """Object feature (C,) of an RoI feature (C, S, S), joined with a reused one (C,) or not (tables 2 to 4).

    The order of the flattened RoI is free; the library's is channel by channel.
    """
    p = parameters
    x = [float(plane[i, j]) for plane in roi for i in range(roi.shape[1]) for j in range(roi.shape[2])]
    for layer in range(num_fc):
        x = relu(linear(x, p[f"layers.{2 * layer}.weight"], p[f"layers.{2 * layer}.bias"]))
    if reused is None:
        return x
    return relu(linear([*x, *reused], p["join.weight"], p["join.bias"]))
