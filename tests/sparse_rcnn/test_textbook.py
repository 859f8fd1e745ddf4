"""The detector and its loss against a textbook's, forward and backward."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import FrozenBatchNorm2d

from sparse_rcnn.architecture import build
from tests.support.detectors import architecture, images_of, paper_criterion, random_targets, resnet
from tests.support.textbook import Textbook, textbook_loss

SIZES = [(64, 96), (64, 96)]


def test_outputs_losses_and_gradients_are_the_textbooks() -> None:
    torch.manual_seed(0)
    model = build(architecture(bottom_up=resnet(50))).eval()
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.running_var.uniform_(0.5, 1.5)
            module.bias.uniform_(-0.5, 0.5)
    with torch.no_grad():
        for stage in model.stages:  # else every box stays the image
            stage.reg_tower.last.weight.normal_(0, 0.3)
    images, sizes = images_of(SIZES)
    targets = random_targets([3, 2], sizes, 4)
    parameters = [p for p in model.parameters() if p.requires_grad]

    def result(textbook: bool) -> tuple[list[Tensor], Tensor, list[Tensor]]:
        outputs = Textbook(model).forward(images, sizes) if textbook else model(images, sizes)
        loss = (
            textbook_loss(outputs, targets, sizes)
            if textbook
            else paper_criterion()(outputs, targets, sizes, (targets.num_boxes,)).total
        )
        tensors = [tensor for o in outputs for tensor in (o.logits, o.boxes_xyxy_abs)]
        return tensors, loss, list(torch.autograd.grad(loss, parameters))

    (ours, loss, gradients), (theirs, their_loss, their_gradients) = result(False), result(True)
    for a, b in zip(ours, theirs, strict=True):
        # Three stages of large random deltas blow rounding up: 1e-3 to 3e-3 pixels by processor.
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(loss, their_loss, rtol=1e-5, atol=1e-5)
    for a, b in zip(gradients, their_gradients, strict=True):
        assert float((a - b).norm()) <= 5e-3 * max(float(b.norm()), 1e-4), "but for ReLUs that flip"
