"""What the optimizer gets: few parameter groups, and an explicit rule for other batch sizes."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
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
        lr_multipliers: part of a name to the multiplier of the parameters whose names have it; those of several
            parts multiply, that of the backbone included. A part is one or more whole components of a dotted name:
            `backbone` and `stem.conv` are parts of `backbone.stem.conv.weight`, `back` is none.

    Raises:
        ValueError: no parameter's name has a part.
    """
    names = [name for name, _ in model.named_parameters()]
    for part in lr_multipliers:
        if not any(_has_part(name, part) for name in names):
            raise ValueError(
                f"lr_multipliers: no parameter of the model has {part!r} in its name{_nearest(part, names)}; "
                "give whole components, as they stand between the dots"
            )
    groups: dict[float, list[nn.Parameter]] = {1.0: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factors = [backbone_lr_multiplier] if name.startswith("backbone.") else []
            factors += [factor for part, factor in lr_multipliers.items() if _has_part(name, part)]
            groups.setdefault(math.prod(factors), []).append(parameter)
    return [{"params": group, "lr": lr * factor} for factor, group in groups.items() if group]


def _has_part(name: str, part: str) -> bool:
    return f".{part}." in f".{name}."


def _nearest(part: str, names: Iterable[str]) -> str:
    """` (did you mean 'x'?)` where names have a part of as many components that is near."""
    number = len(part.strip(".").split("."))
    lists = [name.split(".") for name in names]
    parts = {".".join(each[i : i + number]) for each in lists for i in range(len(each) - number + 1)}
    close = difflib.get_close_matches(part, sorted(parts), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def scale_lr(lr: float, lr_scaling: str, batch_size: int, reference_batch_size: int) -> float:
    """The learning rate for a global batch size, by ``none``, ``sqrt`` or ``linear``.

    Raises:
        ValueError: an unknown rule.
    """
    if lr_scaling not in LR_SCALING:
        raise ValueError(f"lr_scaling must be one of {', '.join(LR_SCALING)}, got {lr_scaling!r}")
    return lr * LR_SCALING[lr_scaling](batch_size / reference_batch_size)
