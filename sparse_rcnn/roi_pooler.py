"""RoI features from a feature pyramid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align


def assign_levels(boxes_xyxy_abs: Tensor, min_level: int, max_level: int) -> Tensor:
    """Pyramid level of each box (..., 4): floor(4 + log2(sqrt(area) / 224 + 1e-8)), clamped (semantics.md#roi-pooling).

    A box whose width and height have different signs has a negative area and belongs to no level: -1. Nor
    does a box that is not finite, from which torchvision's RoIAlign on a CPU would read anywhere in memory.
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


class MultiLevelRoIAlign(RoIPooler):
    """torchvision's RoIAlign on the pyramid level that fits the size of each box (semantics.md#roi-pooling).

    Boxes get no gradient.

    Args:
        output_size: side S of the pooled map (7).
        sampling_ratio: samples per bin and axis (2).
    """

    def forward(self, maps: Sequence[Tensor], boxes_xyxy_abs: Tensor) -> Tensor:
        """Maps p2.. (N, C, h, w) at strides 4, 8, ... and boxes (N, P, 4) to (N * P, C, S, S)."""
        boxes = boxes_xyxy_abs.detach()
        num_images, num_proposals = boxes.shape[:2]
        levels = assign_levels(boxes, MIN_LEVEL, MIN_LEVEL + len(maps) - 1).flatten()
        image_index = torch.arange(num_images, device=boxes.device).repeat_interleave(num_proposals)
        rois = torch.cat((image_index[:, None].to(boxes.dtype), boxes.flatten(0, 1)), dim=1)
        size = self.output_size
        pooled = maps[0].new_zeros(len(rois), maps[0].shape[1], size, size)
        for level, feature_map in enumerate(maps, MIN_LEVEL):
            index = (levels == level).nonzero()[:, 0]
            # In float32 at least: bfloat16 would round a coordinate of 700 pixels by two.
            dtype = torch.promote_types(feature_map.dtype, rois.dtype)
            part = roi_align(
                feature_map.to(dtype),
                rois[index].to(dtype),
                size,
                1 / 2**level,
                self.sampling_ratio,
                aligned=True,
            )
            pooled = pooled.index_copy(0, index, part.to(pooled.dtype))
        return pooled


class GatherRoIAlign(RoIPooler):
    """The same numbers as ``MultiLevelRoIAlign`` up to rounding, as one weighted gather over all levels.

    Every bin is a weighted sum of 4 * sampling_ratio**2 pixels, so all bins of all boxes on all levels are one
    ``embedding_bag`` over the pixels of the pyramid: no kernel per level, no wait for the device to count the
    boxes of a level, and several times faster on a CPU, where RoIAlign has a backward pass on one thread.
    It copies the pyramid once per stage: made for small maps.
    """

    def forward(self, maps: Sequence[Tensor], boxes_xyxy_abs: Tensor) -> Tensor:
        """Maps p2.. (N, C, h, w) at strides 4, 8, ... and boxes (N, P, 4) to (N * P, C, S, S)."""
        boxes = boxes_xyxy_abs.detach().flatten(0, 1)
        num_images, num_proposals = boxes_xyxy_abs.shape[:2]
        device = boxes.device
        pixels = torch.cat([m.permute(0, 2, 3, 1).flatten(0, 2) for m in maps])
        sizes = [tuple(m.shape[2:]) for m in maps]
        starts = [0]
        for h, w in sizes[:-1]:
            starts.append(starts[-1] + num_images * h * w)
        level = assign_levels(boxes, MIN_LEVEL, MIN_LEVEL + len(maps) - 1)
        exists = level >= 0
        index = (level - MIN_LEVEL).clamp(min=0)
        heights, widths = torch.tensor(sizes, device=device)[index].unbind(1)
        image = torch.arange(num_images, device=device).repeat_interleave(num_proposals)
        first = torch.tensor(starts, device=device)[index] + image * heights * widths

        scaled = boxes * torch.exp2(-level.clamp(min=MIN_LEVEL).to(boxes.dtype))[:, None] - 0.5
        rows, row_weights = self._samples(scaled[:, 1], scaled[:, 3], heights)
        columns, column_weights = self._samples(scaled[:, 0], scaled[:, 2], widths)
        size, taps = self.output_size, 2 * self.sampling_ratio
        shape = (len(boxes) * size * size, taps * taps)
        # (R, S, 1, taps, 1) rows against (R, 1, S, 1, taps) columns: every bin with every pixel it draws on.
        rows, row_weights = rows[:, :, None, :, None], row_weights[:, :, None, :, None]
        columns, column_weights = columns[:, None, :, None, :], column_weights[:, None, :, None, :]
        where = first.view(-1, 1, 1, 1, 1) + rows * widths.view(-1, 1, 1, 1, 1) + columns
        weights = row_weights * column_weights / self.sampling_ratio**2 * exists.view(-1, 1, 1, 1, 1)
        pooled = F.embedding_bag(
            where.reshape(shape),
            pixels,
            mode="sum",
            per_sample_weights=weights.reshape(shape).to(pixels.dtype),
        )
        return pooled.view(len(boxes), size * size, -1).transpose(1, 2).unflatten(2, (size, size))

    def _samples(self, low: Tensor, high: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels and weights along one axis: (R,) edges and lengths to twice (R, S, 2 * sampling_ratio)."""
        bin_size = (high - low) / self.output_size
        ratio = self.sampling_ratio
        bins = torch.arange(self.output_size, device=low.device)
        within = (torch.arange(ratio, device=low.device, dtype=low.dtype) + 0.5) / ratio
        start = low[:, None] + bins * bin_size[:, None]
        position = start[:, :, None] + within * bin_size[:, None, None]  # (R, S, ratio)
        last = (length - 1)[:, None, None]
        # As RoIAlign: a sample more than a pixel outside counts nothing, one at the rim is the rim's pixel.
        inside = (position >= -1) & (position <= length[:, None, None])
        position = position.clamp(min=0).nan_to_num(0.0).clamp(max=1e9)
        floor = position.floor().to(torch.int64)
        at_rim = floor >= last
        floor = torch.where(at_rim, last, floor)
        fraction = torch.where(at_rim, 0.0, position - floor)
        pixels = torch.stack((floor, torch.where(at_rim, last, floor + 1)), dim=-1)
        weights = torch.stack((1 - fraction, fraction), dim=-1) * inside[..., None]
        return pixels.flatten(2), weights.flatten(2)
