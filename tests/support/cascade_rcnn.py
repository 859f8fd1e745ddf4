"""Cascade R-CNNs that build and run in milliseconds, and a cascade in plain loops, image by image and box by box."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sparse_rcnn.architecture import build
from sparse_rcnn.cascade_rcnn.detector import CascadeRCNN
from sparse_rcnn.structures import Targets
from tests.support.faster_rcnn import on_proposals, spread_predictions

IOUS = [0.5, 0.6, 0.7]
BOX_WEIGHTS = [[10.0, 10.0, 5.0, 5.0], [20.0, 20.0, 10.0, 10.0], [30.0, 30.0, 15.0, 15.0]]
Box = list[float]


def cascade_rcnn_architecture(
    roi_ious: list[float] = IOUS, box_weights: list[Any] = BOX_WEIGHTS, **changes: Any
) -> dict[str, Any]:
    return {
        "_target_": "sparse_rcnn.cascade_rcnn.detector.CascadeRCNN",
        "roi_ious": roi_ious,
        "box_weights": box_weights,
        **on_proposals(**changes),
    }


def small_cascade_rcnn(seed: int = 0, **changes: Any) -> CascadeRCNN:
    """With predictions that differ, see ``tests.support.faster_rcnn.small_faster_rcnn``."""
    torch.manual_seed(seed)
    model: CascadeRCNN = build(cascade_rcnn_architecture(**changes))
    return spread_predictions(model)


def iou(a: Box, b: Box) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (a, b)]
    union = sum(areas) - width * height
    return width * height / union if union > 0 else 0.0


def decode(box: Box, deltas: Box, weights: Box, size_hw: tuple[int, int]) -> Box:
    """A box refined by deltas and clipped to its image."""
    x1, y1, x2, y2 = box
    dx, dy, dw, dh = (d / w for d, w in zip(deltas, weights, strict=True))
    limit = math.log(1000 / 16)
    cx, cy = (x1 + x2) / 2 + dx * (x2 - x1), (y1 + y2) / 2 + dy * (y2 - y1)
    w, h = (x2 - x1) * math.exp(min(dw, limit)), (y2 - y1) * math.exp(min(dh, limit))
    height, width = size_hw
    return [
        min(max(cx - w / 2, 0.0), width),
        min(max(cy - h / 2, 0.0), height),
        min(max(cx + w / 2, 0.0), width),
        min(max(cy + h / 2, 0.0), height),
    ]


def encode(box: Box, wanted: Box, weights: Box) -> Box:
    w, h = box[2] - box[0], box[3] - box[1]
    dx = ((wanted[0] + wanted[2]) / 2 - (box[0] + box[2]) / 2) / w
    dy = ((wanted[1] + wanted[3]) / 2 - (box[1] + box[3]) / 2) / h
    logs = (math.log((wanted[2] - wanted[0]) / w), math.log((wanted[3] - wanted[1]) / h))
    return [d * weight for d, weight in zip((dx, dy, *logs), weights, strict=True)]


def naive_stage(model: CascadeRCNN, s: int, maps: list[Tensor], boxes: list[Box]) -> tuple[Tensor, Tensor]:
    """Logits and deltas of the boxes of one image, one at a time; the gradient of their features is a third."""
    stage: Any = model.stages[s]
    logits, deltas = [], []
    for box in boxes:
        pooled = model.roi_pooler(maps[:4], torch.tensor([[box]]))
        if pooled.requires_grad:
            pooled.register_hook(lambda gradient: gradient / 3)
        features = torch.relu(stage.box_head.fc6(pooled.flatten(1)))
        features = torch.relu(stage.box_head.fc7(features))
        logits.append(stage.box_predictor.cls_score(features)[0])
        deltas.append(stage.box_predictor.bbox_pred(features)[0])
    return torch.stack(logits), torch.stack(deltas)


def naive_losses(
    model: CascadeRCNN, images: Tensor, sizes_hw: Tensor, targets: Targets, sampled: list[Tensor], beta: float
) -> tuple[list[Tensor], list[Tensor]]:
    """Losses of classes and of boxes by stage, of the regions that were sampled for the first one."""
    maps = model.backbone(model.normalize(images, sizes_hw))
    boxes = [region.tolist() for region in sampled]
    class_losses, box_losses = [], []
    for s in range(len(IOUS)):
        class_loss, box_loss, num_regions = torch.zeros(()), torch.zeros(()), 0
        for n, size_hw in enumerate(sizes_hw.tolist()):
            truth = targets.boxes_xyxy_abs[n, : targets.num_per_image[n]].tolist()
            logits, deltas = naive_stage(model, s, [m[n : n + 1] for m in maps], boxes[n])
            refined = []
            for box, z, d in zip(boxes[n], logits, deltas, strict=True):
                num_regions += 1
                overlaps = [iou(box, wanted) for wanted in truth]
                best = max(overlaps, default=0.0)
                label = 0
                if best >= IOUS[s]:
                    match = overlaps.index(best)
                    label = int(targets.labels[n, match]) + 1
                    for got, wanted in zip(d, encode(box, truth[match], BOX_WEIGHTS[s]), strict=True):
                        difference = (got - wanted).abs()
                        is_small = difference.item() < beta
                        box_loss = box_loss + (difference**2 / (2 * beta) if is_small else difference - beta / 2)
                class_loss = class_loss - z.log_softmax(0)[label]
                box = decode(box, d.tolist(), BOX_WEIGHTS[s], (size_hw[0], size_hw[1]))
                if box[2] > box[0] and box[3] > box[1]:
                    refined.append(box)
            boxes[n] = refined
        class_losses.append(class_loss / num_regions)
        box_losses.append(box_loss / num_regions)
    return class_losses, box_losses


def naive_detections(
    model: CascadeRCNN, maps: list[Tensor], proposals: list[Box], size_hw: tuple[int, int]
) -> list[tuple[float, int, Box]]:
    """Score, class and box of each detection of one image, best first."""
    boxes, probabilities = proposals, torch.zeros(len(proposals), model.num_classes + 1)
    for s in range(len(IOUS)):
        logits, deltas = naive_stage(model, s, maps, boxes)
        probabilities = probabilities + logits.softmax(1) / 3
        boxes = [decode(box, d.tolist(), BOX_WEIGHTS[s], size_hw) for box, d in zip(boxes, deltas, strict=True)]
    kept: list[tuple[float, int, Box]] = []
    candidates = [
        (float(p), k, box)
        for box, row in zip(boxes, probabilities.tolist(), strict=True)
        for k, p in enumerate(row[1:])
        if p > model.score_threshold and min(box[2] - box[0], box[3] - box[1]) >= 1e-2
    ]
    for score, label, box in sorted(candidates, key=lambda c: -c[0]):
        if all(k != label or iou(box, other) <= model.nms_threshold for _, k, other in kept):
            kept.append((score, label, box))
    return kept[: model.max_detections]
