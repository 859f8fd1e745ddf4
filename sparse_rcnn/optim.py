"""What the optimizer gets: few parameter groups, and an explicit rule for other batch sizes."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

LR_SCALING = {"none": lambda ratio: 1.0, "sqrt": math.sqrt, "linear": lambda ratio: ratio}


def parameter_groups(model: nn.Module, lr: float, backbone_lr_multiplier: float) -> list[dict[str, Any]]:
    """All trainable parameters in one group, or two where the backbone has a rate of its own.

    Weight decay is on everything (semantics.md#optimisation), so nothing else splits the groups: fused and
    foreach optimizers like few.
    """
    trainable = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    if backbone_lr_multiplier == 1:
        return [{"params": [p for _, p in trainable], "lr": lr}]
    backbone = [p for n, p in trainable if n.startswith("backbone.")]
    rest = [p for n, p in trainable if not n.startswith("backbone.")]
    return [{"params": rest, "lr": lr}, {"params": backbone, "lr": lr * backbone_lr_multiplier}]


def scale_lr(lr: float, lr_scaling: str, batch_size: int, reference_batch_size: int) -> float:
    """The learning rate for a global batch size, by ``none``, ``sqrt`` or ``linear``.

    Raises:
        ValueError: an unknown rule.
    """
    if lr_scaling not in LR_SCALING:
        raise ValueError(f"lr_scaling must be one of {', '.join(LR_SCALING)}, got {lr_scaling!r}")
    return lr * LR_SCALING[lr_scaling](batch_size / reference_batch_size)
