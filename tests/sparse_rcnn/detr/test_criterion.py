"""DETR's losses: by hand, against loops, and independent of how a step is split."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sparse_rcnn.criterion import Share
from sparse_rcnn.detr.criterion import DETRCriterion
from sparse_rcnn.detr.detector import DETR
from sparse_rcnn.detr.output import QueryOutput
from sparse_rcnn.matcher import NonFiniteError
from sparse_rcnn.structures import Targets
from tests.support import naive
from tests.support.detectors import images_of, random_targets
from tests.support.detr import detr_criterion, random_query_outputs, small_detr, softmax_matcher, stacked

SIZES = torch.tensor([[100, 140], [90, 60], [64, 64]])


def test_losses_of_one_layer_by_hand() -> None:
    # Two queries, one class and 'no object'. The first query is the box itself, moved by 0.1 of the width.
    targets = Targets.from_lists([torch.tensor([[0.0, 0, 50, 50]])], [torch.tensor([0])])
    logits = torch.tensor([[[math.log(3.0), 0.0], [0.0, math.log(4.0)]]])
    boxes = torch.tensor([[[0.35, 0.25, 0.5, 0.5], [0.9, 0.9, 0.1, 0.1]]])
    losses = detr_criterion(2)([QueryOutput(logits, boxes)], targets, torch.tensor([[100, 100]]), (1, 1, 1))
    ce = (1 * -math.log(0.75) + 0.1 * -math.log(0.8)) / (1 + 0.1)
    iou = (0.4 * 0.5) / (0.6 * 0.5)
    assert losses["loss_class"].item() == pytest.approx(ce, rel=1e-5)
    assert losses["loss_l1"].item() == pytest.approx(5 * 0.1, rel=1e-5)
    assert losses["loss_giou"].item() == pytest.approx(2 * (1 - iou), rel=1e-5)
    assert losses.total.item() == pytest.approx(ce + 0.5 + 2 * (1 - iou), rel=1e-5)


@pytest.mark.parametrize("counts", [[3, 1, 4], [0, 2, 5], [0, 0, 0], [5, 7, 1]])  # 7: more targets than queries
def test_every_layer_against_loops(counts: list[int]) -> None:
    num_queries, no_object = 5, 4
    outputs = random_query_outputs(2, 3, num_queries, no_object)
    targets = random_targets(counts, SIZES, no_object)
    criterion = detr_criterion(num_queries)
    losses = criterion(outputs, targets, SIZES, criterion.counts(targets))
    matches = softmax_matcher()(*stacked(outputs), targets, SIZES)
    for layer, output in enumerate(outputs):
        here = matches.stage == layer
        found = {
            (n, q): m
            for n, q, m in zip(
                matches.image[here].tolist(),
                matches.proposal[here].tolist(),
                matches.target[here].tolist(),
                strict=True,
            )
        }
        ce, weight, l1, giou = 0.0, 0.0, 0.0, 0.0
        for n in range(3):
            for q in range(num_queries):
                m = found.get((n, q))
                label = no_object if m is None else int(targets.labels[n, m])
                scores = output.logits[n, q].tolist()
                w = 0.1 if m is None else 1.0
                ce += w * (math.log(sum(math.exp(s) for s in scores)) - scores[label])
                weight += w
                if m is not None:
                    height, width = SIZES[n].tolist()
                    cx, cy, w_, h_ = output.boxes_cxcywh_norm[n, q].tolist()
                    x1, y1, x2, y2 = targets.boxes_xyxy_abs[n, m].tolist()
                    wanted = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
                    l1 += sum(abs(a - b) for a, b in zip((cx, cy, w_, h_), wanted, strict=True))
                    box = (cx - w_ / 2, cy - h_ / 2, cx + w_ / 2, cy + h_ / 2)
                    giou += 1 - naive.giou(box, (x1 / width, y1 / height, x2 / width, y2 / height))
        num_boxes = max(sum(counts), 1)
        assert losses["loss_class"][layer].item() == pytest.approx(ce / weight, rel=1e-5)
        assert losses["loss_l1"][layer].item() == pytest.approx(5 * l1 / num_boxes, rel=1e-5)
        assert losses["loss_giou"][layer].item() == pytest.approx(2 * giou / num_boxes, rel=1e-5)


def test_images_without_boxes_still_train_every_output() -> None:
    # Distributed training waits for a gradient of every parameter.
    outputs = random_query_outputs(2, 3, 5, 4)
    targets = random_targets([0, 0, 0], SIZES, 4)
    losses = detr_criterion(5)(outputs, targets, SIZES, (0, 3, 0))
    losses.total.backward()
    for output in outputs:
        assert output.logits.grad is not None
        assert output.logits.grad.abs().sum() > 0
        assert output.boxes_cxcywh_norm.grad is not None
        assert (output.boxes_cxcywh_norm.grad == 0).all()


def test_counts() -> None:
    # Of the boxes of an image, as many as there are queries find one.
    assert detr_criterion(5).counts(random_targets([3, 9, 0], SIZES, 4)) == (12, 3, 8)
    assert detr_criterion(5).counts(random_targets([], SIZES[:0], 4)) == (0, 0, 0)


def step(model: DETR, images: Tensor, sizes: Tensor, targets: list[Targets], share: Share) -> tuple[float, Tensor]:
    """The loss of consecutive micro-batches and the sum of their gradients, flat."""
    model.zero_grad()
    criterion, total, start = detr_criterion(5), 0.0, 0
    for part in targets:
        here = slice(start, start + len(part))
        losses = criterion(model(images[here], sizes[here]), part, sizes[here], share)
        losses.total.backward()
        total += losses.total.item()
        start += len(part)
    return total, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def parts_of(targets: Targets, size: int) -> list[Targets]:
    counts = targets.num_per_image
    return [
        Targets(targets.boxes_xyxy_abs[i : i + size], targets.labels[i : i + size], counts[i : i + size])
        for i in range(0, len(targets), size)
    ]


@pytest.mark.parametrize("micro_batch", [1, 2])
@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_step_does_not_depend_on_how_it_is_split(micro_batch: int, num_processes: int) -> None:
    # Of very different numbers of boxes, one more than there are queries.
    model = small_detr(num_queries=5)
    images, sizes = images_of([(64, 64)] * 4)
    targets = random_targets([0, 1, 4, 8], sizes, 4)
    whole, wanted = step(model, images, sizes, [targets], detr_criterion(5).counts(targets))

    counts = [detr_criterion(5).counts(part) for part in parts_of(targets, micro_batch)]
    share = tuple(sum(column) / num_processes for column in zip(*counts, strict=True))
    size = 4 // num_processes
    results = [
        step(
            model,
            images[i : i + size],
            sizes[i : i + size],
            parts_of(parts_of(targets, size)[i // size], micro_batch),
            share,
        )
        for i in range(0, 4, size)
    ]
    assert sum(loss for loss, _ in results) / num_processes == pytest.approx(whole, rel=1e-5)
    mean = torch.stack([gradient for _, gradient in results]).mean(0)
    assert float((mean - wanted).norm()) <= 1e-5 * float(wanted.norm())


def test_losses_are_float32_under_autocast() -> None:
    outputs = random_query_outputs(2, 3, 5, 4)
    targets = random_targets([3, 1, 4], SIZES, 4)
    share = detr_criterion(5).counts(targets)
    wanted = detr_criterion(5)(outputs, targets, SIZES, share)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = detr_criterion(5)(outputs, targets, SIZES, share)
    assert got.stacked().dtype == torch.float32
    assert torch.equal(got.stacked(), wanted.stacked())
    assert got.stacked().shape == (3, 2)
    assert not got.stacked().requires_grad


def test_parts_have_their_names_and_one_entry_per_layer() -> None:
    criterion = detr_criterion(5)
    losses = criterion(random_query_outputs(2, 3, 5, 4), random_targets([1, 0, 2], SIZES, 4), SIZES, (3, 3, 3))
    assert tuple(losses.parts) == criterion.part_names
    assert [part.shape for part in losses.parts.values()] == [(2,)] * 3


def test_a_detector_with_other_queries_is_refused() -> None:
    with pytest.raises(ValueError, match="num_queries of the criterion is 6, of the detector 5"):
        detr_criterion(6)(random_query_outputs(2, 3, 5, 4), random_targets([1, 0, 2], SIZES, 4), SIZES, (3, 3, 3))


def test_nan_is_refused() -> None:
    outputs = random_query_outputs(2, 3, 5, 4)
    bad = QueryOutput(outputs[1].logits.detach() * math.nan, outputs[1].boxes_cxcywh_norm)
    targets = random_targets([0, 1, 0], SIZES, 4)
    with pytest.raises(NonFiniteError, match="decoder layer 1: logits of image 1"):
        detr_criterion(5)([outputs[0], bad], targets, SIZES, (1, 3, 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_queries": 0}, "num_queries must be at least 1, got 0"),
        ({"giou_weight": -2}, "giou_weight must be a finite number of at least 0, got -2"),
        ({"no_object_weight": 0}, "no_object_weight must be above 0"),
        ({"no_object_weight": math.nan}, "no_object_weight must be a finite number"),
    ],
)
def test_rejected_arguments(changes: dict[str, float], message: str) -> None:
    settings: dict[str, Any] = {
        "num_queries": 5,
        "class_weight": 1,
        "l1_weight": 5,
        "giou_weight": 2,
        "no_object_weight": 0.1,
    }
    with pytest.raises(ValueError, match=message):
        DETRCriterion(matcher=softmax_matcher(), **settings | changes)
