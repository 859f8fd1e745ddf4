"""Faster R-CNNs that build and run in milliseconds, and torchvision's own with the same weights."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator

from sparse_rcnn.architecture import build
from sparse_rcnn.faster_rcnn.detector import FasterRCNN
from tests.support.detectors import PIXEL_MEAN, PIXEL_STD

SMALL = {"_target_": "sparse_rcnn.backbone.SmallNet", "widths": [16, 16, 32, 32], "num_blocks": [0, 0, 1, 0]}
ALIGNED = "sparse_rcnn.roi_pooler.MultiLevelRoIAlign"
GATHER = "sparse_rcnn.roi_pooler.GatherRoIAlign"
UNALIGNED = "sparse_rcnn.faster_rcnn.unaligned_pooler.UnalignedRoIAlign"
SIZES = [12, 24, 48, 64, 96]  # of anchors
STRIDES = [4, 8, 16, 32, 64]


def on_proposals(
    bottom_up: dict[str, Any] = SMALL,
    hidden_dim: int = 16,
    num_classes: int = 4,
    roi_pooler: str = ALIGNED,
    strides: list[int] | None = STRIDES,
    num_sampled_rois: int = 16,
    num_post_nms_training: int = 40,
) -> dict[str, Any]:
    """The arguments that detectors on proposals share, for ``sparse_rcnn.architecture.build``."""
    return {
        "num_classes": num_classes,
        "backbone": {
            "_target_": "sparse_rcnn.faster_rcnn.backbone.PooledFPNBackbone",
            "hidden_dim": hidden_dim,
            "bottom_up": bottom_up,
        },
        "rpn": {
            "_target_": "sparse_rcnn.faster_rcnn.proposal_network.ProposalNetwork",
            "hidden_dim": hidden_dim,
            "num_convs": 1,
            "anchors": {
                "_target_": "sparse_rcnn.faster_rcnn.anchors.StridedAnchors",
                "sizes": SIZES,
                "aspect_ratios": [0.5, 1.0, 2.0],
                "strides": strides,
            },
            "object_iou": 0.7,
            "background_iou": 0.3,
            "num_sampled_anchors": 24,
            "object_fraction": 0.5,
            "num_pre_nms_training": 60,
            "num_pre_nms_testing": 30,
            "num_post_nms_training": num_post_nms_training,
            "num_post_nms_testing": 20,
            "nms_threshold": 0.7,
        },
        "roi_pooler": {"_target_": roi_pooler, "output_size": 7, "sampling_ratio": 2},
        "dim_fc": 24,
        "num_sampled_rois": num_sampled_rois,
        "object_fraction": 0.25,
        "score_threshold": 0.05,
        "nms_threshold": 0.5,
        "max_detections": 10,
        "pixel_mean": PIXEL_MEAN,
        "pixel_std": PIXEL_STD,
    }


def faster_rcnn_architecture(**changes: Any) -> dict[str, Any]:
    return {
        "_target_": "sparse_rcnn.faster_rcnn.detector.FasterRCNN",
        "roi_iou": 0.5,
        "box_weights": [10.0, 10.0, 5.0, 5.0],
        **on_proposals(**changes),
    }


def small_faster_rcnn(seed: int = 0, **changes: Any) -> FasterRCNN:
    """With predictions that differ: those of a new detector are nearly equal, and an exchange would not be seen."""
    torch.manual_seed(seed)
    model: FasterRCNN = build(faster_rcnn_architecture(**changes))
    return spread_predictions(model)


def spread_predictions(model: Any) -> Any:
    with torch.no_grad():
        model.rpn.head.cls_logits.weight.normal_(std=0.3)
        model.rpn.head.bbox_pred.weight.normal_(std=0.1)
        for name, parameter in model.named_parameters():
            if "box_predictor.cls_score.weight" in name:
                parameter.normal_(std=0.5)
            if "box_predictor.bbox_pred.weight" in name:
                parameter.normal_(std=0.3)
    return model


class _NamedMaps(nn.Module):
    """A backbone as torchvision's detectors take it."""

    def __init__(self, backbone: nn.Module, out_channels: int) -> None:
        super().__init__()
        self.backbone, self.out_channels = backbone, out_channels

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        return OrderedDict(zip(("0", "1", "2", "3", "pool"), self.backbone(images), strict=True))


def torchvision_model(ours: FasterRCNN, architecture: dict[str, Any]) -> TorchvisionFasterRCNN:
    """torchvision's detector with the numbers of an architecture and copies of our modules."""
    rpn = architecture["rpn"]
    backbone = copy.deepcopy(ours.backbone)
    theirs = TorchvisionFasterRCNN(
        _NamedMaps(backbone, backbone.hidden_dim),
        num_classes=None,
        rpn_anchor_generator=AnchorGenerator(tuple((s,) for s in SIZES), ((0.5, 1.0, 2.0),) * len(SIZES)),
        rpn_head=copy.deepcopy(ours.rpn.head),
        rpn_pre_nms_top_n_train=rpn["num_pre_nms_training"],
        rpn_pre_nms_top_n_test=rpn["num_pre_nms_testing"],
        rpn_post_nms_top_n_train=rpn["num_post_nms_training"],
        rpn_post_nms_top_n_test=rpn["num_post_nms_testing"],
        rpn_batch_size_per_image=rpn["num_sampled_anchors"],
        box_head=copy.deepcopy(ours.roi_heads.box_head),
        box_predictor=copy.deepcopy(ours.roi_heads.box_predictor),
        box_batch_size_per_image=architecture["num_sampled_rois"],
        box_detections_per_img=architecture["max_detections"],
        box_score_thresh=architecture["score_threshold"],
    )
    theirs.transform.resize = lambda image, target: (image, target)
    return theirs.train(ours.training)
