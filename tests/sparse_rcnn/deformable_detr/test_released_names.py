from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from sparse_rcnn.architecture import build
from sparse_rcnn.deformable_detr.released_names import (
    infer_deformable_architecture,
    our_deformable_to_released,
    released_deformable_to_ours,
    released_names,
)
from sparse_rcnn.errors import CheckpointError
from tests.support.deformable_detr import deformable_architecture
from tests.support.detectors import resnet
from tests.support.paths import shared

FILES = {
    "param_names_deformable_detr_r50.json": 8,
    "param_names_deformable_detr_r50_hidden64_2_2_12q_5cls.json": 4,
}
NUM_TRAINABLE = {
    "param_names_deformable_detr_r50.json": 39_847_265,
    "param_names_deformable_detr_r50_hidden64_2_2_12q_5cls.json": 24_837_195,
}


def rows_of(file: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(shared(f"golden/detr/{file}").read_text())
    return rows


@pytest.mark.parametrize("file", FILES)
def test_names_shapes_kinds_and_shared_tensors_are_the_releases(file: str) -> None:
    rows = rows_of(file)
    with torch.device("meta"):
        released = {row["name"]: torch.empty(row["shape"]) for row in rows}
        architecture = infer_deformable_architecture(released, FILES[file])
        model = build(architecture)
    num_layers = architecture["decoder"]["num_layers"]
    parameters = dict(model.named_parameters())
    wanted = {row["name"]: row for row in rows}
    found = {}
    for ours, tensor in model.state_dict().items():
        first, *others = released_names(ours, num_layers)
        for name in (first, *others):
            kind = "parameter" if ours in parameters else "buffer"
            trainable = ours in parameters and parameters[ours].requires_grad
            found[name] = {"name": name, "shape": list(tensor.shape), "kind": kind, "trainable": trainable}
        for name in others:
            found[name]["same_tensor_as"] = first
    assert found == wanted
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == NUM_TRAINABLE[file]


def small(**changes: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and description of a detector with a ResNet-50, which alone has released names."""
    description = deformable_architecture(bottom_up=resnet(50), **changes)
    torch.manual_seed(0)
    return build(description).state_dict(), description


@pytest.fixture(scope="module")
def ours() -> dict[str, Tensor]:
    return small()[0]


@pytest.fixture(scope="module")
def released(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    return our_deformable_to_released(ours, small_description())


def small_description() -> dict[str, Any]:
    return deformable_architecture(bottom_up=resnet(50))


def test_there_and_back(ours: dict[str, Tensor], released: dict[str, Tensor]) -> None:
    assert released["class_embed.0.bias"] is released["class_embed.1.bias"]
    assert not any(name.startswith(("class_embed.2", "bbox_embed.2")) for name in released)
    back, architecture = released_deformable_to_ours(released, num_heads=4)
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in ours.items())
    assert architecture == small_description()


def test_other_checkpoints_are_named(released: dict[str, Tensor]) -> None:
    some = torch.zeros(1)
    cases: list[tuple[dict[str, Tensor | None], str]] = [
        ({"transformer.enc_output.weight": some}, "two-stage Deformable DETR: only the basic"),
        ({"transformer.decoder.bbox_embed.0.layers.0.weight": some}, "box refinement: only the basic"),
        ({"class_embed.1.bias": released["class_embed.1.bias"] + 1}, "heads of their own.*: class_embed.1.bias"),
        ({"query_embed.weight": None}, "tensor query_embed.weight is missing"),
        ({"query_embed.weight": some}, r"query_embed.weight has shape \(1,\), 2 dimensions expected"),
        ({"query_embed.weight": torch.zeros(6, 32)}, "query_embed.weight is 32 wide, not 64"),
        ({"transformer.level_embed": torch.zeros(1, 32)}, "of 1 level: only several"),
        ({"input_proj.0.0.bias": None}, "input_proj.0.0.bias is missing"),
        ({"strange": some}, "strange is not part of the model"),
        ({"backbone.0.body.layer3.6.conv1.weight": some}, "no ResNet-50 or 101: layer3 has 7 blocks"),
        ({"backbone.0.body.layer3.8.conv1.weight": some}, r"backbone.0.body.layer3.*it holds \[0, 1, 2, 3, 4, 5, 8\]"),
    ]
    for changes, message in cases:
        state = {name: tensor for name, tensor in (released | changes).items() if tensor is not None}
        with pytest.raises(CheckpointError, match=message):
            released_deformable_to_ours(state, num_heads=4)
    with pytest.raises(CheckpointError, match="has 32 rows, no multiple of 3 heads times 4 levels"):
        released_deformable_to_ours(released, num_heads=3)


def test_variants_without_released_names_are_refused(ours: dict[str, Tensor]) -> None:
    description = small_description()
    with pytest.raises(CheckpointError, match=r"cannot say that model\.backbone\.bottom_up\.stride_in_1x1 is True"):
        our_deformable_to_released(ours, description | {"backbone": {"bottom_up": {"stride_in_1x1": True}}})
    with pytest.raises(CheckpointError, match="the released layout has no name for: extra"):
        our_deformable_to_released(ours | {"extra": torch.zeros(1)}, description)
    plain = build(deformable_architecture())
    with pytest.raises(CheckpointError, match="no ResNet-50 or 101"):
        our_deformable_to_released(plain.state_dict(), deformable_architecture())
