"""The cascade against plain loops over images and boxes, forward and backward."""

from __future__ import annotations

import pytest
import torch

from sparse_rcnn.cascade_rcnn.criterion import CascadeRCNNCriterion
from tests.support.cascade_rcnn import naive_detections, naive_losses, small_cascade_rcnn
from tests.support.detectors import images_of, random_targets, resnet
from tests.support.faster_rcnn import ALIGNED, GATHER

SIZES_HW = [(96, 150), (128, 100), (64, 64)]


@pytest.mark.parametrize("pooler", [ALIGNED, GATHER])
@pytest.mark.parametrize("counts", [[3, 0, 2], [9, 1, 0]])
def test_losses_and_gradients(counts: list[int], pooler: str) -> None:
    # Without group norm, whose own gradient is a small difference of large sums.
    model = small_cascade_rcnn(roi_pooler=pooler, num_sampled_rois=8, bottom_up=resnet(18)).train()
    for parameter in model.rpn.parameters():
        parameter.requires_grad_(False)  # whose losses torchvision's are compared with elsewhere
    for stage in model.stages:  # boxes near enough to those before to be objects at a higher IoU
        stage.box_predictor.bbox_pred.weight.data.mul_(0.2)  # type: ignore[union-attr, operator]
    images, sizes = images_of(SIZES_HW)
    targets = random_targets(counts, sizes, 4)
    criterion = CascadeRCNNCriterion(smooth_l1_beta=0.3)
    torch.manual_seed(4)
    output = model(images, sizes, targets)
    losses = criterion(output, targets, sizes, criterion.counts(targets))
    (losses["loss_class"].sum() + losses["loss_box"].sum()).backward()
    got = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)

    sampled = list(output.stages[0].boxes_xyxy_abs)
    class_losses, box_losses = naive_losses(model, images, sizes, targets, sampled, beta=0.3)
    assert losses["loss_class"].tolist() == pytest.approx([loss.item() for loss in class_losses], rel=1e-5)
    assert losses["loss_box"].tolist() == pytest.approx([loss.item() for loss in box_losses], rel=1e-5)
    assert min(losses["loss_box"].tolist()) > 0, "a stage without an object would compare nothing"
    torch.stack(class_losses + box_losses).sum().backward()
    wanted = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert got.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert (got[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


def test_detections() -> None:
    model = small_cascade_rcnn().eval()
    images, sizes = images_of(SIZES_HW)
    with torch.no_grad():
        output = model(images, sizes)
        found = model.detections(output, sizes, sizes)
        maps = model.backbone(model.normalize(images, sizes))
        for n, (h, w) in enumerate(sizes.tolist()):
            proposals = output.stages[0].boxes_xyxy_abs[n].tolist()
            wanted = naive_detections(model, [m[n : n + 1] for m in maps], proposals, (h, w))
            assert len(wanted) > 2
            assert found[n].labels.tolist() == [label for _, label, _ in wanted]
            torch.testing.assert_close(found[n].scores, torch.tensor([s for s, _, _ in wanted]), rtol=1e-5, atol=1e-6)
            boxes = torch.tensor([box for _, _, box in wanted])
            torch.testing.assert_close(found[n].boxes_xyxy_abs, boxes, rtol=1e-5, atol=1e-3)
