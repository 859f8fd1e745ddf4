"""Residual networks as Detectron's pickles hold them: made up, and computed in plain functions."""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Blobs = dict[str, NDArray[np.float32]]
R50_BLOCKS = (3, 4, 6, 3)


@functools.cache
def blobs(num_blocks: tuple[int, ...] = R50_BLOCKS, has_statistics: bool = False, seed: int = 0) -> Blobs:
    """A network of bottlenecks: Detectron's, whose norms are affine, or Detectron2's, whose norms have statistics."""
    rng = np.random.default_rng(seed)
    found: Blobs = {"fc1000_w": np.zeros((1000, 8), np.float32), "fc1000_b": np.zeros(1000, np.float32)}

    def add(name: str, norm: str, num_out: int, num_in: int, size: int, gain: float) -> None:
        weight = rng.standard_normal((num_out, num_in, size, size), dtype=np.float32)
        found[f"{name}_w"] = weight * np.float32(gain / (num_in * size * size) ** 0.5)
        scale, shift = ("gamma", "beta") if has_statistics else ("s", "b")
        found[f"{norm}_bn_{scale}"] = rng.uniform(0.5, 1, num_out).astype(np.float32)
        found[f"{norm}_bn_{shift}"] = rng.uniform(-0.5, 0.5, num_out).astype(np.float32)
        if has_statistics:
            found[f"{norm}_bn_running_mean"] = rng.uniform(-0.2, 0.2, num_out).astype(np.float32)
            found[f"{norm}_bn_running_var"] = rng.uniform(0.5, 2, num_out).astype(np.float32)

    add("conv1", "res_conv1", 64, 3, 7, gain=0.02)  # of pixels in 0..255
    num_in = 64
    for stage, number in enumerate(num_blocks, start=2):
        width = 64 * 2 ** (stage - 2)
        for block in range(number):
            name = f"res{stage}_{block}_branch"
            if block == 0:
                add(f"{name}1", f"{name}1", 4 * width, num_in, 1, gain=1)
            add(f"{name}2a", f"{name}2a", width, num_in, 1, gain=1.4)
            add(f"{name}2b", f"{name}2b", width, width, 3, gain=1.4)
            add(f"{name}2c", f"{name}2c", 4 * width, width, 1, gain=1)
            num_in = 4 * width
    return found


def forward(found: Blobs, bgr: Tensor, eps: float = 1e-5) -> list[Tensor]:
    """Maps res2 to res5 of images in BGR, 0..255 less the mean; the stride of a stage is in its first 1x1."""

    def conv(x: Tensor, name: str, stride: int = 1, padding: int = 0) -> Tensor:
        return F.conv2d(x, torch.from_numpy(found[f"{name}_w"]), stride=stride, padding=padding)

    def norm(x: Tensor, name: str) -> Tensor:
        def blob(leaf: str) -> Tensor:
            return torch.from_numpy(found[f"{name}_bn_{leaf}"]).view(1, -1, 1, 1)

        if f"{name}_bn_s" in found:
            return x * blob("s") + blob("b")
        return (x - blob("running_mean")) / (blob("running_var") + eps).sqrt() * blob("gamma") + blob("beta")

    x = F.relu(norm(conv(bgr, "conv1", stride=2, padding=3), "res_conv1"))
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    maps = []
    for stage in range(2, 6):
        block = 0
        while f"res{stage}_{block}_branch2a_w" in found:
            name = f"res{stage}_{block}_branch"
            stride = 2 if stage > 2 and block == 0 else 1
            y = F.relu(norm(conv(x, f"{name}2a", stride), f"{name}2a"))
            y = F.relu(norm(conv(y, f"{name}2b", padding=1), f"{name}2b"))
            y = norm(conv(y, f"{name}2c"), f"{name}2c")
            x = F.relu(y + (norm(conv(x, f"{name}1", stride), f"{name}1") if block == 0 else x))
            block += 1
        maps.append(x)
    return maps
