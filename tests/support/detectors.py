"""Detectors that build and run in milliseconds, what they read, and what they might put out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparse_rcnn.architecture import build
from sparse_rcnn.detector import SparseRCNN
from sparse_rcnn.losses import SetCriterion
from sparse_rcnn.matcher import HungarianMatcher
from sparse_rcnn.structures import StageOutput, Targets
from sparse_rcnn.weights import ModelCard

NUM_STAGES, NUM_PROPOSALS = 2, 6  # of a detector with a card
PIXEL_MEAN = [123.675, 116.28, 103.53]
PIXEL_STD = [58.395, 57.12, 57.375]


def architecture(
    num_stages: int = 3,
    num_proposals: int = NUM_PROPOSALS,
    num_classes: int = 4,
    hidden_dim: int = 16,
    dim_dynamic: int = 4,
    dropout: float = 0.0,
    roi_pooler: str = "MultiLevelRoIAlign",
    bottom_up: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The ``model`` description of a detector as small as can be, for ``sparse_rcnn.architecture.build``."""
    small = {
        "_target_": "sparse_rcnn.backbone.SmallNet",
        "widths": [16, 16, 32, 32],
        "num_blocks": [0, 0, 1, 0],
    }
    return {
        "_target_": "sparse_rcnn.detector.SparseRCNN",
        "num_stages": num_stages,
        "pixel_mean": PIXEL_MEAN,
        "pixel_std": PIXEL_STD,
        "backbone": {
            "_target_": "sparse_rcnn.backbone.FPNBackbone",
            "hidden_dim": hidden_dim,
            "bottom_up": small if bottom_up is None else bottom_up,
        },
        "proposals": {
            "_target_": "sparse_rcnn.proposals.LearnedProposals",
            "num_proposals": num_proposals,
            "hidden_dim": hidden_dim,
            "init": {"_target_": "sparse_rcnn.box_init.ImageInit"},
        },
        "positional_encoding": {"_target_": "sparse_rcnn.positional_encoding.NoEncoding"},
        "roi_pooler": {
            "_target_": f"sparse_rcnn.roi_pooler.{roi_pooler}",
            "output_size": 7,
            "sampling_ratio": 2,
        },
        "stage": {
            "_target_": "sparse_rcnn.stage.Stage",
            "hidden_dim": hidden_dim,
            "num_classes": num_classes,
            "num_cls_layers": 1,
            "num_reg_layers": 3,
            "reused_dim": hidden_dim,
            "reuse": {
                "_target_": "sparse_rcnn.reuse.SelfAttention",
                "hidden_dim": hidden_dim,
                "num_heads": 8,
                "dropout": dropout,
            },
            "interaction": {
                "_target_": "sparse_rcnn.interaction.DynamicInteraction",
                "hidden_dim": hidden_dim,
                "dim_dynamic": dim_dynamic,
                "output_size": 7,
                "dropout": dropout,
            },
            "feed_forward": {
                "_target_": "sparse_rcnn.stage.FeedForward",
                "hidden_dim": hidden_dim,
                "dim_feedforward": 32,
                "dropout": dropout,
            },
        },
    }


def resnet(depth: int, stride_in_1x1: bool = False, num_frozen_stages: int = 2) -> dict[str, Any]:
    """The description of a ResNet, for ``architecture(bottom_up=...)``."""
    return {
        "_target_": "sparse_rcnn.backbone.ResNet",
        "depth": depth,
        "stride_in_1x1": stride_in_1x1,
        "num_frozen_stages": num_frozen_stages,
    }


def small_detector(seed: int = 0, card: ModelCard | None = None, **changes: Any) -> SparseRCNN:
    """A small detector, or that of a card, whose proposals differ: were all the whole image, little could go wrong."""
    torch.manual_seed(seed)
    model: SparseRCNN = build(architecture(**changes) if card is None else card.architecture)
    if card is not None:
        model.card = card
    with torch.no_grad():
        model.proposals.boxes_cxcywh_norm.uniform_(0.2, 0.8)
    return model


def small_card(categories: list[dict[str, Any]] | None = None, **changes: Any) -> ModelCard:
    """What a weights file says of a small detector of these categories; two stages, so that roundings do not grow."""
    categories = categories or [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
    options = {"num_stages": NUM_STAGES, "hidden_dim": 32, "dim_dynamic": 8, "num_classes": len(categories)}
    return ModelCard(architecture(**(options | changes)), categories, short_side=64, max_long_side=96)


def images_of(sizes_hw: list[tuple[int, int]], side: int | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noise images in one zero-padded uint8 batch, and their sizes (N, 2)."""
    generator = torch.Generator().manual_seed(seed)
    height = side or -(-max(h for h, _ in sizes_hw) // 32) * 32
    width = side or -(-max(w for _, w in sizes_hw) // 32) * 32
    images = torch.zeros(len(sizes_hw), 3, height, width, dtype=torch.uint8)
    for image, (h, w) in zip(images, sizes_hw, strict=True):
        image[:, :h, :w] = torch.randint(0, 256, (3, h, w), generator=generator)
    return images, torch.tensor(sizes_hw)


def random_targets(
    counts: list[int], sizes_hw: Tensor, num_classes: int, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Targets:
    """Boxes with an area, inside their image, and labels; ``counts[i]`` of them in image i."""
    generator = torch.Generator().manual_seed(seed)
    boxes, labels = [], []
    for count, (h, w) in zip(counts, sizes_hw.tolist(), strict=True):
        centre = 0.2 + 0.6 * torch.rand(count, 2, generator=generator)
        half = 0.05 + 0.1 * torch.rand(count, 2, generator=generator)
        boxes.append((torch.cat((centre - half, centre + half), 1) * torch.tensor([w, h, w, h])).to(dtype))
        labels.append(torch.randint(0, num_classes, (count,), generator=generator))
    return Targets.from_lists(boxes, labels)


def random_outputs(
    num_stages: int, num_proposals: int, num_classes: int, sizes_hw: Tensor, seed: int = 0
) -> list[StageOutput]:
    """Outputs of stages as if a detector had made them, with gradients to be asked for."""
    generator = torch.Generator().manual_seed(seed)
    scale = sizes_hw.flip(1).repeat(1, 2)[:, None].float()
    outputs = []
    for _ in range(num_stages):
        shape = (len(sizes_hw), num_proposals)
        logits = torch.randn(*shape, num_classes, generator=generator)
        low = torch.rand(*shape, 2, generator=generator) * 0.6
        high = low + 0.1 + 0.4 * torch.rand(*shape, 2, generator=generator)
        boxes = torch.cat((low, high), 2) * scale
        outputs.append(StageOutput(logits.requires_grad_(), boxes.requires_grad_()))
    return outputs


def paper_matcher() -> HungarianMatcher:
    return HungarianMatcher(class_cost=2, l1_cost=5, giou_cost=2, focal_alpha=0.25, focal_gamma=2)


def paper_criterion() -> SetCriterion:
    return SetCriterion(paper_matcher(), class_weight=2, l1_weight=5, giou_weight=2, focal_alpha=0.25, focal_gamma=2)
