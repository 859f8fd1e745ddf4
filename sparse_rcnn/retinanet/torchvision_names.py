"""torchvision's checkpoints of its first RetinaNet (``retinanet_resnet50_fpn``): the architecture, and our names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sparse_rcnn.architecture import build
from sparse_rcnn.backbone_layouts import torchvision_depth
from sparse_rcnn.convert import PIXEL_MEAN, PIXEL_STD
from sparse_rcnn.errors import CheckpointError
from sparse_rcnn.norm_eps import COCO_V1_NORM_EPS, with_our_eps
from sparse_rcnn.state_dicts import misfits

CLASS_LAYER = "head.classification_head.cls_logits"
BOX_LAYER = "head.regression_head.bbox_reg"
BODY = "backbone.body."
OUR_BODY = "backbone.bottom_up."
PYRAMID = "backbone.fpn."
OUR_PYRAMID = "backbone.pyramid."
P6 = f"{PYRAMID}extra_blocks.p6.weight"
NUM_ANCHORS = 9  # of a cell: 3 sizes x 3 aspect ratios
_WHAT = "not a RetinaNet of torchvision"


def is_torchvision_retinanet(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict is of torchvision's RetinaNet, either version; its FCOS and SSD are not."""
    needed = {f"{CLASS_LAYER}.weight", f"{BOX_LAYER}.weight", f"{BODY}conv1.weight"}
    return needed <= state.keys() and not any("bbox_ctrness" in name for name in state)


def architecture_of(state: Mapping[str, Tensor], num_classes: int) -> dict[str, Any]:
    """The ``model`` description of a state dict by torchvision's names.

    Depth, width and the source of p6 are read off. What leaves no trace in the tensors is as in torchvision: anchors,
    the stride on the 3x3, thresholds; but 100 detections of an image, as COCO counts them, where torchvision keeps 300.

    Args:
        num_classes: that are kept of its outputs.

    Raises:
        CheckpointError: a RetinaNet of the second version or with other anchors; names the tensor.
    """
    if "head.classification_head.conv.0.1.weight" in state:
        raise CheckpointError(
            "a RetinaNet of torchvision's second version (retinanet_resnet50_fpn_v2), whose head has group norms: "
            "the first, retinanet_resnet50_fpn, can be converted"
        )
    box_rows, hidden_dim, *_ = _shape(state, f"{BOX_LAYER}.weight")
    if box_rows != 4 * NUM_ANCHORS:
        raise CheckpointError(f"{BOX_LAYER}.weight has {box_rows} rows: {NUM_ANCHORS} anchors a cell are expected")
    p6_channels = _shape(state, P6)[1]
    return {
        "_target_": "sparse_rcnn.retinanet.detector.RetinaNet",
        "num_classes": num_classes,
        "anchor_sizes": [32, 64, 128, 256, 512],
        "num_scales": 3,
        "aspect_ratios": [0.5, 1.0, 2.0],
        "prior_probability": 0.01,
        "tower_weight_std": 0.01,
        "score_threshold": 0.05,
        "num_candidates": 1000,
        "nms_threshold": 0.5,
        "max_detections": 100,
        "pixel_mean": PIXEL_MEAN,
        "pixel_std": PIXEL_STD,
        "backbone": {
            "_target_": "sparse_rcnn.retinanet.backbone.RetinaNetBackbone",
            "hidden_dim": hidden_dim,
            "p6_source": "p5" if p6_channels == hidden_dim else "res5",
            "bottom_up": {
                "_target_": "sparse_rcnn.backbone.ResNet",
                "depth": torchvision_depth(state, BODY),
                "stride_in_1x1": False,
                "num_frozen_stages": 2,
            },
        },
    }


def num_outputs(state: Mapping[str, Tensor]) -> int:
    """Classes that a state dict by torchvision's names has logits for: 91 for COCO, one for each category id."""
    return _shape(state, f"{CLASS_LAYER}.weight")[0] // NUM_ANCHORS


def to_ours(state: Mapping[str, Tensor], keep_classes: Sequence[int], norm_eps: float) -> dict[str, Tensor]:
    """A state dict by torchvision's names as one by ours, whose class k is class ``keep_classes[k]`` of the given one.

    Args:
        keep_classes: for COCO the category ids, which are the indices of the outputs.
        norm_eps: of the batch norms of the given model, which leaves no trace in it: 0 for the weights COCO_V1 and what
            was fine-tuned from them (``COCO_V1_NORM_EPS``), else torchvision's default, 1e-5. The weights of the norms
            make up for the difference from ours.

    Raises:
        CheckpointError: names the first tensors that are missing, surplus or of another shape, or a class.
    """
    architecture = architecture_of(state, num_classes := num_outputs(state))
    with torch.device("meta"):
        wanted = build(architecture).state_dict()
    ours = {our_name(name): tensor for name, tensor in state.items() if not name.endswith(".num_batches_tracked")}
    if problems := misfits(wanted, ours):
        raise CheckpointError(f"{_WHAT}: {problems}")
    if beyond := [k for k in keep_classes if not 0 <= k < num_classes]:
        raise CheckpointError(f"the checkpoint has {num_classes} outputs, none for class {beyond[0]}")
    rows = torch.tensor([anchor * num_classes + k for anchor in range(NUM_ANCHORS) for k in keep_classes])
    for leaf in ("weight", "bias"):
        ours[f"{CLASS_LAYER}.{leaf}"] = ours[f"{CLASS_LAYER}.{leaf}"][rows]
    return with_our_eps(ours, norm_eps)


def from_torchvision(
    state: Mapping[str, Tensor], keep_classes: Sequence[int], norm_eps: float = COCO_V1_NORM_EPS
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A state dict by our names and the architecture that it holds; arguments and errors as ``to_ours``."""
    return to_ours(state, keep_classes, norm_eps), architecture_of(state, len(keep_classes))


def our_name(name: str) -> str:
    """The name in ``RetinaNet`` of a tensor of torchvision's.

    The released file is older than torchvision's names of today, which have the convolutions of the head and of the
    pyramid within a block each: ``conv.2.weight`` became ``conv.1.0.weight``, ``inner_blocks.0.weight`` became
    ``inner_blocks.0.0.weight``.
    """
    if name.startswith(BODY):
        return OUR_BODY + name.removeprefix(BODY)
    if match := re.fullmatch(r"(head\.\w+_head\.conv)\.(\d+)\.(weight|bias)", name):
        return f"{match[1]}.{int(match[2]) // 2}.0.{match[3]}"
    if name.startswith(PYRAMID):
        name = OUR_PYRAMID + name.removeprefix(PYRAMID)
        match = re.fullmatch(r"(.*(?:inner|layer)_blocks\.\d+)\.(weight|bias)", name)
        return f"{match[1]}.0.{match[2]}" if match else name
    return name


def _shape(state: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    if name not in state:
        raise CheckpointError(f"{_WHAT}: tensor {name} is missing")
    shape = tuple(state[name].shape)
    if len(shape) != 4:
        raise CheckpointError(f"{_WHAT}: tensor {name} has shape {shape}, 4 dimensions expected")
    return shape
