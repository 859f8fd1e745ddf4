"""The same losses, gradients and detections as torchvision's own forward pass, weights and random state being equal."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sparse_rcnn.faster_rcnn.criterion import FasterRCNNCriterion
from sparse_rcnn.structures import Targets
from tests.support.detectors import images_of, random_targets, resnet
from tests.support.faster_rcnn import UNALIGNED, faster_rcnn_architecture, small_faster_rcnn, torchvision_model

SIZES_HW = [(96, 150), (128, 100), (110, 128)]
PARTS = {
    "loss_objectness": "loss_objectness",
    "loss_rpn_box": "loss_rpn_box_reg",
    "loss_class": "loss_classifier",
    "loss_box": "loss_box_reg",
}


def as_torchvision_takes_it(images: Tensor, sizes: Tensor, targets: Targets) -> tuple[list[Tensor], list[Any]]:
    pictures = [image[:, :h, :w].float() / 255 for image, (h, w) in zip(images, sizes.tolist(), strict=True)]
    truth = [
        {"boxes": targets.boxes_xyxy_abs[i, :n], "labels": targets.labels[i, :n] + 1}
        for i, n in enumerate(targets.num_per_image)
    ]
    return pictures, truth


def by_torchvision_names(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    return {("backbone." + name if name.startswith("backbone.") else name): g for name, g in gradients.items()}


@pytest.mark.parametrize(
    "changes", [{}, {"num_classes": 1}, {"bottom_up": resnet(18)}], ids=["small", "one class", "resnet18"]
)
@pytest.mark.parametrize("counts", [[3, 0, 2], [30, 1, 0], [0, 0, 0]], ids=["some", "more than samples", "none"])
def test_losses_and_gradients(changes: dict[str, Any], counts: list[int]) -> None:
    changes = {"roi_pooler": UNALIGNED, "strides": None, **changes}
    ours = small_faster_rcnn(**changes).train()
    theirs = torchvision_model(ours, faster_rcnn_architecture(**changes))
    images, sizes = images_of(SIZES_HW)
    targets = random_targets(counts, sizes, ours.num_classes)
    torch.manual_seed(5)
    wanted = theirs(*as_torchvision_takes_it(images, sizes, targets))
    sum(wanted.values()).backward()
    torch.manual_seed(5)
    criterion = FasterRCNNCriterion(smooth_l1_beta=1 / 9)
    losses = criterion(ours(images, sizes, targets), targets, sizes, criterion.counts(targets))
    losses.total.backward()
    for part, name in PARTS.items():
        assert losses[part].item() == pytest.approx(wanted[name].item(), rel=1e-6), part
    got = by_torchvision_names({n: p.grad for n, p in ours.named_parameters() if p.grad is not None})
    reference = {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    assert got.keys() == reference.keys()
    for name, gradient in reference.items():
        assert (got[name] - gradient).norm() <= 1e-6 * gradient.norm(), name


@pytest.mark.parametrize("changes", [{}, {"num_classes": 1}])
def test_detections(changes: dict[str, Any]) -> None:
    changes = {"roi_pooler": UNALIGNED, "strides": None, **changes}
    ours = small_faster_rcnn(**changes).eval()
    theirs = torchvision_model(ours, faster_rcnn_architecture(**changes))
    images, sizes = images_of(SIZES_HW)
    with torch.no_grad():
        found = ours.detections(ours(images, sizes), sizes, sizes)
        wanted = theirs(as_torchvision_takes_it(images, sizes, random_targets([0, 0, 0], sizes, 4))[0])
    for mine, reference in zip(found, wanted, strict=True):
        assert len(mine) > 2
        assert torch.equal(mine.labels + 1, reference["labels"])
        torch.testing.assert_close(mine.scores, reference["scores"], rtol=1e-6, atol=0)
        torch.testing.assert_close(mine.boxes_xyxy_abs, reference["boxes"], rtol=1e-6, atol=1e-5)


def test_fixed_strides_are_torchvisions_where_those_are_whole() -> None:
    images, sizes = images_of([(128, 192)])
    outputs = [small_faster_rcnn(strides=strides).eval()(images, sizes) for strides in (None, [4, 8, 16, 32, 64])]
    assert torch.equal(outputs[0].rois.logits, outputs[1].rois.logits)
