"""The decoder: queries that look at each other and at a few points of every level."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sparse_rcnn.deformable_detr.attention import MultiScaleDeformableAttention, Shapes
from sparse_rcnn.deformable_detr.encoder import draw_matrices
from sparse_rcnn.stage import FeedForward


class DeformableDecoderLayer(nn.Module):
    """Self-attention, deformable attention to the memory and a feed-forward, each with a residual and a norm."""

    def __init__(
        self, hidden_dim: int, num_heads: int, num_levels: int, num_points: int, dim_feedforward: int, dropout: float
    ) -> None:
        super().__init__()
        self.self_attention = nn.MultiheadAttention(hidden_dim, num_heads, dropout=dropout, batch_first=True)
        self.self_dropout = nn.Dropout(dropout)
        self.self_norm = nn.LayerNorm(hidden_dim)
        self.cross_attention = MultiScaleDeformableAttention(hidden_dim, num_heads, num_levels, num_points)
        self.cross_dropout = nn.Dropout(dropout)
        self.cross_norm = nn.LayerNorm(hidden_dim)
        self.feed_forward = FeedForward(hidden_dim, dim_feedforward, dropout)

    def reset_parameters(self) -> None:
        """Draw the matrices anew, Xavier uniform, except for those that the deformable attention starts with."""
        draw_matrices(self)
        self.cross_attention.reset_parameters()

    def forward(
        self,
        x: Tensor,
        query_position: Tensor,
        reference_points: Tensor,
        memory: Tensor,
        padding_mask: Tensor,
        shapes_hw: Shapes,
    ) -> Tensor:
        """Queries (N, Q, C), their positions (N, Q, C) and reference points (N, Q, L, 2) to queries (N, Q, C)."""
        q = x + query_position
        # Asking for the weights takes the plain softmax(QK)V path, which rounds as the released model does on a CPU.
        attended, _ = self.self_attention(q, q, x, need_weights=x.device.type == "cpu")
        x = self.self_norm(x + self.self_dropout(attended))
        read = self.cross_attention(x + query_position, reference_points, memory, padding_mask, shapes_hw)
        x = self.cross_norm(x + self.cross_dropout(read))
        refined: Tensor = self.feed_forward(x)
        return refined


class DeformableDecoder(nn.Module):
    """A stack of decoder layers, without a norm at its end.

    The reference points are those of all layers. Refinement of boxes would hand each layer its own.

    Args:
        num_layers: L of the stack; one-dimensional parameters start equal in all layers.
        hidden_dim: C.
        num_heads, num_levels, num_points: of the deformable attention (8, 4, 4); the heads are also those of the
            self-attention.
        dim_feedforward: width of the feed-forward (1024).
        dropout: of the residual branches, of the self-attention's weights and within the feed-forward.
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
        if num_layers < 1:
            raise ValueError(f"num_layers must be at least 1, got {num_layers}")
        layer = DeformableDecoderLayer(hidden_dim, num_heads, num_levels, num_points, dim_feedforward, dropout)
        self.hidden_dim, self.num_levels = hidden_dim, num_levels
        self.layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(num_layers))
        for clone in self.layers:
            assert isinstance(clone, DeformableDecoderLayer)
            clone.reset_parameters()
        self.activation_checkpointing = False

    def forward(
        self,
        x: Tensor,
        query_position: Tensor,
        reference_points: Tensor,
        memory: Tensor,
        padding_mask: Tensor,
        shapes_hw: Shapes,
    ) -> list[Tensor]:
        """Decode.

        Args:
            x: (N, Q, C), the initial content of the queries.
            query_position: (N, Q, C), added to the queries of every layer.
            reference_points: (N, Q, L, 2) as (x, y), of each padded map.
            memory: (N, S, C), of the encoder.
            padding_mask: (N, S), True on padding.
            shapes_hw: height and width of the levels.

        Returns:
            The queries (N, Q, C) after every layer.
        """
        outputs = []
        for layer in self.layers:
            inputs = (x, query_position, reference_points, memory, padding_mask, shapes_hw)
            if self.activation_checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, *inputs, use_reentrant=False)
            else:
                x = layer(*inputs)
            outputs.append(x)
        return outputs
