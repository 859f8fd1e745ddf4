from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sparse_rcnn.deformable_detr.criterion import DeformableDETRCriterion
from sparse_rcnn.structures import Targets
from tests.support import naive
from tests.support.deformable_detr import deformable_criterion, deformable_matcher, random_queries
from tests.support.detectors import random_targets

SIZES = torch.tensor([[40, 60], [50, 30], [20, 20]])


def corners(box: list[float]) -> list[float]:
    cx, cy, w, h = box
    return [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]


@pytest.mark.parametrize("num_queries", [5, 2])
def test_losses_of_given_pairs_against_plain_loops(num_queries: int) -> None:
    outputs = random_queries(num_layers=2, num_images=3, num_queries=num_queries, num_classes=4)
    targets = random_targets([2, 3, 0], SIZES, num_classes=4)
    got = deformable_criterion()(outputs, targets, SIZES, share=(7.0,))
    matches = deformable_matcher()(
        torch.stack([o.logits for o in outputs]), torch.stack([o.boxes_cxcywh_norm for o in outputs]), targets, SIZES
    )
    for layer, output in enumerate(outputs):
        wanted = [0.0, 0.0, 0.0]
        for n in range(3):
            here = (matches.stage == layer) & (matches.image == n)
            pairs = dict(zip(matches.proposal[here].tolist(), matches.target[here].tolist(), strict=True))
            for q in range(num_queries):
                label = int(targets.labels[n, pairs[q]]) if q in pairs else None
                wanted[0] += sum(naive.focal_loss(output.logits[n, q, k].item(), k == label) for k in range(4))
            for q, t in pairs.items():
                x1, y1, x2, y2 = targets.boxes_xyxy_abs[n, t].tolist()
                h, w = SIZES[n].tolist()
                truth = [(x1 + x2) / 2 / w, (y1 + y2) / 2 / h, (x2 - x1) / w, (y2 - y1) / h]
                box = output.boxes_cxcywh_norm[n, q].tolist()
                wanted[1] += sum(abs(a - b) for a, b in zip(box, truth, strict=True))
                wanted[2] += 1 - naive.giou(corners(box), corners(truth))
        parts = [part[layer].item() for part in (got["loss_class"], got["loss_l1"], got["loss_giou"])]
        assert parts == pytest.approx([2 / 7 * wanted[0], 5 / 7 * wanted[1], 2 / 7 * wanted[2]], rel=1e-5)


def test_no_boxes_at_all_still_give_every_output_a_gradient() -> None:
    outputs = random_queries(num_layers=2, num_images=3, num_queries=5, num_classes=4)
    losses = deformable_criterion()(outputs, random_targets([0, 0, 0], SIZES, 4), SIZES, share=(1.0,))
    losses.total.backward()
    assert not losses["loss_l1"].any()
    assert not losses["loss_giou"].any()
    assert losses["loss_class"].min() > 0
    for output in outputs:
        assert output.logits.grad is not None
        assert output.logits.grad.abs().min() > 0
        assert output.boxes_cxcywh_norm.grad is not None
        assert not output.boxes_cxcywh_norm.grad.any()


def test_images_add_up() -> None:
    outputs = random_queries(num_layers=2, num_images=3, num_queries=5, num_classes=4)
    targets = random_targets([2, 3, 0], SIZES, num_classes=4)
    criterion = deformable_criterion()
    whole = criterion(outputs, targets, SIZES, share=(5.0,)).stacked()
    parts = torch.zeros_like(whole)
    for n in range(3):
        one = [
            replace(o, logits=o.logits[n : n + 1], boxes_cxcywh_norm=o.boxes_cxcywh_norm[n : n + 1]) for o in outputs
        ]
        truth = Targets(targets.boxes_xyxy_abs[n : n + 1], targets.labels[n : n + 1], targets.num_per_image[n : n + 1])
        parts += criterion(one, truth, SIZES[n : n + 1], share=(5.0,)).stacked()
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=0)


def test_bf16_outputs_are_compared_in_float32() -> None:
    outputs = random_queries(num_layers=1, num_images=3, num_queries=5, num_classes=4)
    rounded = [replace(o, logits=o.logits.bfloat16()) for o in outputs]
    targets = random_targets([2, 3, 0], SIZES, num_classes=4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = deformable_criterion()(rounded, targets, SIZES, share=(5.0,))
    again = [replace(o, logits=o.logits.float()) for o in rounded]
    wanted = deformable_criterion()(again, targets, SIZES, share=(5.0,))
    assert got.total.dtype == torch.float32
    assert torch.equal(got.stacked(), wanted.stacked())


def test_rejected() -> None:
    with pytest.raises(ValueError, match="class_weight must be a finite number of at least 0, got -2"):
        DeformableDETRCriterion(deformable_matcher(), -2, 5, 2, 0.25, 2)
