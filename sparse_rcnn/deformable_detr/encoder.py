"""The encoder: every cell of every level reads a few others around itself."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sparse_rcnn.deformable_detr.attention import MultiScaleDeformableAttention, Shapes
from sparse_rcnn.stage import FeedForward


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention of the cells and a feed-forward, each with a residual and a norm behind it."""

    def __init__(
        self, hidden_dim: int, num_heads: int, num_levels: int, num_points: int, dim_feedforward: int, dropout: float
    ) -> None:
        super().__init__()
        self.attention = MultiScaleDeformableAttention(hidden_dim, num_heads, num_levels, num_points)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(hidden_dim)
        self.feed_forward = FeedForward(hidden_dim, dim_feedforward, dropout)

    def reset_parameters(self) -> None:
        """Draw the matrices anew, Xavier uniform, except for those that the attention starts with."""
        draw_matrices(self)
        self.attention.reset_parameters()

    def forward(
        self, x: Tensor, position: Tensor, reference_points: Tensor, padding_mask: Tensor, shapes_hw: Shapes
    ) -> Tensor:
        """Cells (N, S, C), their positions (N, S, C) and reference points (N, S, L, 2) to cells (N, S, C)."""
        attended = self.attention(x + position, reference_points, x, padding_mask, shapes_hw)
        refined: Tensor = self.feed_forward(self.norm(x + self.dropout(attended)))
        return refined


class DeformableEncoder(nn.Module):
    """A stack of encoder layers, without a norm at its end.

    Args:
        num_layers: of the stack; one-dimensional parameters start equal in all layers.
        hidden_dim: C.
        num_heads, num_levels, num_points: of the deformable attention (8, 4, 4).
        dim_feedforward: width of the feed-forward (1024).
        dropout: of both residual branches and within the feed-forward.
    """

    def __init__(
        self,
        num_layers: int,
        hidden_dim: int,
        num_heads: int,
        num_levels: int,
        num_points: int,
        dim_feedforward: int,
        dropout: float,
    ) -> None:
        super().__init__()
        if num_layers < 0:
            raise ValueError(f"num_layers must not be negative, got {num_layers}")
        layer = DeformableEncoderLayer(hidden_dim, num_heads, num_levels, num_points, dim_feedforward, dropout)
        self.hidden_dim, self.num_levels = hidden_dim, num_levels
        self.layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(num_layers))
        for clone in self.layers:
            assert isinstance(clone, DeformableEncoderLayer)
            clone.reset_parameters()
        self.activation_checkpointing = False

    def forward(
        self, x: Tensor, position: Tensor, padding_mask: Tensor, shapes_hw: Shapes, valid_ratios_wh: Tensor
    ) -> Tensor:
        """Mix the cells of all levels.

        Args:
            x: (N, S, C), level by level, row by row.
            position: (N, S, C), added to the queries of every layer.
            padding_mask: (N, S), True on padding.
            shapes_hw: height and width of the L levels.
            valid_ratios_wh: (N, L, 2).

        Returns:
            (N, S, C).
        """
        reference_points = cell_reference_points(shapes_hw, valid_ratios_wh)
        for layer in self.layers:
            if self.activation_checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, x, position, reference_points, padding_mask, shapes_hw, use_reentrant=False)
            else:
                x = layer(x, position, reference_points, padding_mask, shapes_hw)
        return x


def cell_reference_points(shapes_hw: Shapes, valid_ratios_wh: Tensor) -> Tensor:
    """Where each cell lies in each level: its centre relative to the image, placed in the level's valid part.

    Args:
        shapes_hw: height and width of the L levels.
        valid_ratios_wh: (N, L, 2).

    Returns:
        (N, S, L, 2) as (x, y), of the padded maps; padding lies past 1.
    """
    device = valid_ratios_wh.device
    centres = []
    for level, (height, width) in enumerate(shapes_hw):
        x, y = (torch.arange(length, device=device) + 0.5 for length in (width, height))
        ratio_wh = valid_ratios_wh[:, level, :, None]
        x, y = x / (ratio_wh[:, 0] * width), y / (ratio_wh[:, 1] * height)
        grid = (x[:, None, :].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width))
        centres.append(torch.stack(grid, dim=3).flatten(1, 2))
    return torch.cat(centres, dim=1)[:, :, None] * valid_ratios_wh[:, None]


def draw_matrices(module: nn.Module) -> None:
    """Draw every matrix of a module anew, Xavier uniform; packed projections count as one matrix."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
