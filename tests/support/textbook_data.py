"""Reading and augmenting as a textbook would, with Pillow and NumPy: another reference, and the yardstick of speed.

Written from ../shared/spec/sparse_rcnn.md: flip, with a probability a resize and a crop, resize, clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

Loaded = tuple[Tensor, Tensor, Tensor]


class TextbookMapper:
    """An image file with its boxes to a training sample.

    Args:
        short_sides, max_long_side: of the last resize.
        flip_probability: of the horizontal flip.
        crop: probability, short sides, smallest and largest side of the crop; None: none.
    """

    def __init__(
        self,
        short_sides: Sequence[int],
        max_long_side: int,
        flip_probability: float,
        crop: tuple[float, Sequence[int], int, int] | None,
    ) -> None:
        self.short_sides, self.max_long_side = short_sides, max_long_side
        self.flip_probability, self.crop = flip_probability, crop

    def __call__(self, path: Path, boxes_xyxy_abs: Tensor, labels: Tensor, rng: np.random.Generator) -> Loaded:
        """Boxes (M, 4) and labels (M,) of the file to a uint8 image (3, H, W), its boxes and labels."""
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file).convert("RGB")
        boxes = boxes_xyxy_abs.numpy().astype(np.float64)
        if rng.random() < self.flip_probability:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            boxes = np.stack((image.width - boxes[:, 2], boxes[:, 1], image.width - boxes[:, 0], boxes[:, 3]), 1)
        if self.crop is not None and rng.random() < self.crop[0]:
            _, short_sides, least, most = self.crop
            image, boxes = resized(image, boxes, int(rng.choice(short_sides)), None)
            width = int(rng.integers(min(image.width, least), min(image.width, most) + 1))
            height = int(rng.integers(min(image.height, least), min(image.height, most) + 1))
            left = int(rng.integers(0, image.width - width + 1))
            top = int(rng.integers(0, image.height - height + 1))
            image = image.crop((left, top, left + width, top + height))
            boxes = boxes - [left, top, left, top]
        image, boxes = resized(image, boxes, int(rng.choice(self.short_sides)), self.max_long_side)
        boxes = boxes.clip(0, [image.width, image.height, image.width, image.height])
        kept = (boxes[:, 2] - boxes[:, 0] > 1e-5) & (boxes[:, 3] - boxes[:, 1] > 1e-5)
        pixels = torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())
        return pixels, torch.from_numpy(boxes[kept]).float(), labels[torch.from_numpy(kept)]


def resized(
    image: Image.Image, boxes: np.ndarray, short_side: int, max_long_side: int | None
) -> tuple[Image.Image, np.ndarray]:
    """The short side of an image made so long, or the long one its limit; boxes move along."""
    width, height = image.size
    ratio = short_side / min(width, height)
    if max_long_side is not None:
        ratio = min(ratio, max_long_side / max(width, height))
    new_width, new_height = int(width * ratio + 0.5), int(height * ratio + 0.5)
    factors = [new_width / width, new_height / height] * 2
    return image.resize((new_width, new_height), Image.Resampling.BILINEAR), boxes * factors


def padded(images: Sequence[Tensor], size_divisor: int) -> Tensor:
    """Images (3, H, W) in one tensor, zero at the right and bottom."""
    height, width = (-(-max(image.shape[i] for image in images) // size_divisor) * size_divisor for i in (1, 2))
    batch = torch.zeros(len(images), 3, height, width, dtype=torch.uint8)
    for i, image in enumerate(images):
        batch[i, :, : image.shape[1], : image.shape[2]] = image
    return batch
