"""Released names of parameters, to ours and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sparse_rcnn.detr.released_names import our_name, ours_to_released, released_name, released_to_ours
from tests.support.detr import resnet, small_detr
from tests.support.paths import shared


@pytest.mark.parametrize(
    ("ours", "released"),
    [
        ("backbone.bottom_up.layer4.0.downsample.1.running_var", "backbone.0.body.layer4.0.downsample.1.running_var"),
        ("transformer.decoder.layers.1.multihead_attn.in_proj_bias",) * 2,
        ("transformer.decoder.norm.weight",) * 2,
        ("query_embed.weight",) * 2,
        ("input_proj.bias",) * 2,
        ("class_embed.weight",) * 2,
        ("bbox_embed.layers.2.bias",) * 2,
    ],
)
def test_names_both_ways(ours: str, released: str) -> None:
    assert released_name(ours) == released
    assert our_name(released) == ours


def test_a_model_survives_the_way_there_and_back() -> None:
    state = small_detr(bottom_up=resnet(18)).state_dict()
    released = ours_to_released(state)
    assert released.keys() != state.keys()
    assert len(released) == len(state)
    back = released_to_ours(released)
    assert back.keys() == state.keys()
    assert all(back[name] is state[name] for name in state)


def test_every_released_name_is_one_of_ours() -> None:
    path: Path = shared("golden/detr/param_names_detr_r18_hidden64_2_2_10q_5cls.json")
    released = {row["name"]: torch.empty(row["shape"], device="meta") for row in json.loads(path.read_text())}
    with torch.device("meta"):
        model = small_detr(
            num_classes=5, num_queries=10, hidden_dim=64, num_heads=4, dim_feedforward=128, bottom_up=resnet(18)
        )
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert {name: tensor.shape for name, tensor in released_to_ours(released).items()} == wanted
