"""DETRs that build and run in milliseconds, and their criterion with the paper's weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparse_rcnn.architecture import build
from sparse_rcnn.detr.criterion import DETRCriterion
from sparse_rcnn.detr.detector import DETR
from sparse_rcnn.detr.matcher import SoftmaxMatcher
from sparse_rcnn.detr.output import QueryOutput
from tests.support.detectors import PIXEL_MEAN, PIXEL_STD

SMALL = {"_target_": "sparse_rcnn.backbone.SmallNet", "widths": [16, 16, 32, 32], "num_blocks": [0, 0, 1, 0]}


def resnet(depth: int) -> dict[str, Any]:
    return {
        "_target_": "sparse_rcnn.backbone.ResNet",
        "depth": depth,
        "stride_in_1x1": False,
        "num_frozen_stages": 2,
    }


def detr_architecture(
    num_classes: int = 4,
    num_queries: int = 6,
    hidden_dim: int = 16,
    num_heads: int = 2,
    num_layers: int = 2,
    dim_feedforward: int = 24,
    dropout: float = 0.0,
    with_position: bool = True,
    level: int = 5,
    dilation: bool = False,
    norm_first: bool = False,
    bottom_up: dict[str, Any] = SMALL,
) -> dict[str, Any]:
    """The description of a DETR, for ``sparse_rcnn.architecture.build``; small unless told otherwise."""
    return {
        "_target_": "sparse_rcnn.detr.detector.DETR",
        "num_classes": num_classes,
        "num_queries": num_queries,
        "with_position": with_position,
        "pixel_mean": PIXEL_MEAN,
        "pixel_std": PIXEL_STD,
        "backbone": {
            "_target_": "sparse_rcnn.detr.backbone.LastMapBackbone",
            "level": level,
            "dilation": dilation,
            "bottom_up": bottom_up,
        },
        "position_encoding": {
            "_target_": "sparse_rcnn.detr.sine_encoding.MaskSineEncoding",
            "hidden_dim": hidden_dim,
            "temperature": 10000.0,
        },
        "transformer": {
            "_target_": "sparse_rcnn.detr.transformer.Transformer",
            "hidden_dim": hidden_dim,
            "num_heads": num_heads,
            "num_encoder_layers": num_layers,
            "num_decoder_layers": num_layers,
            "dim_feedforward": dim_feedforward,
            "dropout": dropout,
            "activation": "relu",
            "norm_first": norm_first,
        },
    }


def small_detr(seed: int = 0, **changes: Any) -> DETR:
    torch.manual_seed(seed)
    model: DETR = build(detr_architecture(**changes))
    return model


def softmax_matcher() -> SoftmaxMatcher:
    return SoftmaxMatcher(class_cost=1, l1_cost=5, giou_cost=2)


def detr_criterion(num_queries: int = 6) -> DETRCriterion:
    return DETRCriterion(
        num_queries, softmax_matcher(), class_weight=1, l1_weight=5, giou_weight=2, no_object_weight=0.1
    )


def random_query_outputs(
    num_layers: int, num_images: int, num_queries: int, num_classes: int, seed: int = 0
) -> list[QueryOutput]:
    """Outputs of decoder layers as if a detector had made them, with gradients to be asked for."""
    generator = torch.Generator().manual_seed(seed)
    outputs = []
    for _ in range(num_layers):
        logits = torch.randn(num_images, num_queries, num_classes + 1, generator=generator)
        centre = 0.2 + 0.6 * torch.rand(num_images, num_queries, 2, generator=generator)
        size = 0.1 + 0.4 * torch.rand(num_images, num_queries, 2, generator=generator)
        outputs.append(QueryOutput(logits.requires_grad_(), torch.cat((centre, size), 2).requires_grad_()))
    return outputs


def stacked(outputs: Sequence[QueryOutput]) -> tuple[Tensor, Tensor]:
    """Logits (L, N, Q, K + 1) and boxes (L, N, Q, 4) of all layers, detached."""
    logits = torch.stack([o.logits for o in outputs]).detach()
    return logits, torch.stack([o.boxes_cxcywh_norm for o in outputs]).detach()
