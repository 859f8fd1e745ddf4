"""torchvision's state dict as ours: the same detections, all outputs, the layout of the released file."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import fasterrcnn_resnet50_fpn
from torchvision.models.detection._utils import overwrite_eps
from torchvision.ops import FrozenBatchNorm2d

from sparse_rcnn.architecture import build
from sparse_rcnn.errors import CheckpointError
from sparse_rcnn.faster_rcnn.torchvision_names import architecture_of, is_torchvision_faster_rcnn, to_ours
from tests.support.detectors import images_of

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def theirs() -> Any:
    """Of torchvision, with statistics and predictions that make a difference; its images are not resized."""
    torch.manual_seed(0)
    model: Any = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91)
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.BatchNorm2d):
            norm = FrozenBatchNorm2d(module.num_features)
            norm.running_var.uniform_(0.5, 2.0)
            norm.running_mean.uniform_(-0.1, 0.1)
            norm.weight.fill_(0.5)
            model.get_submodule(name.rpartition(".")[0]).register_module(name.rpartition(".")[2], norm)
    with torch.no_grad():
        model.rpn.head.bbox_pred.weight.normal_(std=0.05)
        model.rpn.head.cls_logits.weight.normal_(std=0.05)
        model.roi_heads.box_predictor.cls_score.weight.normal_(std=1.0)
    model.transform.resize = lambda image, target: (image, target)
    return model.eval()


@pytest.mark.parametrize("eps", [0.0, 1e-5])
def test_detections_are_torchvisions(theirs: Any, eps: float) -> None:
    overwrite_eps(theirs, eps)
    state, architecture = to_ours(theirs.state_dict(), norm_eps=eps)
    ours = build(architecture)
    ours.load_state_dict(state)
    images, sizes = images_of([(96, 140), (130, 120)])
    with torch.no_grad():
        found = ours.eval().detections(ours(images, sizes), sizes, sizes)
        pictures = [image[:, :h, :w].float() / 255 for image, (h, w) in zip(images, sizes.tolist(), strict=True)]
        wanted = theirs(pictures)
    for mine, reference in zip(found, wanted, strict=True):
        assert len(mine) > 5
        assert torch.equal(mine.labels + 1, reference["labels"])
        torch.testing.assert_close(mine.scores, reference["scores"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mine.boxes_xyxy_abs, reference["boxes"], rtol=1e-4, atol=1e-3)


def released_names(state: State) -> State:
    """As the released file names them: it is older than the layers of convolution, norm and activation."""
    old = {}
    for name, tensor in state.items():
        name = re.sub(r"^(backbone\.fpn\.\w+_blocks\.\d)\.0\.", r"\1.", name)
        old[name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")] = tensor
    return old


def test_both_layouts_are_the_same(theirs: Any) -> None:
    state = theirs.state_dict()
    old = released_names(state)
    assert "rpn.head.conv.weight" in old
    assert "backbone.fpn.inner_blocks.0.weight" in old
    assert is_torchvision_faster_rcnn(old)
    (new_state, new_architecture), (old_state, old_architecture) = to_ours(state), to_ours(old)
    assert new_architecture == old_architecture
    assert new_state.keys() == old_state.keys()
    assert all(torch.equal(tensor, old_state[name]) for name, tensor in new_state.items())


def test_all_outputs_but_the_background_are_classes(theirs: Any) -> None:
    state = dict(theirs.state_dict())
    for name in list(state):
        if "box_predictor" in name:
            state[name] = state[name][: 12 if "bbox_pred" in name else 3]
    assert to_ours(state)[1]["num_classes"] == 2
    assert architecture_of(theirs.state_dict())["num_classes"] == 90


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("roi_heads.mask_head.mask_fcn1.weight", "a Mask R-CNN"),
        ("roi_heads.box_head.0.0.weight", "the version 2 of torchvision's model"),
        ("head.weight", "head.weight is not part of the model"),
    ],
)
def test_other_models_are_refused(theirs: Any, extra: str, message: str) -> None:
    state = {**theirs.state_dict(), extra: torch.empty(1)}
    assert is_torchvision_faster_rcnn(state)
    with pytest.raises(CheckpointError, match=message):
        to_ours(state)


def test_missing_tensors_are_named(theirs: Any) -> None:
    state = {n: t for n, t in theirs.state_dict().items() if n != "roi_heads.box_head.fc7.bias"}
    with pytest.raises(CheckpointError, match=r"roi_heads\.box_head\.fc7\.bias is missing"):
        to_ours(state)
    assert not is_torchvision_faster_rcnn({"backbone.body.conv1.weight": 0})
