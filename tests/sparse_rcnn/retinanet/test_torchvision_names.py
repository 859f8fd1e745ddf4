"""torchvision's RetinaNet as a file: recognised, described, and detecting the same after conversion."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.ops import FrozenBatchNorm2d

from sparse_rcnn.architecture import build
from sparse_rcnn.checkpoint_files import load_checkpoint
from sparse_rcnn.data.coco_categories import COCO_CATEGORIES
from sparse_rcnn.errors import CheckpointError
from sparse_rcnn.norm_eps import NORM_EPS
from sparse_rcnn.retinanet.torchvision_names import (
    architecture_of,
    from_torchvision,
    is_torchvision_retinanet,
    num_outputs,
    to_ours,
)
from tests.support.detectors import images_of, random_targets, resnet
from tests.support.retinanet import retinanet_architecture, torchvision_inputs, torchvision_retinanet

State = dict[str, Tensor]
COCO_IDS = [category_id for category_id, _ in COCO_CATEGORIES]


def with_old_names(state: State) -> State:
    """The names that the released file has, which is older than torchvision's of today."""
    head = re.compile(r"(head\.\w+_head\.conv)\.(\d)\.0\.")
    old = {head.sub(lambda m: f"{m[1]}.{2 * int(m[2])}.", name): tensor for name, tensor in state.items()}
    return {re.sub(r"(_blocks\.\d)\.0\.", r"\1.", name): tensor for name, tensor in old.items()}


@pytest.fixture(scope="module")
def released() -> State:
    """What ``retinanet_resnet50_fpn`` is, on the meta device."""
    with torch.device("meta"):
        model = detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None)
    return {name: t for name, t in model.state_dict().items() if not name.endswith("num_batches_tracked")}


def test_the_architecture_of_the_released_file(released: State) -> None:
    assert is_torchvision_retinanet(released)
    assert num_outputs(released) == 91
    described = architecture_of(with_old_names(released), len(COCO_IDS))
    assert described == retinanet_architecture(
        num_classes=80,
        hidden_dim=256,
        anchor_sizes=[32, 64, 128, 256, 512],
        p6_source="p5",
        bottom_up=resnet(50),
    )
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in build(described).state_dict().items()}
    ours, _ = from_torchvision(with_old_names(released), COCO_IDS)
    assert {name: tensor.shape for name, tensor in ours.items()} == shapes


def test_the_anchors_are_those_of_torchvision() -> None:
    with torch.device("meta"):
        model = detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None)
        ours = build(architecture_of(model.state_dict(), 91))
    theirs = model.anchor_generator
    for i, sizes in enumerate(theirs.sizes):
        assert torch.equal(ours.anchors.get_buffer(f"cell_{i}"), theirs.generate_anchors(sizes, (0.5, 1.0, 2.0)))


@pytest.mark.parametrize("norm_eps", [0.0, NORM_EPS])
@pytest.mark.parametrize("names", [lambda state: state, with_old_names])
def test_a_saved_file_detects_as_torchvision_does(tmp_path: Path, names: Any, norm_eps: float) -> None:
    theirs = torchvision_retinanet(9, anchor_sizes=[32, 64, 128, 256, 512]).eval()
    for module in theirs.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.eps = norm_eps
            module.running_var[:4] = 1e-6  # where the difference is large
            module.weight[:4] *= 1e-3
    torch.save(names(theirs.state_dict()), tmp_path / "r.pth")
    kept = [1, 4, 8, 2]
    tensors, architecture = from_torchvision(load_checkpoint(tmp_path / "r.pth"), kept, norm_eps)
    ours = build(architecture).eval()
    ours.load_state_dict(tensors)
    images, sizes = images_of([(128, 250)])
    with torch.no_grad():
        output = ours(images, sizes)
        maps = list(theirs.backbone(ours.normalize(images, sizes)).values())
        wanted = theirs.head(maps)
    torch.testing.assert_close(output.logits, wanted["cls_logits"][..., kept], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.deltas, wanted["bbox_regression"], rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        (there,) = theirs(torchvision_inputs(images, sizes, random_targets([0], sizes, 1))[0])
    (here,) = ours.detections(output, sizes, sizes)
    best = [i for i, label in enumerate(there["labels"].tolist()) if label in kept][:5]
    assert here.labels[:5].tolist() == [kept.index(label) for label in there["labels"][best].tolist()]
    torch.testing.assert_close(here.boxes_xyxy_abs[:5], there["boxes"][best], rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(
    "make", [detection.fcos_resnet50_fpn, detection.fasterrcnn_resnet50_fpn, detection.ssdlite320_mobilenet_v3_large]
)
def test_other_detectors_are_not_taken_for_it(make: Any) -> None:
    with torch.device("meta"):
        model: nn.Module = make(weights=None, weights_backbone=None)
    assert not is_torchvision_retinanet(model.state_dict())


def test_the_second_version_is_refused() -> None:
    with torch.device("meta"):
        state = detection.retinanet_resnet50_fpn_v2(weights=None, weights_backbone=None).state_dict()
    assert is_torchvision_retinanet(state)
    with pytest.raises(CheckpointError, match=r"^a RetinaNet of torchvision's second version .* can be converted$"):
        architecture_of(state, 80)


def without(state: State, name: str) -> State:
    return {n: t for n, t in state.items() if n != name}


BOX_LAYER = "head.regression_head.bbox_reg.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "head.regression_head.bbox_reg.bias"), r"bbox_reg\.bias is missing$"),
        (lambda s: without(s, BOX_LAYER), r"tensor head\.regression_head\.bbox_reg\.weight is missing$"),
        (lambda s: s | {"extra": torch.empty(1)}, "extra is not part of the model$"),
        (lambda s: s | {BOX_LAYER: torch.empty(12, 256, 3, 3)}, r"has 12 rows: 9 anchors a cell are expected$"),
        (lambda s: s | {BOX_LAYER: torch.empty(36)}, r"has shape \(36,\), 4 dimensions expected$"),
        (lambda s: {n: t for n, t in s.items() if "layer3.1" not in n}, "the backbone is not a ResNet-18, 34, 50 or"),
    ],
)
def test_what_is_no_such_file(released: State, change: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        from_torchvision(change(released), COCO_IDS)


def test_a_class_without_an_output_is_named(released: State) -> None:
    with pytest.raises(CheckpointError, match=r"^the checkpoint has 91 outputs, none for class 91$"):
        to_ours(released, [1, 91], NORM_EPS)
