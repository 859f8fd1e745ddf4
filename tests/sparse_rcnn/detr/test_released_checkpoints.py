"""The architecture of a released state dict, and its classes for ours and back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sparse_rcnn.architecture import build
from sparse_rcnn.detr.released_checkpoints import from_released
from sparse_rcnn.detr.released_names import ours_to_released
from sparse_rcnn.errors import CheckpointError
from tests.support.detr import detr_architecture, resnet

State = dict[str, Tensor]


def released(depth: int = 18, **changes: Any) -> tuple[State, dict[str, Any]]:
    """A released state dict on the meta device, and the architecture that it comes from."""
    described = detr_architecture(bottom_up=resnet(depth), num_heads=8, **changes)
    with torch.device("meta"):
        return ours_to_released(build(described).state_dict()), described


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"depth": 34, "num_layers": 1, "num_queries": 1, "num_classes": 1},
        {"depth": 50, "num_layers": 6, "hidden_dim": 256, "dim_feedforward": 2048, "num_queries": 100},
        {"depth": 101, "num_classes": 91, "dilation": True},
        {"norm_first": True},
    ],
)
def test_architectures_are_read_off(changes: dict[str, Any]) -> None:
    state, described = released(**changes)
    ours, inferred = from_released(state, dilation=changes.get("dilation", False), num_heads=8, with_position=True)
    assert inferred == described
    assert ours_to_released(ours).keys() == state.keys()


def without(state: State, name: str) -> State:
    return {n: t for n, t in state.items() if n != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "query_embed.weight"), r"tensor query_embed\.weight is missing"),
        (lambda s: s | {"class_embed.weight": torch.empty(3)}, r"class_embed\.weight has shape \(3,\), 2 dimensions"),
        (lambda s: without(s, "transformer.decoder.norm.bias"), r"transformer\.decoder\.norm\.bias is missing"),
        (lambda s: s | {"bbox_attention.q_linear.weight": torch.empty(1)}, "bbox_attention.* is not part of the model"),
        (lambda s: {n.replace("layers.0", "layers.7"): t for n, t in s.items()}, r"decoder\.layers\.0\.linear1"),
        (lambda s: {n.replace("layers.1", "layers.2"): t for n, t in s.items()}, r"encoder has the layers \[0, 2\]"),
        (
            lambda s: {n.replace("layer3.1", "layer3.9"): t for n, t in s.items()},
            r"layer3\.1\.conv1\.weight is missing",
        ),
        (lambda s: {n: t for n, t in s.items() if "layer3.1" not in n}, "not a ResNet-18.* layer3 has 1 basic blocks"),
    ],
)
def test_what_is_no_released_checkpoint(change: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        from_released(change(released()[0]), dilation=False, num_heads=8, with_position=True)
