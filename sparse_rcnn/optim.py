"""What the optimizer gets: few parameter groups, and an explicit rule for other batch sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

LR_SCALING = {"none": lambda ratio: 1.0, "sqrt": math.sqrt, "linear": lambda ratio: ratio}


def parameter_groups(
    model: nn.Module, lr: float, backbone_lr_multiplier: float, lr_multipliers: Mapping[str, float]
) -> list[dict[str, Any]]:
    """All trainable parameters, one group for each learning rate; the group of ``lr`` itself comes first.

    Weight decay is on everything (semantics.md#optimisation), so nothing else splits the groups: fused and
    foreach optimizers like few.

    Args:
        backbone_lr_multiplier: of the parameters of the backbone.
        lr_multipliers: part of a name to the multiplier of the parameters whose names contain it; those of several
            parts multiply, that of the backbone included.

    Raises:
        ValueError: no parameter's name contains a part.
    """
    names = [name for name, _ in model.named_parameters()]
    for part in lr_multipliers:
        if not any(part in name for name in names):
            raise ValueError(f"lr_multipliers: no parameter of the model has {part!r} in its name")
    groups: dict[float, list[nn.Parameter]] = {1.0: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factors = [backbone_lr_multiplier] if name.startswith("backbone.") else []
            factors += [factor for part, factor in lr_multipliers.items() if part in name]
            groups.setdefault(math.prod(factors), []).append(parameter)
    return [{"params": group, "lr": lr * factor} for factor, group in groups.items() if group]


def scale_lr(lr: float, lr_scaling: str, batch_size: int, reference_batch_size: int) -> float:
    """The learning rate for a global batch size, by ``none``, ``sqrt`` or ``linear``.

    Raises:
        ValueError: an unknown rule.
    """
    if lr_scaling not in LR_SCALING:
        raise ValueError(f"lr_scaling must be one of {', '.join(LR_SCALING)}, got {lr_scaling!r}")
    return lr * LR_SCALING[lr_scaling](batch_size / reference_batch_size)
