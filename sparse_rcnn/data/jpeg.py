"""Colour JPEG files straight to tensors."""

from __future__ import annotations

import simplejpeg
import torch
from PIL import ImageFile
from torch import Tensor


def decode_jpeg(file: ImageFile.ImageFile) -> Tensor | None:
    """The pixels uint8 (3, H, W) of an opened and not yet loaded JPEG of three channels, as stored.

    Pillow and simplejpeg both decode with libjpeg-turbo, to the same pixels (``tests/sparse_rcnn/data/test_jpeg.py``);
    simplejpeg makes no copies on the way. The channels of a pixel lie side by side in memory (channels-last).

    Returns:
        None for one with any fault: Pillow reads it all the same, or states the reason.
    """
    assert file.fp is not None
    position = file.fp.tell()
    file.fp.seek(0)
    content = file.fp.read()
    file.fp.seek(position)
    try:
        pixels = simplejpeg.decode_jpeg(content, "RGB")
    except ValueError:
        return None
    return torch.from_numpy(pixels).permute(2, 0, 1)
