"""The precisions and memory formats that a forward pass can run in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

PRECISIONS = ("fp32", "bf16")


def exact(device: torch.device) -> AbstractContextManager[Any]:
    """The context of what needs float32 within an autocast forward pass; nothing on the meta device, which has none."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def memory_format(channels_last: bool) -> torch.memory_format:
    """The layout of a model's weights, which its maps take over: channels-last or PyTorch's usual one."""
    return torch.channels_last if channels_last else torch.contiguous_format


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """The context a forward pass runs in: nothing for ``fp32``, autocast for ``bf16``.

    Raises:
        ValueError: another precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
