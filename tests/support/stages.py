"""A small stage, and modules and features with every number drawn, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from sparse_rcnn.interaction import DynamicInteraction
from sparse_rcnn.reuse import SelfAttention
from sparse_rcnn.stage import FeedForward, Stage


def randomized(module: nn.Module, seed: int = 0) -> nn.Module:
    """In float64 and with every parameter drawn: norms of ones and zeros would hide a wrong order."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.double().parameters():
            parameter.copy_(0.6 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module


def arrays(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: p.detach().numpy() for name, p in module.named_parameters()}


def draw(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_stage(**changes: Any) -> Stage:
    options: dict[str, Any] = {
        "hidden_dim": 16,
        "num_classes": 3,
        "num_cls_layers": 1,
        "num_reg_layers": 3,
        "reused_dim": 16,
        "reuse": SelfAttention(hidden_dim=16, num_heads=4, dropout=0.0),
        "interaction": DynamicInteraction(hidden_dim=16, dim_dynamic=4, output_size=2, dropout=0.0),
        "feed_forward": FeedForward(hidden_dim=16, dim_feedforward=32, dropout=0.0),
    }
    return Stage(**(options | changes))
