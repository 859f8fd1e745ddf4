"""How the RoI feature of a proposal meets its proposal feature: the dynamic instance interaction."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DynamicInteraction(nn.Module):
    """The proposal feature generates two 1x1 convolutions that filter its own RoI feature (paper 3.2, spec 8).

    Args:
        hidden_dim: C.
        dim_dynamic: width between the two generated convolutions (64).
        output_size: side S of the pooled RoI map (7).
        dropout: of the residual branch.
    """

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
        """The filtered RoI feature, (N, P, C) and (N * P, C, S, S) to (N * P, S * S, C), before flattening."""
        roi = roi_features.flatten(2).transpose(1, 2)
        features = object_features.flatten(0, 1)
        # One Linear in two halves: splitting its weight, and not the N * P times larger output, keeps the
        # backward pass from copying the gradient of that output together.
        first, second = zip(self.dynamic_layer.weight.chunk(2), self.dynamic_layer.bias.chunk(2), strict=True)
        x = torch.bmm(roi, F.linear(features, *first).view(-1, self.hidden_dim, self.dim_dynamic))
        x = F.relu(self.norm1(x))
        x = torch.bmm(x, F.linear(features, *second).view(-1, self.dim_dynamic, self.hidden_dim))
        return F.relu(self.norm2(x))

    def forward(self, object_features: Tensor, roi_features: Tensor) -> Tensor:
        """Object features (N, P, C) and RoI features (N * P, C, S, S) to object features (N, P, C)."""
        filtered = self.filter_roi(object_features, roi_features)
        x = F.relu(self.norm3(self.out_layer(filtered.flatten(1))))
        return self.norm(object_features + self.dropout(x.view_as(object_features)))
