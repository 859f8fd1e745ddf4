"""Sparse R-CNN as a textbook would write it, on the weights of one of our detectors: the yardstick of the benchmark.

Norms are operations of their own, RoIAlign runs level by level, the generated convolutions come from one linear layer,
the cost is a `cdist`, and the loss goes through stages and images in loops. Nothing is folded, prepared or batched
beyond that. Written from ../shared/spec/sparse_rcnn.md for the paper's head alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou, sigmoid_focal_loss

from sparse_rcnn.structures import StageOutput, Targets
from tests.support.level_roi_align import level_roi_align


class Textbook:
    """The forward pass and the loss of a `SparseRCNN` with a ResNet of bottlenecks, dynamic head and self-attention."""

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model

    def maps(self, images: Tensor) -> list[Tensor]:
        """Raw images (N, 3, H, W) without padding to p2..p5."""
        net = self.model.backbone.bottom_up
        x = (images.float() - self.model.pixel_mean) / self.model.pixel_std
        x = F.max_pool2d(F.relu(net.bn1(net.conv1(x))), 3, stride=2, padding=1)
        maps = []
        for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
            for block in layer:
                shortcut = x if block.downsample is None else block.downsample(x)
                x = F.relu(block.bn1(block.conv1(x)))
                x = F.relu(block.bn2(block.conv2(x)))
                x = F.relu(block.bn3(block.conv3(x)) + shortcut)
            maps.append(x)
        fpn = self.model.backbone.fpn
        inner = [block(m) for block, m in zip(fpn.inner_blocks, maps, strict=True)]
        for i in (2, 1, 0):
            inner[i] = inner[i] + F.interpolate(inner[i + 1], size=inner[i].shape[-2:], mode="nearest")
        return [block(m) for block, m in zip(fpn.layer_blocks, inner, strict=True)]

    def head(self, maps: Sequence[Tensor], image_sizes_hw: Tensor) -> list[StageOutput]:
        """Maps and sizes (N, 2) to the logits and boxes of every stage."""
        height, width = image_sizes_hw.float().unbind(1)
        scale = torch.stack((width, height, width, height), 1)
        cx, cy, w, h = self.model.proposals.boxes_cxcywh_norm.unbind(1)
        boxes = torch.stack((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), 1)[None] * scale[:, None]
        features = self.model.proposals.features[None].repeat(len(boxes), 1, 1)
        outputs = []
        for stage in self.model.stages:
            roi = level_roi_align(maps, boxes)
            logits, deltas, features = self.stage(stage, roi, features)
            boxes = refine(boxes, deltas)
            outputs.append(StageOutput(logits, boxes))
            boxes = boxes.detach()
        return outputs

    @staticmethod
    def stage(stage: Any, roi: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """RoI features (N * P, C, 7, 7) and object features (N, P, C) to logits, deltas and object features."""
        shape = features.shape
        attention = stage.reuse.attention
        x = features.transpose(0, 1)
        attended, _ = F.multi_head_attention_forward(
            x, x, x, shape[2], attention.num_heads, attention.in_proj_weight, attention.in_proj_bias, None, None,
            False, 0.0, attention.out_proj.weight, attention.out_proj.bias, training=False,
        )  # fmt: skip
        features = stage.reuse.norm(features + attended.transpose(0, 1)).reshape(-1, shape[2])

        dynamic = stage.interaction
        parameters = dynamic.dynamic_layer(features)
        half = dynamic.hidden_dim * dynamic.dim_dynamic
        first = parameters[:, :half].reshape(-1, dynamic.hidden_dim, dynamic.dim_dynamic)
        second = parameters[:, half:].reshape(-1, dynamic.dim_dynamic, dynamic.hidden_dim)
        x = roi.flatten(2).permute(0, 2, 1)
        x = F.relu(dynamic.norm1(torch.bmm(x, first)))
        x = F.relu(dynamic.norm2(torch.bmm(x, second)))
        x = F.relu(dynamic.norm3(dynamic.out_layer(x.flatten(1))))
        features = dynamic.norm(features + x)

        ffn = stage.feed_forward
        features = ffn.norm(features + ffn.linear2(F.relu(ffn.linear1(features))))
        logits, deltas = stage.cls_tower(features), stage.reg_tower(features)
        return logits.view(*shape[:2], -1), deltas.view(*shape[:2], 4), features.view(shape)

    def forward(self, images: Tensor, image_sizes_hw: Tensor) -> list[StageOutput]:
        return self.head(self.maps(images), image_sizes_hw)


def refine(boxes: Tensor, deltas: Tensor) -> Tensor:
    """Boxes (..., 4) moved by deltas, which are weighted by 2, 2, 1, 1."""
    w, h = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    cx = boxes[..., 0] + 0.5 * w + deltas[..., 0] / 2 * w
    cy = boxes[..., 1] + 0.5 * h + deltas[..., 1] / 2 * h
    limit = float(torch.tensor(100_000 / 16).log())
    w, h = w * deltas[..., 2].clamp(max=limit).exp(), h * deltas[..., 3].clamp(max=limit).exp()
    return torch.stack((cx - 0.5 * w, cy - 0.5 * h, cx + 0.5 * w, cy + 0.5 * h), -1)


def textbook_loss(outputs: Sequence[Any], targets: Targets, image_sizes_hw: Tensor) -> Tensor:
    """The weighted loss of all stages, divided by the number of boxes."""
    total = torch.zeros(())
    for output in outputs:
        for i, count in enumerate(targets.num_per_image):
            logits, boxes = output.logits[i], output.boxes_xyxy_abs[i]
            labels, wanted = targets.labels[i, :count], targets.boxes_xyxy_abs[i, :count]
            height, width = image_sizes_hw[i].tolist()
            scale = torch.tensor([width, height, width, height], dtype=torch.float32)
            with torch.no_grad():
                p = logits.sigmoid()
                negative = 0.75 * p**2 * -(1 - p + 1e-8).log()
                positive = 0.25 * (1 - p) ** 2 * -(p + 1e-8).log()
                cost = 2 * (positive - negative)[:, labels]
                cost = cost + 5 * torch.cdist(boxes / scale, wanted / scale, p=1)
                cost = cost - 2 * generalized_box_iou(boxes, wanted)
                rows, columns = (torch.as_tensor(index) for index in linear_sum_assignment(cost.numpy()))
            one_hot = torch.zeros_like(logits)
            one_hot[rows, labels[columns]] = 1
            total = total + 2 * sigmoid_focal_loss(logits, one_hot, 0.25, 2, reduction="sum")
            matched, truth = boxes[rows], wanted[columns]
            total = total + 5 * (matched / scale - truth / scale).abs().sum()
            total = total + 2 * (1 - torch.diag(generalized_box_iou(matched, truth))).sum()
    return total / max(targets.num_boxes, 1)
