"""The values that pass between the data pipeline, the detector, the criterion and the evaluation."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Targets:
    """Ground truth of a batch, padded to the largest number of boxes M of an image.

    Shapes: ``boxes_xyxy_abs`` (N, M, 4) float32 in pixels of the resized, unpadded image; ``labels`` (N, M)
    int64 contiguous class indices. Rows past ``num_per_image[i]`` are zero. The counts live on the host, so
    that no device has to be asked for them. ``num_per_image`` has N entries; M may be 0.
    """

    boxes_xyxy_abs: Tensor
    labels: Tensor
    num_per_image: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.num_per_image)

    @property
    def num_boxes(self) -> int:
        """Ground-truth boxes in the batch."""
        return sum(self.num_per_image)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Targets:
        return replace(
            self,
            boxes_xyxy_abs=self.boxes_xyxy_abs.to(device, non_blocking=non_blocking),
            labels=self.labels.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> Targets:
        return replace(self, boxes_xyxy_abs=self.boxes_xyxy_abs.pin_memory(), labels=self.labels.pin_memory())

    @classmethod
    def from_lists(cls, boxes_xyxy_abs: list[Tensor], labels: list[Tensor]) -> Targets:
        """Pad per-image boxes (M_i, 4) and labels (M_i,) to one tensor each."""
        counts = tuple(len(b) for b in boxes_xyxy_abs)
        num_images, num_max = len(counts), max(counts, default=0)
        device = boxes_xyxy_abs[0].device if boxes_xyxy_abs else torch.device("cpu")
        padded_boxes = torch.zeros(num_images, num_max, 4, device=device)
        padded_labels = torch.zeros(num_images, num_max, dtype=torch.int64, device=device)
        for i, (b, y) in enumerate(zip(boxes_xyxy_abs, labels, strict=True)):
            padded_boxes[i, : len(b)] = b
            padded_labels[i, : len(y)] = y
        return cls(padded_boxes, padded_labels, counts)


@dataclass(frozen=True)
class Batch:
    """Images of a step, raw and zero-padded at the right and bottom, with what is known of them.

    Shapes: ``images`` (N, 3, H, W) uint8 or float, RGB, 0..255, H and W multiples of 32; ``image_sizes_hw``
    (N, 2) int64, the resized, unpadded sizes; ``original_sizes_hw`` (N, 2) int64, the sizes of the files;
    ``image_ids`` the COCO ids. Normalisation happens in the detector, on the device: a uint8 batch is a
    quarter of the transfer.
    """

    images: Tensor
    image_sizes_hw: Tensor
    original_sizes_hw: Tensor
    image_ids: tuple[int, ...]
    targets: Targets

    def __len__(self) -> int:
        return len(self.image_ids)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        return replace(
            self,
            images=self.images.to(device, non_blocking=non_blocking),
            image_sizes_hw=self.image_sizes_hw.to(device, non_blocking=non_blocking),
            original_sizes_hw=self.original_sizes_hw.to(device, non_blocking=non_blocking),
            targets=self.targets.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> Batch:
        return replace(
            self,
            images=self.images.pin_memory(),
            image_sizes_hw=self.image_sizes_hw.pin_memory(),
            original_sizes_hw=self.original_sizes_hw.pin_memory(),
            targets=self.targets.pin_memory(),
        )


@dataclass(frozen=True)
class StageOutput:
    """What one stage says: ``logits`` (N, P, K) and ``boxes_xyxy_abs`` (N, P, 4) in resized pixels."""

    logits: Tensor
    boxes_xyxy_abs: Tensor


@dataclass(frozen=True)
class Detections:
    """Detections of one image: ``boxes_xyxy_abs`` (D, 4), ``scores`` (D,) descending, ``labels`` (D,)."""

    boxes_xyxy_abs: Tensor
    scores: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.scores)

    def to(self, device: torch.device | str) -> Detections:
        return Detections(self.boxes_xyxy_abs.to(device), self.scores.to(device), self.labels.to(device))

    def above(self, score_threshold: float) -> Detections:
        """The detections whose score is at least ``score_threshold``."""
        keep = self.scores >= score_threshold
        return Detections(self.boxes_xyxy_abs[keep], self.scores[keep], self.labels[keep])
