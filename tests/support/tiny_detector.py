"""A detector that builds and runs in milliseconds, for the tests of what is around the model."""

from __future__ import annotations

from typing import Any

import torch

from sparse_rcnn.architecture import build
from sparse_rcnn.detector import SparseRCNN
from sparse_rcnn.weights import ModelCard

HIDDEN_DIM, NUM_PROPOSALS, NUM_STAGES = 32, 6, 2


def tiny_architecture(num_classes: int, bottom_up: dict[str, Any] | None = None) -> dict[str, Any]:
    """The description of a detector with a small network, or with the given one."""
    library, dim = "sparse_rcnn", HIDDEN_DIM
    bottom_up = bottom_up or {
        "_target_": f"{library}.backbone.SmallNet",
        "widths": [16, 16, 32, 32],
        "num_blocks": [0, 0, 0, 0],
    }
    return {
        "_target_": f"{library}.detector.SparseRCNN",
        "num_stages": NUM_STAGES,
        "pixel_mean": [123.675, 116.28, 103.53],
        "pixel_std": [58.395, 57.12, 57.375],
        "backbone": {
            "_target_": f"{library}.backbone.FPNBackbone",
            "hidden_dim": dim,
            "bottom_up": bottom_up,
        },
        "proposals": {
            "_target_": f"{library}.proposals.LearnedProposals",
            "num_proposals": NUM_PROPOSALS,
            "hidden_dim": dim,
            "init": {"_target_": f"{library}.box_init.ImageInit"},
        },
        "positional_encoding": {"_target_": f"{library}.positional_encoding.NoEncoding"},
        "roi_pooler": {
            "_target_": f"{library}.roi_pooler.MultiLevelRoIAlign",
            "output_size": 7,
            "sampling_ratio": 2,
        },
        "stage": {
            "_target_": f"{library}.stage.Stage",
            "hidden_dim": dim,
            "num_classes": num_classes,
            "num_cls_layers": 1,
            "num_reg_layers": 3,
            "reused_dim": dim,
            "reuse": {
                "_target_": f"{library}.reuse.SelfAttention",
                "hidden_dim": dim,
                "num_heads": 8,
                "dropout": 0.0,
            },
            "interaction": {
                "_target_": f"{library}.interaction.DynamicInteraction",
                "hidden_dim": dim,
                "dim_dynamic": 8,
                "output_size": 7,
                "dropout": 0.0,
            },
            "feed_forward": {
                "_target_": f"{library}.stage.FeedForward",
                "hidden_dim": dim,
                "dim_feedforward": 32,
                "dropout": 0.0,
            },
        },
    }


def tiny_card(categories: list[dict[str, Any]] | None = None, **options: Any) -> ModelCard:
    categories = categories or [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
    return ModelCard(tiny_architecture(len(categories), **options), categories, short_side=64, max_long_side=96)


def tiny_detector(seed: int = 0, card: ModelCard | None = None) -> SparseRCNN:
    """A detector with random weights whose boxes differ from one another."""
    torch.manual_seed(seed)
    card = card or tiny_card()
    model: SparseRCNN = build(card.architecture)
    model.card = card
    with torch.no_grad():
        model.proposals.boxes_cxcywh_norm.copy_(0.2 + 0.6 * torch.rand(NUM_PROPOSALS, 4))
    return model.eval()
