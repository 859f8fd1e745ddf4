"""Batch norms of another epsilon than ours, which leaves no trace in their tensors."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

NORM_EPS = 1e-5  # of our frozen batch norm
COCO_V1_NORM_EPS = 0.0  # of torchvision's detectors with the weights COCO_V1, and of what was fine-tuned from them


def with_our_eps(state: Mapping[str, Tensor], norm_eps: float) -> dict[str, Tensor]:
    """Tensors whose batch norms give with our epsilon the numbers that they gave with ``norm_eps``: the norms' weights
    make up for the difference.
    """
    scaled = dict(state)
    if norm_eps == NORM_EPS:
        return scaled
    for name in (n for n in state if n.endswith(".running_var")):
        variance = state[name].double()
        weight = name.replace(".running_var", ".weight")
        factor = ((variance + NORM_EPS) / (variance + norm_eps)).sqrt().nan_to_num(1.0, 1.0)
        scaled[weight] = (state[weight].double() * factor).to(state[weight].dtype)
    return scaled
