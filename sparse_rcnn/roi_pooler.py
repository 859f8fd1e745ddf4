"""RoI features from a feature pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def assign_levels(boxes_xyxy_abs: Tensor, min_level: int, max_level: int) -> Tensor:
    """Pyramid level of each box (..., 4): floor(4 + log2(sqrt(area) / 224 + 1e-8)), clamped (semantics.md#roi-pooling).

    A box whose width and height have different signs has a negative area and belongs to no level: -1. Nor
    does a box that is not finite.
    """
    x1, y1, x2, y2 = boxes_xyxy_abs.unbind(-1)
    w, h = x2 - x1, y2 - y1
    area = w * h
    level = torch.floor(4 + torch.log2(area.clamp(min=0).sqrt() / 224 + 1e-8)).clamp(min_level, max_level)
    exists = (area >= 0) & w.isfinite() & h.isfinite()
    return torch.where(exists, level, -1).to(torch.int64)


MIN_LEVEL = 2


class RoIPooler(nn.Module):
    """A pooler of maps (N, C, h, w) and boxes (N, P, 4) to (N * P, C, S, S).

    Args:
        output_size: side S of the pooled map.
        sampling_ratio: samples per bin and axis.
    """

    def __init__(self, output_size: int, sampling_ratio: int) -> None:
        super().__init__()
        if output_size < 1 or sampling_ratio < 1:
            raise ValueError(
                f"output_size and sampling_ratio must be at least 1, got {output_size} and {sampling_ratio}"
            )
        self.output_size, self.sampling_ratio = output_size, sampling_ratio

    def prepare(self, maps: Sequence[Tensor]) -> Any:
        """The maps in the form that ``forward`` reads, made once for all the stages that pool from them."""
        return maps


def prepared(pooler: nn.Module, maps: Sequence[Tensor]) -> Any:
    """The maps as a pooler reads them; a pooler of one's own that prepares nothing reads the maps themselves."""
    return pooler.prepare(maps) if isinstance(pooler, RoIPooler) else maps


@dataclass(frozen=True)
class PixelPyramid:
    """All pixels of a batch's pyramid as rows of one matrix.

    Attributes:
        pixels: (sum of N * h * w over the levels, C), level by level, image by image, row by row.
        sizes_hw: (L, 2) int64, of the maps.
        starts: (L,) int64, the first row of each level.
    """

    pixels: Tensor
    sizes_hw: Tensor
    starts: Tensor

    @classmethod
    def of(cls, maps: Sequence[Tensor]) -> PixelPyramid:
        """The pyramid of maps (N, C, h, w); one copy, without a change of order where they are channels-last."""
        sizes = [tuple(m.shape[2:]) for m in maps]
        starts = [0]
        for m in maps[:-1]:
            starts.append(starts[-1] + m.shape[0] * m.shape[2] * m.shape[3])
        device = maps[0].device
        return cls(
            torch.cat([m.permute(0, 2, 3, 1).flatten(0, 2) for m in maps]),
            torch.tensor(sizes).to(device, non_blocking=True),
            torch.tensor(starts).to(device, non_blocking=True),
        )


class MultiLevelRoIAlign(RoIPooler):
    """RoIAlign on the pyramid level that fits the size of each box (semantics.md#roi-pooling).

    Every bin is a weighted sum of 4 * sampling_ratio**2 pixels, so all bins of all boxes on all levels are one
    ``embedding_bag`` over the pixels of the pyramid: no kernel per level, no wait for the device to count the
    boxes of a level, maps of any dtype as they are, and the pixels of a bin lie side by side in memory. Coordinates
    and weights are computed in the dtype of the boxes: bfloat16 would round a coordinate of 700 pixels by two. Boxes
    get no gradient.

    Args:
        output_size: side S of the pooled map (7).
        sampling_ratio: samples per bin and axis (2).
    """

    def prepare(self, maps: Sequence[Tensor]) -> PixelPyramid:
        return PixelPyramid.of(maps)

    def forward(self, maps: Sequence[Tensor] | PixelPyramid, boxes_xyxy_abs: Tensor) -> Tensor:
        """Maps p2.. (N, C, h, w) at strides 4, 8, ..., or prepared ones, and boxes (N, P, 4) to (N * P, C, S, S)."""
        pyramid = maps if isinstance(maps, PixelPyramid) else PixelPyramid.of(maps)
        boxes = boxes_xyxy_abs.detach().flatten(0, 1)
        num_images, num_proposals = boxes_xyxy_abs.shape[:2]
        pixels = pyramid.pixels
        level = assign_levels(boxes, MIN_LEVEL, MIN_LEVEL + len(pyramid.sizes_hw) - 1)
        exists = level >= 0
        index = (level - MIN_LEVEL).clamp(min=0)
        sizes_hw = pyramid.sizes_hw[index]
        widths = sizes_hw[:, 1]
        image = torch.arange(num_images, device=boxes.device).repeat_interleave(num_proposals)
        first = pyramid.starts[index] + image * sizes_hw.prod(1)

        scaled = boxes * torch.exp2(-level.clamp(min=MIN_LEVEL).to(boxes.dtype))[:, None] - 0.5
        cells, cell_weights = self._samples(scaled[:, :2], scaled[:, 2:], sizes_hw.flip(1))
        (columns, rows), (column_weights, row_weights) = cells.unbind(1), cell_weights.unbind(1)
        size, taps = self.output_size, 2 * self.sampling_ratio
        shape = (len(boxes) * size * size, taps * taps)
        # (R, S, 1, taps, 1) rows against (R, 1, S, 1, taps) columns: every bin with every pixel it draws on.
        row_starts = first[:, None, None] + rows * widths[:, None, None]
        where = row_starts[:, :, None, :, None] + columns[:, None, :, None, :]
        row_weights = row_weights * exists[:, None, None] / self.sampling_ratio**2
        weights = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]
        pooled = F.embedding_bag(
            where.view(shape), pixels, mode="sum", per_sample_weights=weights.view(shape).to(pixels.dtype)
        )
        return pooled.view(len(boxes), size * size, -1).transpose(1, 2).unflatten(2, (size, size))

    def _samples(self, low: Tensor, high: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Cells and weights along (x, y): edges and lengths (R, 2) to twice (R, 2, S, 2 * sampling_ratio)."""
        bin_size = (high - low) / self.output_size
        ratio = self.sampling_ratio
        bins = torch.arange(self.output_size, device=low.device)
        within = (torch.arange(ratio, device=low.device, dtype=low.dtype) + 0.5) / ratio
        start = low[..., None] + bins * bin_size[..., None]
        position = start[..., None] + within * bin_size[..., None, None]  # (R, 2, S, ratio)
        last = (length - 1)[..., None, None]
        # As RoIAlign: a sample more than a pixel outside counts nothing, one at the rim is the rim's pixel.
        inside = (position >= -1) & (position <= length[..., None, None])
        position = position.clamp(min=0).nan_to_num(0.0).clamp(max=1e9)
        floor = position.floor().to(torch.int64)
        at_rim = floor >= last
        floor = torch.where(at_rim, last, floor)
        fraction = torch.where(at_rim, 0.0, position - floor)
        cells = torch.stack((floor, torch.where(at_rim, last, floor + 1)), dim=-1)
        weights = torch.stack((1 - fraction, fraction), dim=-1) * inside[..., None]
        return cells.flatten(3), weights.flatten(3)


class GatherRoIAlign(MultiLevelRoIAlign):
    """`MultiLevelRoIAlign` by the name under which finished runs and weights files of ``roi_pooler=gather`` know it."""
