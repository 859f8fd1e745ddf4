"""Where the dynamic heads look: how much they leave of each position of their RoI features."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def record_responses(stages: nn.ModuleList) -> Iterator[list[Tensor]]:
    """Collect what each stage's forward pass inside leaves of its RoI features, stage by stage.

    Yields:
        A list that grows by one tensor (N, P, S, S) a stage: the norm over the channels of the RoI feature after both
        generated filters (paper section 3.2). It stays empty where the interaction filters nothing.
    """
    found: list[Tensor] = []

    def look(interaction: Any, inputs: tuple[Tensor, Tensor], _: Tensor) -> None:
        object_features, roi_features = inputs
        magnitude = interaction.filter_roi(object_features, roi_features).norm(dim=-1)
        found.append(magnitude.view(*object_features.shape[:2], *roi_features.shape[-2:]))

    interactions: list[Any] = [stage.interaction for stage in stages]
    handles = [each.register_forward_hook(look) for each in interactions if hasattr(each, "filter_roi")]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
