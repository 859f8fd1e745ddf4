"""Pictures of noise, as tensors and as PIL's."""

from __future__ import annotations

import torch
from PIL import Image


def picture(height: int = 40, width: int = 60, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def to_pil(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())
