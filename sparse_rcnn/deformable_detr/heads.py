"""The heads of a decoded query: logits and a box."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparse_rcnn.stage import PRIOR_PROBABILITY

START_SIZE = -2.0  # a box's width and height start at sigmoid(-2), 12 % of the image's


class ClassHead(nn.Linear):
    """Queries (N, Q, C) to logits (N, Q, K), one sigmoid per class; all start at the prior of 1 %."""

    def __init__(self, hidden_dim: int, num_classes: int) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        super().__init__(hidden_dim, num_classes)
        nn.init.constant_(self.bias, -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))


class ReferencedBoxHead(nn.Module):
    """A network of three layers whose result moves a reference point and gives a size; it starts as the point itself.

    Args:
        hidden_dim: C, of the queries and of both hidden layers.
    """

    def __init__(self, hidden_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(hidden_dim, n) for n in (hidden_dim, hidden_dim, 4))
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        with torch.no_grad():
            last.bias.copy_(torch.tensor([0.0, 0.0, START_SIZE, START_SIZE]))

    def forward(self, x: Tensor, reference_points: Tensor) -> Tensor:
        """Queries (N, Q, C) and points (N, Q, 2) to boxes (N, Q, 4): cxcywh, all relative to the unpadded image."""
        *hidden, last = self.layers
        for layer in hidden:
            x = F.relu(layer(x))
        # The sigmoid and its inverse need float32, also under autocast.
        moves = last(x).to(reference_points.dtype)
        return (moves + F.pad(inverse_sigmoid(reference_points), (0, 2))).sigmoid()


def inverse_sigmoid(x: Tensor) -> Tensor:
    """The logit of x, at most log(1e5) to either side."""
    x = x.clamp(0, 1)
    return (x.clamp(min=1e-5) / (1 - x).clamp(min=1e-5)).log()
