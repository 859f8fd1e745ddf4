"""Deformable DETRs that build and run in milliseconds, their criterion, and the mathematics again in plain loops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparse_rcnn.architecture import build
from sparse_rcnn.deformable_detr.criterion import DeformableDETRCriterion
from sparse_rcnn.deformable_detr.detector import DeformableDETR
from sparse_rcnn.deformable_detr.matcher import FocalQueryMatcher
from sparse_rcnn.query_boxes import QueryBoxes
from tests.support.detectors import PIXEL_MEAN, PIXEL_STD

SMALL = {"_target_": "sparse_rcnn.backbone.SmallNet", "widths": [16, 16, 32, 32], "num_blocks": [0, 0, 1, 0]}
PACKAGE = "sparse_rcnn.deformable_detr"


def deformable_architecture(
    num_classes: int = 4,
    num_queries: int = 6,
    num_levels: int = 4,
    hidden_dim: int = 32,
    num_heads: int = 4,
    num_points: int = 2,
    num_layers: int = 2,
    dropout: float = 0.0,
    max_detections: int = 100,
    bottom_up: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The description of a Deformable DETR, for ``sparse_rcnn.architecture.build``; small unless told otherwise."""
    stack = {
        "num_layers": num_layers,
        "hidden_dim": hidden_dim,
        "num_heads": num_heads,
        "num_levels": num_levels,
        "num_points": num_points,
        "dim_feedforward": 48,
        "dropout": dropout,
    }
    return {
        "_target_": f"{PACKAGE}.detector.DeformableDETR",
        "num_classes": num_classes,
        "num_queries": num_queries,
        "num_levels": num_levels,
        "max_detections": max_detections,
        "pixel_mean": PIXEL_MEAN,
        "pixel_std": PIXEL_STD,
        "backbone": {
            "_target_": f"{PACKAGE}.levels.BackboneLevels",
            "bottom_up": SMALL if bottom_up is None else bottom_up,
        },
        "position_encoding": {
            "_target_": f"{PACKAGE}.sine_encoding.CellCentreSineEncoding",
            "hidden_dim": hidden_dim,
            "temperature": 10000,
        },
        "encoder": {"_target_": f"{PACKAGE}.encoder.DeformableEncoder", **stack},
        "decoder": {"_target_": f"{PACKAGE}.decoder.DeformableDecoder", **stack},
    }


def small_deformable_detr(seed: int = 0, drawn: bool = True, **changes: Any) -> DeformableDETR:
    """A small detector, with every zero of its start replaced by a drawn number where ``drawn``."""
    torch.manual_seed(seed)
    model: DeformableDETR = build(deformable_architecture(**changes))
    if drawn:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    return model


def deformable_matcher() -> FocalQueryMatcher:
    return FocalQueryMatcher(class_cost=2, l1_cost=5, giou_cost=2, focal_alpha=0.25, focal_gamma=2)


def deformable_criterion() -> DeformableDETRCriterion:
    return DeformableDETRCriterion(
        deformable_matcher(), class_weight=2, l1_weight=5, giou_weight=2, focal_alpha=0.25, focal_gamma=2
    )


def random_queries(num_layers: int, num_images: int, num_queries: int, num_classes: int) -> list[QueryBoxes]:
    """Outputs of layers as if a detector had made them, with gradients to be asked for."""
    generator = torch.Generator().manual_seed(5)
    outputs = []
    for _ in range(num_layers):
        logits = torch.randn(num_images, num_queries, num_classes, generator=generator)
        boxes = 0.1 + 0.6 * torch.rand(num_images, num_queries, 4, generator=generator)
        outputs.append(QueryBoxes(logits.requires_grad_(), boxes.requires_grad_()))
    return outputs


def bilinear(plane: Tensor, x: float, y: float, location: Tensor) -> Tensor:
    """One sample of a map (D, h, w) at cell coordinates, zero outside; ``location`` carries the gradient of (x, y)."""
    _, height, width = plane.shape
    result = plane.new_zeros(plane.shape[0])
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < height and 0 <= column < width:
                share = (1 - (location[0] - column).abs()) * (1 - (location[1] - row).abs())
                result = result + share * plane[:, row, column]
    return result


def naive_sample_levels(
    values: Tensor, shapes_hw: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """As ``sample_levels``, point by point."""
    num_images, _, num_heads, width = values.shape
    rows = []
    for n in range(num_images):
        for q in range(locations.shape[1]):
            for m in range(num_heads):
                total = values.new_zeros(width)
                start = 0
                for level, (h, w) in enumerate(shapes_hw):
                    plane = values[n, start : start + h * w, m].T.reshape(width, h, w)
                    start += h * w
                    for p in range(locations.shape[4]):
                        cell = locations[n, q, m, level, p] * torch.tensor([w, h], dtype=values.dtype) - 0.5
                        sample = bilinear(plane, cell[0].item(), cell[1].item(), cell)
                        total = total + weights[n, q, m, level, p] * sample
                rows.append(total)
    return torch.stack(rows).view(num_images, locations.shape[1], num_heads * width)
