"""RetinaNets that build and run in milliseconds, torchvision's own, and the post-processing again in plain loops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from sparse_rcnn.architecture import build
from sparse_rcnn.model_card import ModelCard
from sparse_rcnn.retinanet.criterion import RetinaNetCriterion
from sparse_rcnn.retinanet.detector import RetinaNet
from sparse_rcnn.retinanet.output import AnchorOutput
from sparse_rcnn.structures import Targets
from tests.support.detectors import PIXEL_MEAN, PIXEL_STD

SMALL = {"_target_": "sparse_rcnn.backbone.SmallNet", "widths": [16, 16, 32, 32], "num_blocks": [0, 0, 1, 0]}
SIZES = [16, 32, 64, 128, 256]


def retinanet_architecture(
    num_classes: int = 4,
    hidden_dim: int = 16,
    anchor_sizes: Sequence[float] = SIZES,
    num_scales: int = 3,
    p6_source: str = "res5",
    bottom_up: dict[str, Any] = SMALL,
    **changes: Any,
) -> dict[str, Any]:
    """The description of a RetinaNet, for ``sparse_rcnn.architecture.build``; small unless told otherwise."""
    return {
        "_target_": "sparse_rcnn.retinanet.detector.RetinaNet",
        "num_classes": num_classes,
        "backbone": {
            "_target_": "sparse_rcnn.retinanet.backbone.RetinaNetBackbone",
            "hidden_dim": hidden_dim,
            "p6_source": p6_source,
            "bottom_up": bottom_up,
        },
        "anchor_sizes": list(anchor_sizes),
        "num_scales": num_scales,
        "aspect_ratios": [0.5, 1.0, 2.0],
        "prior_probability": 0.01,
        "score_threshold": 0.05,
        "num_candidates": 1000,
        "nms_threshold": 0.5,
        "max_detections": 100,
        "pixel_mean": PIXEL_MEAN,
        "pixel_std": PIXEL_STD,
        **changes,
    }


def small_retinanet(seed: int = 0, drawn: bool = True, **changes: Any) -> RetinaNet:
    """A small detector; where ``drawn``, with a head whose scores and boxes differ, as after some training."""
    torch.manual_seed(seed)
    model: RetinaNet = build(retinanet_architecture(**changes))
    if drawn:
        draw_head(model.head)
    return model


def draw_head(head: nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            if name.endswith("weight"):
                parameter.normal_(std=math.sqrt(2 / parameter[0].numel()))
        head.get_submodule("classification_head.cls_logits").bias.fill_(-3.0)
        head.get_submodule("regression_head.bbox_reg").weight.mul_(0.1)


def retinanet_card(names: Sequence[str], **changes: Any) -> ModelCard:
    """What a weights file says of a small RetinaNet of these classes."""
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(names)]
    return ModelCard(retinanet_architecture(num_classes=len(names), **changes), categories, 64, 96)


def retinanet_criterion() -> RetinaNetCriterion:
    return RetinaNetCriterion(
        foreground_iou=0.5, background_iou=0.4, class_weight=1, l1_weight=1, focal_alpha=0.25, focal_gamma=2
    )


class PaddingAlone(GeneralizedRCNNTransform):
    """torchvision's transform without its resizing."""

    def resize(self, image: Tensor, target: Any = None) -> tuple[Tensor, Any]:
        return image, target


def torchvision_retinanet(
    num_classes: int = 5, seed: int = 0, p6_source: str = "p5", anchor_sizes: Sequence[int] = SIZES
) -> TorchvisionRetinaNet:
    """torchvision's own detector on a narrow ResNet-18 pyramid, which pads images and does not resize them."""
    torch.manual_seed(seed)
    body = resnet.resnet18(weights=None, norm_layer=FrozenBatchNorm2d)
    for frozen in (body.conv1, body.layer1):
        frozen.requires_grad_(False)
    with torch.no_grad():
        for module in body.modules():  # or the residuals grow from block to block
            if isinstance(module, FrozenBatchNorm2d):
                module.weight.uniform_(0.3, 0.6)
                module.running_var.uniform_(0.5, 1.5)
                module.running_mean.normal_(std=0.1)
    width = 32
    backbone = BackboneWithFPN(
        body,
        {"layer2": "0", "layer3": "1", "layer4": "2"},
        [128, 256, 512],
        width,
        extra_blocks=LastLevelP6P7(width if p6_source == "p5" else 512, width),
    )
    sizes = tuple((x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in anchor_sizes)
    model = TorchvisionRetinaNet(
        backbone,
        num_classes,
        anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5),
        detections_per_img=100,
    )
    model.transform = PaddingAlone(800, 1333, PIXEL_MEAN, PIXEL_STD)
    draw_head(model.head)
    return model


def torchvision_inputs(images: Tensor, sizes_hw: Tensor, targets: Targets) -> tuple[list[Tensor], list[dict[str, Any]]]:
    """A padded batch as the lists that torchvision takes."""
    unpadded = [image[:, :h, :w].float() for image, (h, w) in zip(images, sizes_hw.tolist(), strict=True)]
    rows = [
        {"boxes": targets.boxes_xyxy_abs[i, :count], "labels": targets.labels[i, :count]}
        for i, count in enumerate(targets.num_per_image)
    ]
    return unpadded, rows


def random_output(num_images: int, num_classes: int, num_per_level: Sequence[int], seed: int = 0) -> AnchorOutput:
    """An output with anchors anywhere within 100 pixels, with gradients to be asked for."""
    generator = torch.Generator().manual_seed(seed)
    anchors = []
    for count in num_per_level:
        corner = 70 * torch.rand(count, 2, generator=generator)
        anchors.append(torch.cat((corner, corner + 8 + 40 * torch.rand(count, 2, generator=generator)), 1))
    shape = (num_images, sum(num_per_level))
    logits = 2 * torch.randn(*shape, num_classes, generator=generator) - 1
    deltas = 0.3 * torch.randn(*shape, 4, generator=generator)
    return AnchorOutput(logits.requires_grad_(), deltas.requires_grad_(), tuple(anchors))


Row = tuple[float, int, tuple[float, float, float, float]]


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h
    return w * h / union if union > 0 else 0.0


def naive_detections(
    output: AnchorOutput,
    image: int,
    size_hw: Sequence[float],
    original_hw: Sequence[float],
    score_threshold: float,
    num_candidates: int,
    nms_threshold: float,
    max_detections: int,
) -> list[Row]:
    """Score, label and box of the detections of one image, best first."""
    candidates: list[Row] = []
    start = 0
    for anchors in output.level_anchors_xyxy_abs:
        level: list[Row] = []
        for a, (x1, y1, x2, y2) in enumerate(anchors.tolist()):
            dx, dy, dw, dh = output.deltas[image, start + a].tolist()
            w, h = x2 - x1, y2 - y1
            cx, cy = x1 + w / 2 + dx * w, y1 + h / 2 + dy * h
            w, h = w * math.exp(min(dw, math.log(1000 / 16))), h * math.exp(min(dh, math.log(1000 / 16)))
            corners = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
            limits = (size_hw[1], size_hw[0], size_hw[1], size_hw[0])
            box = tuple(min(max(c, 0.0), limit) for c, limit in zip(corners, limits, strict=True))
            for label, logit in enumerate(output.logits[image, start + a].tolist()):
                score = 1 / (1 + math.exp(-logit))
                if score > score_threshold:
                    level.append((score, label, box))  # type: ignore[arg-type]
        start += len(anchors)
        candidates += sorted(level, reverse=True)[:num_candidates]
    kept: list[Row] = []
    for candidate in sorted(candidates, reverse=True):
        if all(k[1] != candidate[1] or iou(k[2], candidate[2]) <= nms_threshold for k in kept):
            kept.append(candidate)
    scale = (original_hw[1] / size_hw[1], original_hw[0] / size_hw[0]) * 2
    return [
        (score, label, tuple(c * s for c, s in zip(box, scale, strict=True)))  # type: ignore[misc]
        for score, label, box in kept[:max_detections]
        if box[2] > box[0] and box[3] > box[1]
    ]
