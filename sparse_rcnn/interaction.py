"""How the RoI feature of a proposal meets its object feature: the heads of tables 2, 4 and 8.

An interaction takes RoI features (N, P, C, S, S) and object features (N, P, C) and gives object features (N, P, C).
``reads_object_features`` says whether it cannot do without the latter.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DynamicInteraction(nn.Module):
    """The proposal feature generates two 1x1 convolutions that filter its own RoI feature (paper section 3.2).

    Every step: semantics.md#dynamic-interaction.

    Args:
        hidden_dim: C.
        dim_dynamic: width between the two generated convolutions (64).
        output_size: side S of the pooled RoI map (7).
        dropout: of the residual branch.
    """

    reads_object_features = True

    def __init__(self, hidden_dim: int, dim_dynamic: int, output_size: int, dropout: float) -> None:
        super().__init__()
        if min(dim_dynamic, output_size) < 1:
            raise ValueError(f"dim_dynamic and output_size must be at least 1, got {dim_dynamic} and {output_size}")
        self.hidden_dim, self.dim_dynamic, self.output_size = hidden_dim, dim_dynamic, output_size
        self.dynamic_layer = nn.Linear(hidden_dim, 2 * hidden_dim * dim_dynamic)
        self.norm1 = nn.LayerNorm(dim_dynamic)
        self.norm2 = nn.LayerNorm(hidden_dim)
        self.out_layer = nn.Linear(hidden_dim * output_size**2, hidden_dim)
        self.norm3 = nn.LayerNorm(hidden_dim)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(hidden_dim)

    def filter_roi(self, object_features: Tensor, roi_features: Tensor) -> Tensor:
        """The filtered RoI feature, (N, P, C) and (N, P, C, S, S) to (N * P, S * S, C), before flattening."""
        roi = roi_features.flatten(0, 1).flatten(2).transpose(1, 2)
        features = object_features.flatten(0, 1)
        # One Linear in two halves: splitting its weight, and not the N * P times larger output, keeps the
        # backward pass from copying the gradient of that output together.
        first, second = zip(self.dynamic_layer.weight.chunk(2), self.dynamic_layer.bias.chunk(2), strict=True)
        x = torch.bmm(roi, F.linear(features, *first).view(-1, self.hidden_dim, self.dim_dynamic))
        x = self.norm1(x).relu_()
        x = torch.bmm(x, F.linear(features, *second).view(-1, self.dim_dynamic, self.hidden_dim))
        return self.norm2(x).relu_()

    def forward(self, object_features: Tensor, roi_features: Tensor) -> Tensor:
        """Object features (N, P, C) and RoI features (N, P, C, S, S) to object features (N, P, C)."""
        filtered = self.filter_roi(object_features, roi_features)
        x = self.norm3(self.out_layer(filtered.flatten(1))).relu_()
        return self.norm(object_features + self.dropout(x.view_as(object_features)))


class AttentionInteraction(nn.Module):
    """Multi-head attention with the object feature as query and its own RoI positions as keys and values (table 8).

    Residual and LayerNorm as around every attention of the head. The paper leaves open whether the positions are
    encoded; the plainest reading is that they are not.

    Args:
        hidden_dim: C.
        num_heads: of the attention.
        dropout: of the attention weights and of the residual branch.
    """

    reads_object_features = True

    def __init__(self, hidden_dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        if num_heads < 1 or hidden_dim % num_heads:
            raise ValueError(f"hidden_dim {hidden_dim} is not a multiple of num_heads {num_heads}")
        self.hidden_dim, self.num_heads = hidden_dim, num_heads
        self.attention = nn.MultiheadAttention(hidden_dim, num_heads, dropout=dropout, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(hidden_dim)

    def forward(self, object_features: Tensor, roi_features: Tensor) -> Tensor:
        """Object features (N, P, C) and RoI features (N, P, C, S, S) to object features (N, P, C)."""
        query = object_features.flatten(0, 1)[:, None]
        positions = roi_features.flatten(0, 1).flatten(2).transpose(1, 2)
        attended, _ = self.attention(query, positions, positions, need_weights=False)
        return self.norm(object_features + self.dropout(attended.view_as(object_features)))


class FullyConnected(nn.Module):
    """The RoI feature through shared fully connected layers, as in Faster R-CNN's box head (table 2, rows 1 and 2).

    The object feature does not filter the RoI feature: this is also the head without instance interaction (table 4).
    Where the stage reuses the features of the stage before, they are concatenated to its own, and one more layer
    brings both to C. The paper leaves widths open: all layers but the last have ``dim_fc``, the last has C, so that
    the towers are those of every other head.

    Args:
        hidden_dim: C.
        num_fc: fully connected layers, each followed by ReLU (2).
        dim_fc: width between them (1024, Faster R-CNN's).
        output_size: side S of the pooled RoI map (7).
        reused_dim: width of the features that the stage reuses; 0 where it reuses none.
    """

    reads_object_features = False

    def __init__(self, hidden_dim: int, num_fc: int, dim_fc: int, output_size: int, reused_dim: int) -> None:
        super().__init__()
        if min(num_fc, dim_fc, output_size) < 1 or reused_dim < 0:
            raise ValueError(
                "num_fc, dim_fc and output_size must be at least 1 and reused_dim at least 0, "
                f"got {num_fc}, {dim_fc}, {output_size} and {reused_dim}"
            )
        self.hidden_dim, self.num_fc, self.dim_fc = hidden_dim, num_fc, dim_fc
        self.output_size, self.reused_dim = output_size, reused_dim
        widths = [hidden_dim * output_size**2, *[dim_fc] * (num_fc - 1), hidden_dim]
        layers: list[nn.Module] = []
        for num_inputs, num_outputs in pairwise(widths):
            layers += [nn.Linear(num_inputs, num_outputs), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)
        self.join = nn.Linear(hidden_dim + reused_dim, hidden_dim) if reused_dim else None

    def forward(self, object_features: Tensor | None, roi_features: Tensor) -> Tensor:
        """Reused features (N, P, C) or None and RoI features (N, P, C, S, S) to object features (N, P, C)."""
        x = self.layers(roi_features.flatten(2))
        if self.join is None:
            return x
        assert object_features is not None
        return F.relu(self.join(torch.cat((x, object_features), dim=-1)))
