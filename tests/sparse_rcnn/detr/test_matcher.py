"""The matching with softmax costs, against loops over floats, trying all assignments."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sparse_rcnn.detr.matcher import SoftmaxMatcher
from sparse_rcnn.matcher import Matches, NonFiniteError
from sparse_rcnn.query_boxes import normalized_targets
from sparse_rcnn.structures import Targets
from tests.support import naive
from tests.support.detectors import random_targets
from tests.support.detr import random_query_outputs, softmax_matcher, stacked

SIZES = torch.tensor([[100, 140], [90, 60], [64, 64]])


def corners(box: list[float]) -> list[float]:
    cx, cy, w, h = box
    return [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]


def naive_cost(logits: Tensor, boxes: Tensor, targets: Targets, image: int) -> np.ndarray:
    """Costs (Q, M) of one layer and image, logits (Q, K + 1) and boxes (Q, 4)."""
    height, width = SIZES[image].tolist()
    rows = []
    for scores, box in zip(logits.tolist(), boxes.tolist(), strict=True):
        row = []
        for m in range(targets.num_per_image[image]):
            x1, y1, x2, y2 = targets.boxes_xyxy_abs[image, m].tolist()
            wanted = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
            probability = math.exp(scores[int(targets.labels[image, m])]) / sum(math.exp(s) for s in scores)
            l1 = sum(abs(a - b) for a, b in zip(box, wanted, strict=True))
            row.append(-probability + 5 * l1 - 2 * naive.giou(corners(box), corners(wanted)))
        rows.append(row)
    return np.array(rows).reshape(len(logits), -1)


def pairs(m: Matches) -> list[tuple[int, ...]]:
    return list(zip(m.stage.tolist(), m.image.tolist(), m.proposal.tolist(), m.target.tolist(), strict=True))


def test_targets_are_relative_to_the_unpadded_image() -> None:
    targets = Targets.from_lists([torch.tensor([[14.0, 10, 42, 60]])], [torch.tensor([0])])
    got = normalized_targets(targets, torch.tensor([[100, 140]]))
    torch.testing.assert_close(got, torch.tensor([[[0.2, 0.35, 0.2, 0.5]]]))


def test_cost_of_one_pair_by_hand() -> None:
    # Two logits of 0: probability 0.5. Centre off by 0.2, same size: boxes side by side, IoU and GIoU 0.
    targets = Targets.from_lists([torch.tensor([[20.0, 0, 40, 50]])], [torch.tensor([0])])
    boxes = torch.tensor([[[[0.1, 0.5, 0.2, 1.0]]]])
    cost = softmax_matcher().cost(torch.zeros(1, 1, 1, 2), boxes, targets, torch.tensor([[50, 100]]))
    assert cost.item() == pytest.approx(-0.5 + 5 * 0.2, abs=1e-6)


@pytest.mark.parametrize("counts", [[3, 1, 4], [0, 2, 5], [5, 7, 1]])  # 7: more targets than queries
def test_costs_and_the_best_of_all_assignments(counts: list[int]) -> None:
    logits, boxes = stacked(random_query_outputs(2, 3, 5, 4))
    targets = random_targets(counts, SIZES, 4)
    matcher = softmax_matcher()
    cost = matcher.cost(logits, boxes, targets, SIZES)
    assert cost.dtype == torch.float32
    wanted = []
    for layer in range(2):
        for n, count in enumerate(counts):
            block = naive_cost(logits[layer, n], boxes[layer, n], targets, n)
            np.testing.assert_allclose(cost[layer, n, :, :count].numpy(), block, rtol=1e-5, atol=1e-5)
            by_target = naive.best_assignment(block)[1]
            wanted += sorted((layer, n, q, m) for m, q in by_target.items())
    assert pairs(matcher(logits, boxes, targets, SIZES)) == wanted, "sorted by layer, image and query"


def test_no_targets_at_all() -> None:
    logits, boxes = stacked(random_query_outputs(2, 3, 5, 4))
    assert len(softmax_matcher()(logits, boxes, random_targets([0, 0, 0], SIZES, 4), SIZES)) == 0


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("logits", math.nan, "decoder layer 1: logits of image 2 of the batch hold NaN or infinity"),
        ("boxes", math.nan, "decoder layer 1: boxes_cxcywh_norm of image 2 of the batch hold NaN or infinity"),
        ("boxes", 3e38, "decoder layer 1: boxes_cxcywh_norm of image 2 of the batch overflow the matching cost"),
    ],
)
def test_values_that_are_not_finite_are_named(name: str, value: float, message: str) -> None:
    logits, boxes = stacked(random_query_outputs(2, 3, 5, 4))
    (logits if name == "logits" else boxes)[1, 2, 0] = value
    with pytest.raises(NonFiniteError, match=message):
        softmax_matcher()(logits, boxes, random_targets([1, 1, 1], SIZES, 4), SIZES)


def test_rejected_arguments() -> None:
    with pytest.raises(ValueError, match="l1_cost must be a finite number of at least 0, got -1"):
        SoftmaxMatcher(1, -1, 2)
    with pytest.raises(ValueError, match="class_cost, l1_cost and giou_cost are all 0"):
        SoftmaxMatcher(0, 0, 0)
