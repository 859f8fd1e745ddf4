"""Against torchvision's own RetinaNet, with the same weights: losses, gradients and detections."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sparse_rcnn.norm_eps import NORM_EPS
from sparse_rcnn.retinanet.detector import RetinaNet
from sparse_rcnn.retinanet.torchvision_names import our_name, to_ours
from tests.support.detectors import images_of, random_targets, resnet
from tests.support.engine import relative_difference
from tests.support.retinanet import (
    retinanet_criterion,
    small_retinanet,
    torchvision_inputs,
    torchvision_retinanet,
)

NUM_CLASSES = 5
SIZES = [(128, 250), (117, 200), (100, 256)]  # padded to 128 x 256, where torchvision's anchors are on their cells


@pytest.fixture(scope="module", params=["p5", "res5"])
def both(request: pytest.FixtureRequest) -> tuple[RetinaNet, nn.Module]:
    theirs = torchvision_retinanet(NUM_CLASSES, p6_source=request.param)
    ours = small_retinanet(
        num_classes=NUM_CLASSES, hidden_dim=32, p6_source=request.param, bottom_up=resnet(18), drawn=False
    )
    ours.load_state_dict(to_ours(theirs.state_dict(), range(NUM_CLASSES), NORM_EPS))
    return ours, theirs


def gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {our_name(name): p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("counts", [[3, 1, 6], [2, 0, 9], [0, 0, 0]])
def test_losses_and_gradients(both: tuple[RetinaNet, nn.Module], counts: list[int]) -> None:
    ours, theirs = (model.train() for model in both)
    images, sizes = images_of(SIZES)
    targets = random_targets(counts, sizes, NUM_CLASSES)
    criterion = retinanet_criterion()
    losses = criterion(ours(images, sizes, targets), targets, sizes, criterion.counts(targets))
    losses.total.backward()
    wanted = theirs(*torchvision_inputs(images, sizes, targets))
    sum(wanted.values()).backward()
    assert losses["loss_class"].item() == pytest.approx(wanted["classification"].item(), rel=1e-6)
    assert losses["loss_l1"].item() == pytest.approx(wanted["bbox_regression"].item(), rel=1e-6)
    assert (losses["loss_l1"].item() > 0) == (sum(counts) > 0)
    assert relative_difference(gradients(ours), gradients(theirs)) < 1e-6


def test_detections(both: tuple[RetinaNet, nn.Module]) -> None:
    ours, theirs = (model.eval() for model in both)
    images, sizes = images_of(SIZES)
    with torch.no_grad():
        found = ours.detections(ours(images, sizes), sizes, 2 * sizes)
        wanted = theirs(torchvision_inputs(images, sizes, random_targets([0, 0, 0], sizes, 1))[0])
    for here, there in zip(found, wanted, strict=True):
        kept = (there["boxes"][:, 2:] > there["boxes"][:, :2]).all(1)  # ours are without those that are empty
        assert 10 < len(here) == kept.sum()
        assert torch.equal(here.labels, there["labels"][kept])
        # Measured: 1e-7 to 2e-6 by processor; ours has the frozen norm within the convolution.
        torch.testing.assert_close(here.scores, there["scores"][kept], rtol=1e-5, atol=0)
        torch.testing.assert_close(here.boxes_xyxy_abs, 2 * there["boxes"][kept], rtol=1e-6, atol=1e-5)
