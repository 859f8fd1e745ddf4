"""The normalisation of a padded batch, whose padding becomes zero."""

from __future__ import annotations

from torch import Tensor

from sparse_rcnn.detr.padding_mask import padding_mask


def normalized(images: Tensor, image_sizes_hw: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Float images (N, 3, H, W) of sizes (N, 2) less ``mean`` over ``std``, both (3, 1, 1), with zeros as padding."""
    mask = padding_mask(image_sizes_hw, images.shape[2], images.shape[3])
    return ((images - mean) / std).masked_fill(mask[:, None], 0.0)
