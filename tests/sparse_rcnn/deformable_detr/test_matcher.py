from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sparse_rcnn.deformable_detr.matcher import FocalQueryMatcher
from sparse_rcnn.matcher import NonFiniteError
from sparse_rcnn.structures import Targets
from tests.support import naive
from tests.support.deformable_detr import deformable_matcher, random_queries
from tests.support.detectors import random_targets

SIZES = torch.tensor([[40, 60], [50, 30], [20, 20]])
COUNTS = [2, 3, 0]


def stacked(num_queries: int = 4) -> tuple[Tensor, Tensor]:
    outputs = random_queries(num_layers=2, num_images=3, num_queries=num_queries, num_classes=5)
    logits, boxes = (
        torch.stack(t).detach() for t in ([o.logits for o in outputs], [o.boxes_cxcywh_norm for o in outputs])
    )
    return logits, boxes


def corners(box: list[float]) -> list[float]:
    cx, cy, w, h = box
    return [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]


def naive_cost(logits: Tensor, box: list[float], label: int, target_xyxy: list[float], size: list[int]) -> float:
    """Focal class cost, L1 of normalised cxcywh and GIoU of one pair."""
    height, width = size
    x1, y1, x2, y2 = target_xyxy
    wanted = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
    focal = naive.match_cost(logits.tolist(), [0, 0, 1, 1], label, [0, 0, 1, 1], [1, 1]) + 2  # GIoU is 1, L1 is 0
    l1 = sum(abs(a - b) for a, b in zip(box, wanted, strict=True))
    return focal + 5 * l1 - 2 * naive.giou(corners(box), corners(wanted))


def costs(logits: Tensor, boxes: Tensor, targets: Targets, layer: int, image: int) -> np.ndarray:
    count = targets.num_per_image[image]
    rows = [
        [
            naive_cost(
                logits[layer, image, q],
                boxes[layer, image, q].tolist(),
                int(targets.labels[image, t]),
                targets.boxes_xyxy_abs[image, t].tolist(),
                SIZES[image].tolist(),
            )
            for t in range(count)
        ]
        for q in range(logits.shape[2])
    ]
    return np.array(rows).reshape(logits.shape[2], count)


@pytest.mark.parametrize("num_queries", [4, 2])  # more and fewer than the three targets of an image
def test_costs_and_pairs_against_plain_loops(num_queries: int) -> None:
    logits, boxes = stacked(num_queries)
    targets = random_targets(COUNTS, SIZES, num_classes=5)
    got = deformable_matcher().cost(logits, boxes, targets, SIZES)
    matches = deformable_matcher()(logits, boxes, targets, SIZES)
    assert len(matches) == 2 * sum(min(count, num_queries) for count in COUNTS)
    for layer in range(2):
        for image, count in enumerate(COUNTS):
            wanted = costs(logits, boxes, targets, layer, image)
            np.testing.assert_allclose(got[layer, image, :, :count].numpy(), wanted, rtol=1e-5, atol=1e-5)
            here = (matches.stage == layer) & (matches.image == image)
            pairs = dict(zip(matches.target[here].tolist(), matches.proposal[here].tolist(), strict=True))
            assert pairs == naive.best_assignment(wanted)[1]


def test_images_without_boxes_have_no_pairs() -> None:
    logits, boxes = stacked()
    assert len(deformable_matcher()(logits, boxes, random_targets([0, 0, 0], SIZES, 5), SIZES)) == 0


@pytest.mark.parametrize(
    ("name", "value"), [("logits", math.nan), ("boxes_cxcywh_norm", math.nan), ("boxes_cxcywh_norm", math.inf)]
)
def test_numbers_that_are_not_finite(name: str, value: float) -> None:
    logits, boxes = stacked()
    {"logits": logits, "boxes_cxcywh_norm": boxes}[name][1, 1, 2] = value
    with pytest.raises(NonFiniteError, match=f"stage 1: {name} of image 1 of the batch hold NaN or infinity"):
        deformable_matcher()(logits, boxes, random_targets(COUNTS, SIZES, 5), SIZES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"l1_cost": -1}, "l1_cost must be a finite number of at least 0, got -1"),
        ({"focal_alpha": 2}, "focal_alpha must be between 0 and 1, got 2"),
        ({"class_cost": 0, "l1_cost": 0, "giou_cost": 0}, "nothing to match by"),
    ],
)
def test_rejected(changes: dict[str, Any], message: str) -> None:
    options = {"class_cost": 2, "l1_cost": 5, "giou_cost": 2, "focal_alpha": 0.25, "focal_gamma": 2}
    with pytest.raises(ValueError, match=message):
        FocalQueryMatcher(**(options | changes))
