"""Checkpoints in the layout of the authors' release, to and from ours (semantics.md#released-checkpoints)."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from sparse_rcnn.architecture import build
from sparse_rcnn.backbone_layouts import DEPTHS, DETECTRON2, RESNET_TENSOR, detectron2_name
from sparse_rcnn.errors import CheckpointError
from sparse_rcnn.state_dicts import misfits

PIXEL_MEAN = [123.675, 116.28, 103.53]
PIXEL_STD = [58.395, 57.12, 57.375]


def _shape(state: dict[str, Tensor], name: str, dims: int) -> tuple[int, ...]:
    if name not in state:
        raise CheckpointError(f"not a released Sparse R-CNN checkpoint: tensor {name} is missing")
    shape = tuple(state[name].shape)
    if len(shape) != dims:
        raise CheckpointError(
            f"not a released Sparse R-CNN checkpoint: tensor {name} has shape {shape}, {dims} dimensions expected"
        )
    return shape


def infer_architecture(state: dict[str, Tensor]) -> dict[str, Any]:
    """The ``model`` description of a released state dict, from names and shapes alone.

    Depth, proposals, stages, classes and widths are read off; what leaves no trace in the tensors is as in
    the paper: 8 attention heads, 7x7 RoIs with 2 samples, the stride on the 3x3, res2 frozen, no dropout.

    Raises:
        CheckpointError: names the first tensor that is missing or of an impossible shape.
    """
    num_proposals, hidden_dim = _shape(state, "init_proposal_features.weight", 2)
    stage = "head.head_series.0."
    num_classes, _ = _shape(state, stage + "class_logits.weight", 2)
    dim_feedforward, _ = _shape(state, stage + "linear1.weight", 2)
    (dim_dynamic,) = _shape(state, stage + "inst_interact.norm1.weight", 1)
    _, flat = _shape(state, stage + "inst_interact.out_layer.weight", 2)
    stages = {int(m.group(1)) for n in state if (m := re.match(r"head\.head_series\.(\d+)\.", n))}
    num_stages = max(stages) + 1
    if stages != set(range(num_stages)):
        raise CheckpointError(f"not a released Sparse R-CNN checkpoint: it holds stages {sorted(stages)}")

    def num_layers(module: str) -> int:
        return sum(1 for n in state if re.fullmatch(rf"head\.head_series\.0\.{module}\.\d+\.bias", n))

    blocks = DETECTRON2.blocks(state, "backbone.bottom_up.")
    if blocks.depth not in DEPTHS:
        raise CheckpointError(
            f"the backbone is no ResNet-18, 34, 50 or 101: res4 has {blocks.third} (tensors backbone.bottom_up.res4.*)"
        )
    return {
        "_target_": "sparse_rcnn.detector.SparseRCNN",
        "num_stages": num_stages,
        "pixel_mean": PIXEL_MEAN,
        "pixel_std": PIXEL_STD,
        "backbone": {
            "_target_": "sparse_rcnn.backbone.FPNBackbone",
            "hidden_dim": hidden_dim,
            "bottom_up": {
                "_target_": "sparse_rcnn.backbone.ResNet",
                "depth": blocks.depth,
                "stride_in_1x1": False,
                "num_frozen_stages": 2,
            },
        },
        "proposals": {
            "_target_": "sparse_rcnn.proposals.LearnedProposals",
            "num_proposals": num_proposals,
            "hidden_dim": hidden_dim,
            "init": {"_target_": "sparse_rcnn.box_init.ImageInit"},
        },
        "positional_encoding": {"_target_": "sparse_rcnn.positional_encoding.NoEncoding"},
        "roi_pooler": {
            "_target_": "sparse_rcnn.roi_pooler.MultiLevelRoIAlign",
            "output_size": round((flat / hidden_dim) ** 0.5),
            "sampling_ratio": 2,
        },
        "stage": {
            "_target_": "sparse_rcnn.stage.Stage",
            "hidden_dim": hidden_dim,
            "num_classes": num_classes,
            "num_cls_layers": num_layers("cls_module"),
            "num_reg_layers": num_layers("reg_module"),
            "reused_dim": hidden_dim,
            "reuse": {
                "_target_": "sparse_rcnn.reuse.SelfAttention",
                "hidden_dim": hidden_dim,
                "num_heads": 8,
                "dropout": 0.0,
            },
            "interaction": {
                "_target_": "sparse_rcnn.interaction.DynamicInteraction",
                "hidden_dim": hidden_dim,
                "dim_dynamic": dim_dynamic,
                "output_size": round((flat / hidden_dim) ** 0.5),
                "dropout": 0.0,
            },
            "feed_forward": {
                "_target_": "sparse_rcnn.stage.FeedForward",
                "hidden_dim": hidden_dim,
                "dim_feedforward": dim_feedforward,
                "dropout": 0.0,
            },
        },
    }


def released_to_ours(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Rename a released state dict; also give the architecture it holds.

    Raises:
        CheckpointError: names the first tensors that are missing, surplus or of another shape.
    """
    architecture = infer_architecture(state)
    with torch.device("meta"):
        model = build(architecture)
    names = {released: ours for ours in model.state_dict() if (released := released_name(ours, architecture))}
    problems = misfits({name: model.state_dict()[ours] for name, ours in names.items()}, state)
    if problems:
        raise CheckpointError(f"not a released Sparse R-CNN checkpoint: {problems}")
    return {ours: state[released] for released, ours in names.items()}, architecture


def ours_to_released(state: dict[str, Tensor], architecture: dict[str, Any]) -> dict[str, Tensor]:
    """Name our tensors as the authors' release does.

    Raises:
        CheckpointError: the architecture is a variant the release has no names for, or has a setting that
            the release takes for another value; names the first tensors or the setting.
    """
    names = {ours: released_name(ours, architecture) for ours in state}
    unknown = [ours for ours, released in names.items() if released is None]
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        raise CheckpointError(f"the released layout has no name for: {', '.join(unknown[:3])}{more}")
    converted = {released: state[ours] for ours, released in names.items() if released is not None}
    check_untraced(architecture, released_to_ours(converted)[1])  # reading it back also finds what a variant lacks
    return converted


def check_untraced(architecture: dict[str, Any], assumed: dict[str, Any]) -> None:
    """Refuse an architecture with settings that leave no trace and differ from those that readers assume.

    Raises:
        CheckpointError: names the setting.
    """
    readers = untraced_settings(assumed)
    for key, value in untraced_settings(architecture).items():
        if value != readers.get(key, value):
            raise CheckpointError(
                f"the released layout cannot say that {key} is {value}: its readers take {readers[key]}"
            )


# Settings that change what the tensors mean and leave no trace in them.
_UNTRACED = (
    "pixel_mean", "pixel_std", "stride_in_1x1", "num_heads", "output_size", "sampling_ratio",
    "dilation", "with_position", "temperature", "activation", "max_detections",
    "p6_source", "anchor_sizes", "num_scales", "aspect_ratios", "sizes", "strides", "box_weights",
)  # fmt: skip
_POOLERS = {"MultiLevelRoIAlign": True, "GatherRoIAlign": True, "UnalignedRoIAlign": False}


def untraced_settings(node: dict[str, Any], path: str = "model") -> dict[str, Any]:
    """The settings of an architecture that change what its tensors mean and leave no trace in them, by dotted key.

    Of a RoI pooler that includes ``aligned``, whether its class shifts boxes by half a cell of the map.
    """
    found = {f"{path}.{key}": value for key, value in node.items() if key in _UNTRACED}
    pooler = str(node.get("_target_")).rpartition(".")[2]
    if pooler in _POOLERS:
        found[f"{path}.aligned"] = _POOLERS[pooler]
    for key, value in node.items():
        if isinstance(value, dict):
            if key == "positional_encoding":
                found[f"{path}.{key}"] = str(value.get("_target_")).rpartition(".")[2]
            found |= untraced_settings(value, f"{path}.{key}")
    return found


_STAGE_PARTS = [
    ("reuse.attention", "self_attn"),
    ("reuse.norm", "norm1"),
    ("interaction.norm", "norm2"),
    ("interaction", "inst_interact"),
    ("feed_forward.linear1", "linear1"),
    ("feed_forward.linear2", "linear2"),
    ("feed_forward.norm", "norm3"),
]


def released_name(name: str, architecture: dict[str, Any]) -> str | None:
    """The released name of one of our tensors, or None where that layout has none."""
    simple = {
        "proposals.boxes_cxcywh_norm": "init_proposal_boxes.weight",
        "proposals.features": "init_proposal_features.weight",
    }
    if name in simple:
        return simple[name]
    if match := re.fullmatch(r"backbone\.fpn\.(inner|layer)_blocks\.(\d)\.0\.(\w+)", name):
        kind, level, leaf = match.groups()
        return f"backbone.fpn_{'lateral' if kind == 'inner' else 'output'}{int(level) + 2}.{leaf}"
    bottom_up = "backbone.bottom_up."
    if name.startswith(bottom_up) and RESNET_TENSOR.fullmatch(name.removeprefix(bottom_up)):
        return bottom_up + detectron2_name(name.removeprefix(bottom_up))
    if match := re.fullmatch(r"stages\.(\d+)\.(cls|reg)_tower\.(\d+)\.(\w+)", name):
        stage, tower, index, leaf = match.groups()
        last = 3 * architecture["stage"][f"num_{tower}_layers"]  # a layer is Linear, LayerNorm, ReLU
        final = "class_logits" if tower == "cls" else "bboxes_delta"
        part = final if int(index) == last else f"{tower}_module.{index}"
        return f"head.head_series.{stage}.{part}.{leaf}"
    if match := re.fullmatch(r"stages\.(\d+)\.(.+)", name):
        for ours, theirs in _STAGE_PARTS:
            if match[2].startswith(ours + "."):
                return f"head.head_series.{match[1]}.{theirs}{match[2][len(ours) :]}"
    return None
