"""torchvision's released Faster R-CNN on a feature pyramid, version 1: its architecture and tensors as ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sparse_rcnn.architecture import build
from sparse_rcnn.backbone_layouts import torchvision_depth
from sparse_rcnn.convert import PIXEL_MEAN, PIXEL_STD
from sparse_rcnn.errors import CheckpointError
from sparse_rcnn.norm_eps import COCO_V1_NORM_EPS, with_our_eps
from sparse_rcnn.state_dicts import misfits

_SIGNS = ("backbone.body.conv1.weight", "rpn.head.cls_logits.weight", "roi_heads.box_predictor.cls_score.weight")
_NOT_OURS = {
    "roi_heads.mask_": "a Mask R-CNN",
    "roi_heads.keypoint_": "a Keypoint R-CNN",
    "roi_heads.box_head.0.": "the version 2 of torchvision's model, whose pyramid and head have batch norm",
}
_PREDICTOR = "roi_heads.box_predictor."


def is_torchvision_faster_rcnn(state: Mapping[str, Any]) -> bool:
    """Whether a state dict has the names of torchvision's Faster R-CNN on a ResNet."""
    return all(name in state for name in _SIGNS)


def architecture_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The ``model`` description of a state dict of torchvision's ``fasterrcnn_resnet50_fpn``.

    Depth, widths and classes are read off; what leaves no trace in the tensors is as in torchvision's constructor, RoI
    pooling without the half-pixel shift and the strides of the anchors included. All outputs but the first, the
    background, are classes: those of the released file are the ids 1 to 90 of COCO, of which ten are not categories.

    Raises:
        CheckpointError: another kind of model; or names the first tensor that is missing or of an impossible shape.
    """
    for part, kind in _NOT_OURS.items():
        if any(name.startswith(part) for name in state):
            raise CheckpointError(f"not torchvision's fasterrcnn_resnet50_fpn: {kind} (tensors {part}*)")
    num_outputs, dim_fc = _shape(state, _PREDICTOR + "cls_score.weight", 2)
    num_anchors, hidden_dim, _, _ = _shape(state, "rpn.head.cls_logits.weight", 4)
    _, num_inputs = _shape(state, "roi_heads.box_head.fc6.weight", 2)
    if num_anchors != 3:
        raise CheckpointError(f"rpn.head.cls_logits.weight has {num_anchors} anchors per cell, 3 expected")
    return {
        "_target_": "sparse_rcnn.faster_rcnn.detector.FasterRCNN",
        "num_classes": num_outputs - 1,
        "backbone": {
            "_target_": "sparse_rcnn.faster_rcnn.backbone.PooledFPNBackbone",
            "hidden_dim": hidden_dim,
            "bottom_up": {
                "_target_": "sparse_rcnn.backbone.ResNet",
                "depth": torchvision_depth(state, "backbone.body."),
                "stride_in_1x1": False,
                "num_frozen_stages": 2,
            },
        },
        "rpn": {
            "_target_": "sparse_rcnn.faster_rcnn.proposal_network.ProposalNetwork",
            "hidden_dim": hidden_dim,
            "num_convs": 1,
            "anchors": {
                "_target_": "sparse_rcnn.faster_rcnn.anchors.StridedAnchors",
                "sizes": [32, 64, 128, 256, 512],
                "aspect_ratios": [0.5, 1.0, 2.0],
                "strides": None,
            },
            "object_iou": 0.7,
            "background_iou": 0.3,
            "num_sampled_anchors": 256,
            "object_fraction": 0.5,
            "num_pre_nms_training": 2000,
            "num_pre_nms_testing": 1000,
            "num_post_nms_training": 2000,
            "num_post_nms_testing": 1000,
            "nms_threshold": 0.7,
        },
        "roi_pooler": {
            "_target_": "sparse_rcnn.faster_rcnn.unaligned_pooler.UnalignedRoIAlign",
            "output_size": round((num_inputs / hidden_dim) ** 0.5),
            "sampling_ratio": 2,
        },
        "dim_fc": dim_fc,
        "roi_iou": 0.5,
        "num_sampled_rois": 512,
        "object_fraction": 0.25,
        "box_weights": [10.0, 10.0, 5.0, 5.0],
        "score_threshold": 0.05,
        "nms_threshold": 0.5,
        "max_detections": 100,
        "pixel_mean": PIXEL_MEAN,
        "pixel_std": PIXEL_STD,
    }


def to_ours(
    state: Mapping[str, Tensor], norm_eps: float = COCO_V1_NORM_EPS
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A state dict of torchvision's by our names, and the architecture that it holds.

    All outputs remain: class k is torchvision's label k + 1.

    Args:
        state: of version 1, in the layout of the released file or that of a model of today.
        norm_eps: of the batch norms that the weights were trained with. 0 is that of torchvision's released version 1,
            and leaves no trace in the tensors; 1e-5 is that of models that were not started from it. The norms'
            weights are scaled so that ours give the same numbers.

    Raises:
        CheckpointError: names the first tensors that are missing, surplus or of another shape.
    """
    architecture = architecture_of(state)
    with torch.device("meta"):
        wanted = build(architecture).state_dict()
    ours = {our_name(name): tensor for name, tensor in state.items() if not name.endswith(".num_batches_tracked")}
    if problems := misfits(wanted, ours):
        raise CheckpointError(f"not a checkpoint of torchvision's fasterrcnn_resnet50_fpn: {problems}")
    return with_our_eps(ours, norm_eps), architecture


def our_name(name: str) -> str:
    """Our name of one of torchvision's tensors, by its names of today or of the released file."""
    name = re.sub(r"^backbone\.body\.", "backbone.bottom_up.", name)
    name = re.sub(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$", r"\1.0.\2", name)
    return re.sub(r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1", name)


def _shape(state: Mapping[str, Tensor], name: str, num_dims: int) -> tuple[int, ...]:
    if name not in state:
        raise CheckpointError(f"not a checkpoint of torchvision's fasterrcnn_resnet50_fpn: tensor {name} is missing")
    shape = tuple(state[name].shape)
    if len(shape) != num_dims:
        raise CheckpointError(f"tensor {name} has shape {shape}, {num_dims} dimensions expected")
    return shape
