"""Checkpoints of the authors' DETR: the architecture that they hold, and their classes for ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sparse_rcnn.architecture import build
from sparse_rcnn.backbone_layouts import torchvision_depth
from sparse_rcnn.convert import PIXEL_MEAN, PIXEL_STD
from sparse_rcnn.detr.released_names import RELEASED_BACKBONE, our_name, released_to_ours
from sparse_rcnn.errors import CheckpointError
from sparse_rcnn.state_dicts import misfits


def infer_architecture(
    state: Mapping[str, Tensor], dilation: bool, num_heads: int, with_position: bool
) -> dict[str, Any]:
    """The ``model`` description of a released state dict (the entry ``model`` of the files).

    Depth, queries, classes, layers, widths and norms are read off; what leaves no trace in the tensors is as in the
    paper: ReLU, sine encoding, the stride on the 3x3, res2 frozen; no dropout. Three settings more are asked for.

    Args:
        state: tensors by released names.
        dilation: whether it is a DC5 model, whose tensors are the same.
        num_heads: of all attentions; 8 in every released model.
        with_position: False is the model without spatial encoding.

    Raises:
        CheckpointError: names the first tensor that is missing or of an impossible shape.
    """
    num_queries, hidden_dim = _shape(state, "query_embed.weight", 2)
    num_logits, _ = _shape(state, "class_embed.weight", 2)
    dim_feedforward, _ = _shape(state, "transformer.decoder.layers.0.linear1.weight", 2)
    return {
        "_target_": "sparse_rcnn.detr.detector.DETR",
        "num_classes": num_logits - 1,
        "num_queries": num_queries,
        "with_position": with_position,
        "pixel_mean": PIXEL_MEAN,
        "pixel_std": PIXEL_STD,
        "backbone": {
            "_target_": "sparse_rcnn.detr.backbone.LastMapBackbone",
            "level": 5,
            "dilation": dilation,
            "bottom_up": {
                "_target_": "sparse_rcnn.backbone.ResNet",
                "depth": torchvision_depth(state, RELEASED_BACKBONE),
                "stride_in_1x1": False,
                "num_frozen_stages": 2,
            },
        },
        "position_encoding": {
            "_target_": "sparse_rcnn.detr.sine_encoding.MaskSineEncoding",
            "hidden_dim": hidden_dim,
            "temperature": 10000.0,
        },
        "transformer": {
            "_target_": "sparse_rcnn.detr.transformer.Transformer",
            "hidden_dim": hidden_dim,
            "num_heads": num_heads,
            "num_encoder_layers": _num_layers(state, "encoder"),
            "num_decoder_layers": _num_layers(state, "decoder"),
            "dim_feedforward": dim_feedforward,
            "dropout": 0.0,
            "activation": "relu",
            "norm_first": "transformer.encoder.norm.weight" in state,
        },
    }


def from_released(
    state: Mapping[str, Tensor], dilation: bool, num_heads: int, with_position: bool
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A released state dict by our names, and the architecture that it holds.

    Args: as ``infer_architecture``.

    Raises:
        CheckpointError: names the first tensors that are missing, surplus or of another shape.
    """
    architecture = infer_architecture(state, dilation, num_heads, with_position)
    with torch.device("meta"):
        wanted = build(architecture).state_dict()
    problems = misfits(wanted, {our_name(name): tensor for name, tensor in state.items()})
    if problems:
        raise CheckpointError(f"not a released DETR checkpoint: {problems}")
    return released_to_ours(state), architecture


def _shape(state: Mapping[str, Tensor], name: str, num_dims: int) -> tuple[int, ...]:
    if name not in state:
        raise CheckpointError(f"not a released DETR checkpoint: tensor {name} is missing")
    shape = tuple(state[name].shape)
    if len(shape) != num_dims:
        raise CheckpointError(
            f"not a released DETR checkpoint: tensor {name} has shape {shape}, {num_dims} dimensions expected"
        )
    return shape


def _num_layers(state: Mapping[str, Tensor], stack: str) -> int:
    layers = _indices(state, rf"transformer\.{stack}\.layers\.(\d+)\.")
    if layers != set(range(len(layers))):
        raise CheckpointError(f"not a released DETR checkpoint: its {stack} has the layers {sorted(layers)}")
    return len(layers)


def _indices(state: Mapping[str, Tensor], pattern: str) -> set[int]:
    return {int(found[1]) for name in state if (found := re.match(pattern, name))}
