"""RetinaNet's losses: by hand, without boxes, and independent of how a step is split."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sparse_rcnn.retinanet.criterion import RetinaNetCriterion
from sparse_rcnn.retinanet.output import AnchorOutput
from sparse_rcnn.structures import Targets
from tests.support.detectors import images_of, random_targets
from tests.support.retinanet import random_output, retinanet_criterion, small_retinanet

# With the box (0, 0, 40, 40): IoU 1, 0.5, 0.45 and 0.
ANCHORS = torch.tensor([[0.0, 0, 40, 40], [0, 0, 40, 20], [0, 0, 40, 18], [60, 60, 80, 80]])
BOX = torch.tensor([[0.0, 0, 40, 40]])
SIZES = torch.tensor([[100, 100]])


def by_hand(logits: Tensor) -> AnchorOutput:
    return AnchorOutput(logits[None], torch.zeros(1, len(ANCHORS), 4), (ANCHORS[:2], ANCHORS[2:]))


def focal(logit: float, is_class: bool) -> float:
    p = 1 / (1 + math.exp(-logit))
    return 0.25 * (1 - p) ** 2 * -math.log(p) if is_class else 0.75 * p**2 * -math.log(1 - p)


def test_losses_of_one_image_by_hand() -> None:
    logits = torch.tensor([[1.0, -2.0], [0.5, -1.0], [3.0, 3.0], [-3.0, 0.0]])
    targets = Targets.from_lists([BOX], [torch.tensor([1])])
    losses = retinanet_criterion()(by_hand(logits), targets, SIZES, (1,))
    # The third anchor is neither foreground nor background.
    expected = sum(focal(logits[a, k].item(), k == 1 and a < 2) for a in (0, 1, 3) for k in (0, 1))
    assert losses["loss_class"].item() == pytest.approx(expected / 2, rel=1e-5)
    # From the second anchor the box is half a height lower and twice as high.
    assert losses["loss_l1"].item() == pytest.approx((0.5 + math.log(2)) / 2, rel=1e-5)
    assert losses.total.item() == pytest.approx(expected / 2 + (0.5 + math.log(2)) / 2, rel=1e-5)


def test_weights_and_focal_settings() -> None:
    logits, targets = torch.randn(4, 2), Targets.from_lists([BOX], [torch.tensor([1])])
    plain = retinanet_criterion()(by_hand(logits), targets, SIZES, (1,))
    weighted = RetinaNetCriterion(0.5, 0.4, 3, 2, 0.25, 2)(by_hand(logits), targets, SIZES, (1,))
    torch.testing.assert_close(weighted.stacked(), plain.stacked() * torch.tensor([[3.0], [2.0]]))
    other = RetinaNetCriterion(0.5, 0.4, 1, 1, 0.5, 0)(by_hand(logits), targets, SIZES, (1,))
    wanted = torch.zeros(4, 2)
    wanted[:2, 1] = 1
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    assert other["loss_class"].item() == pytest.approx(0.5 * entropy[[0, 1, 3]].sum().item() / 2, rel=1e-5)


def test_the_best_anchor_of_a_box_is_foreground_however_bad() -> None:
    criterion = retinanet_criterion()
    targets = Targets.from_lists([torch.tensor([[0.0, 0, 40, 40], [60, 60, 66, 66]])], [torch.tensor([1, 0])])
    assert criterion.match(ANCHORS, targets).tolist() == [[0, 0, -2, 1]]


def test_rows_past_the_boxes_of_an_image_match_nothing() -> None:
    targets = Targets.from_lists([BOX, BOX[:0]], [torch.tensor([1]), torch.tensor([], dtype=torch.int64)])
    assert retinanet_criterion().match(ANCHORS, targets).tolist() == [[0, 0, -2, -1], [-1, -1, -1, -1]]


@pytest.mark.parametrize("num_classes", [1, 3])
def test_images_without_boxes_still_train_every_output(num_classes: int) -> None:
    # Distributed training waits for a gradient of every parameter.
    output = random_output(2, num_classes, [20, 5])
    targets = random_targets([0, 0], torch.tensor([[100, 100]] * 2), num_classes)
    losses = retinanet_criterion()(output, targets, SIZES.expand(2, 2), (2,))
    losses.total.backward()
    assert losses["loss_l1"].tolist() == [0]
    assert losses["loss_class"].item() == pytest.approx(
        sum(focal(x, False) for x in output.logits.flatten().tolist()) / 2, rel=1e-5
    )
    assert output.logits.grad is not None
    assert output.logits.grad.abs().sum() > 0
    assert output.deltas.grad is not None
    assert (output.deltas.grad == 0).all()


def test_counts() -> None:
    criterion = retinanet_criterion()
    assert criterion.counts(random_targets([3, 0], torch.tensor([[100, 100]] * 2), 2)) == (2,)
    assert criterion.counts(random_targets([], SIZES[:0], 4)) == (0,)


def test_a_step_does_not_depend_on_its_micro_batches() -> None:
    model, criterion = small_retinanet(), retinanet_criterion()
    images, sizes = images_of([(96, 128)] * 4)
    targets = random_targets([3, 0, 6, 1], sizes, 4)
    steps = []
    for size in (4, 2, 1):
        model.zero_grad()
        total = torch.zeros(2, 1)
        for i in range(0, 4, size):
            here = slice(i, i + size)
            part = Targets(targets.boxes_xyxy_abs[here], targets.labels[here], targets.num_per_image[here])
            losses = criterion(model(images[here], sizes[here]), part, sizes[here], (4,))
            losses.total.backward()
            total += losses.stacked()
        steps.append((total, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])))
    for total, gradient in steps[1:]:
        torch.testing.assert_close(total, steps[0][0], rtol=1e-5, atol=0)
        assert (gradient - steps[0][1]).norm() < 1e-5 * steps[0][1].norm()


def test_losses_are_float32_of_bfloat16_outputs() -> None:
    output = random_output(2, 3, [20, 5])
    targets = random_targets([3, 1], torch.tensor([[100, 100]] * 2), 3)
    half = replace(output, logits=output.logits.bfloat16(), deltas=output.deltas.bfloat16())
    whole = replace(half, logits=half.logits.float(), deltas=half.deltas.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = retinanet_criterion()(half, targets, SIZES, (2,))
    assert losses.stacked().dtype == torch.float32
    assert torch.equal(losses.stacked(), retinanet_criterion()(whole, targets, SIZES, (2,)).stacked())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"foreground_iou": 0.3}, "^foreground_iou must be at least background_iou, .* got 0.3 and 0.4$"),
        ({"background_iou": 0.0}, "both between 0 and 1, got 0.5 and 0.0$"),
        ({"l1_weight": -1.0}, "^l1_weight must be a finite number of at least 0, got -1.0$"),
        ({"focal_alpha": 2.0}, "^focal_alpha must be between 0 and 1, got 2.0$"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    settings = {
        "foreground_iou": 0.5,
        "background_iou": 0.4,
        "class_weight": 1.0,
        "l1_weight": 1.0,
        "focal_alpha": 0.25,
        "focal_gamma": 2.0,
    }
    with pytest.raises(ValueError, match=message):
        RetinaNetCriterion(**(settings | changes))
