"""Multi-scale deformable attention: every query reads a few points of every level (paper section 4.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparse_rcnn.precision import exact

Shapes = Sequence[tuple[int, int]]


def sample_levels(values: Tensor, shapes_hw: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of points of feature maps, for each head on its own.

    Bilinear, with zeros outside a map; the centre of the first cell of a map of width w is at x = 0.5 / w.
    ``grid_sample`` takes half to a quarter of the time of gathered corners on a CPU.

    Args:
        values: (N, S, M, D), the cells of all levels, row by row, level by level.
        shapes_hw: height and width of the L levels.
        locations: (N, Q, M, L, P, 2) as (x, y), where a map goes from 0 to 1.
        weights: (N, Q, M, L, P).

    Returns:
        (N, Q, M * D).
    """
    num_images, _, num_heads, width = values.shape
    num_queries = locations.shape[1]
    planes = values.permute(0, 2, 3, 1).flatten(0, 1).split([h * w for h, w in shapes_hw], dim=2)
    grids = (2 * locations - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)  # (L, N * M, Q, P, 2)
    by_level = weights.permute(3, 0, 2, 1, 4).flatten(1, 2)[:, :, None]  # (L, N * M, 1, Q, P)
    summed = values.new_zeros(num_images * num_heads, width, num_queries)
    # Level by level: the samples of all in one tensor would be copied there first.
    for plane, grid, weight, (h, w) in zip(planes, grids, by_level, shapes_hw, strict=True):
        feature_map = plane.unflatten(2, (h, w))
        samples = F.grid_sample(feature_map, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        summed = summed + (samples * weight).sum(3)
    return summed.view(num_images, num_heads * width, num_queries).transpose(1, 2)


class MultiScaleDeformableAttention(nn.Module):
    """Attention to P points per head and level, at learned offsets from a reference point.

    Offsets are in cells of their level; the weights of all points of a head sum to 1. Locations, weights and samples
    are float32 under autocast too.

    Args:
        hidden_dim: C.
        num_heads: M.
        num_levels: L.
        num_points: P, per head and level.
    """

    def __init__(self, hidden_dim: int, num_heads: int, num_levels: int, num_points: int) -> None:
        super().__init__()
        if num_heads < 1 or hidden_dim % num_heads:
            raise ValueError(f"hidden_dim {hidden_dim} is not a multiple of num_heads {num_heads}")
        if min(num_levels, num_points) < 1:
            raise ValueError(f"num_levels and num_points must be at least 1, got {num_levels} and {num_points}")
        self.hidden_dim, self.num_heads = hidden_dim, num_heads
        self.num_levels, self.num_points = num_levels, num_points
        self.sampling_offsets = nn.Linear(hidden_dim, num_heads * num_levels * num_points * 2)
        self.attention_weights = nn.Linear(hidden_dim, num_heads * num_levels * num_points)
        self.value_proj = nn.Linear(hidden_dim, hidden_dim)
        self.output_proj = nn.Linear(hidden_dim, hidden_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Equal weights for points that lie on M rays: point p of a head is p + 1 cells away, on every level."""
        angles = torch.arange(self.num_heads, dtype=torch.float32) * (2 * math.pi / self.num_heads)
        directions = torch.stack((angles.cos(), angles.sin()), dim=1)
        directions = directions / directions.abs().amax(1, keepdim=True)
        distances = torch.arange(1, self.num_points + 1, dtype=torch.float32)
        offsets = directions[:, None, None] * distances[:, None]  # (M, 1, P, 2)
        with torch.no_grad():
            self.sampling_offsets.weight.zero_()
            self.sampling_offsets.bias.copy_(offsets.expand(-1, self.num_levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self, queries: Tensor, reference_points: Tensor, values: Tensor, padding_mask: Tensor, shapes_hw: Shapes
    ) -> Tensor:
        """Read the levels at points around each query's reference.

        Args:
            queries: (N, Q, C), with their positions.
            reference_points: (N, Q, L, 2) as (x, y) from 0 to 1 of each padded map, float32.
            values: (N, S, C), the cells of all levels.
            padding_mask: (N, S), True where a cell is padding, which is read as zeros.
            shapes_hw: height and width of the levels.

        Returns:
            (N, Q, C).
        """
        points = (self.num_heads, self.num_levels, self.num_points)
        projected = self.value_proj(values).masked_fill(padding_mask[..., None], 0)
        offsets = self.sampling_offsets(queries).unflatten(2, (*points, 2))
        logits = self.attention_weights(queries).unflatten(2, points)
        with exact(queries.device):
            dtype = reference_points.dtype
            weights = logits.to(dtype).flatten(3).softmax(3).view(logits.shape)
            sizes_wh = torch.tensor([(w, h) for h, w in shapes_hw], dtype=dtype, device=queries.device)
            reference = reference_points[:, :, None, :, None]
            locations = reference + offsets.to(dtype) / sizes_wh[:, None]
            by_head = projected.to(dtype).unflatten(2, (self.num_heads, -1))
            read = sample_levels(by_head, shapes_hw, locations, weights)
        attended: Tensor = self.output_proj(read)
        return attended
