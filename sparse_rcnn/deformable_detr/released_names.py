"""Checkpoints of Deformable DETR in the layout of the authors' release, to and from ours."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from sparse_rcnn.architecture import build
from sparse_rcnn.backbone_layouts import TORCHVISION
from sparse_rcnn.convert import PIXEL_MEAN, PIXEL_STD, check_untraced
from sparse_rcnn.errors import CheckpointError
from sparse_rcnn.state_dicts import first_three, misfits

_NOT_RELEASED = "not a released Deformable DETR checkpoint"
_PACKAGE = "sparse_rcnn.deformable_detr"
NUM_BACKBONE_LEVELS = 3

_ENCODER_PARTS = [
    ("attention", "self_attn"),
    ("norm", "norm1"),
    ("feed_forward.norm", "norm2"),
    ("feed_forward.linear1", "linear1"),
    ("feed_forward.linear2", "linear2"),
]
# The decoder's norms are numbered by an order that is not that of its layers.
_DECODER_PARTS = [
    ("self_attention", "self_attn"),
    ("self_norm", "norm2"),
    ("cross_attention", "cross_attn"),
    ("cross_norm", "norm1"),
    ("feed_forward.norm", "norm3"),
    ("feed_forward.linear1", "linear1"),
    ("feed_forward.linear2", "linear2"),
]
_PREFIXES = [
    ("backbone.bottom_up.", "backbone.0.body."),
    ("input_proj.levels.", "input_proj."),
    ("level_embed", "transformer.level_embed"),
    ("reference_points.", "transformer.reference_points."),
    ("query_embed.", "query_embed."),
]


def released_names(name: str, num_decoder_layers: int) -> list[str]:
    """The released names of one of our tensors: one for each decoder layer of a shared head, none for a stranger."""
    if match := re.fullmatch(r"(class_embed|bbox_embed)\.(.+)", name):
        return [f"{match[1]}.{layer}.{match[2]}" for layer in range(num_decoder_layers)]
    if match := re.fullmatch(r"(encoder|decoder)\.layers\.(\d+)\.(.+)", name):
        for ours, theirs in _ENCODER_PARTS if match[1] == "encoder" else _DECODER_PARTS:
            if match[3].startswith(ours + "."):
                return [f"transformer.{match[1]}.layers.{match[2]}.{theirs}{match[3][len(ours) :]}"]
        return []
    for ours, theirs in _PREFIXES:
        if name.startswith(ours):
            return [theirs + name[len(ours) :]]
    return []


def _shape(state: dict[str, Tensor], name: str, dims: int) -> tuple[int, ...]:
    if name not in state:
        raise CheckpointError(f"{_NOT_RELEASED}: tensor {name} is missing")
    shape = tuple(state[name].shape)
    if len(shape) != dims:
        raise CheckpointError(f"{_NOT_RELEASED}: tensor {name} has shape {shape}, {dims} dimensions expected")
    return shape


def _num_layers(state: dict[str, Tensor], pattern: str) -> int:
    found = {int(m.group(1)) for name in state if (m := re.match(pattern, name))}
    if found != set(range(len(found))):
        raise CheckpointError(f"{_NOT_RELEASED}: of {pattern.replace(chr(92), '')} it holds {sorted(found)}")
    return len(found)


def infer_deformable_architecture(state: dict[str, Tensor], num_heads: int) -> dict[str, Any]:
    """The ``model`` description of a released state dict, from names and shapes.

    What leaves no trace in the tensors is as in the paper: no dropout in use, 100 detections, the stride on the 3x3,
    stem and res2 frozen, temperature 10000.

    Args:
        state: by released names.
        num_heads: of all attentions, which leave no trace either; 8 in every released model.

    Raises:
        CheckpointError: names the first tensor that is missing or of an impossible shape, or the variant.
    """
    if any(name.startswith("transformer.enc_output.") for name in state):
        raise CheckpointError("the checkpoint is a two-stage Deformable DETR: only the basic model can be read")
    if any(name.startswith("transformer.decoder.bbox_embed.") for name in state):
        raise CheckpointError(
            "the checkpoint is a Deformable DETR with box refinement: only the basic model can be read"
        )
    num_queries, twice_hidden = _shape(state, "query_embed.weight", 2)
    num_levels, hidden_dim = _shape(state, "transformer.level_embed", 2)
    if twice_hidden != 2 * hidden_dim:
        raise CheckpointError(f"{_NOT_RELEASED}: query_embed.weight is {twice_hidden} wide, not {2 * hidden_dim}")
    if num_levels <= NUM_BACKBONE_LEVELS - 1:
        raise CheckpointError(f"the checkpoint is a Deformable DETR of {num_levels} level: only several can be read")
    num_classes, _ = _shape(state, "class_embed.0.weight", 2)
    num_blocks = _num_layers(state, r"backbone\.0\.body\.layer3\.(\d+)\.")
    blocks = TORCHVISION.blocks(state, "backbone.0.body.")
    if blocks.depth not in (50, 101):
        kind = "" if blocks.are_bottlenecks else "basic "
        raise CheckpointError(
            f"the backbone is no ResNet-50 or 101: layer3 has {num_blocks} {kind}blocks "
            "(tensors backbone.0.body.layer3.*)"
        )

    def stack(name: str, target: str, attention: str) -> dict[str, Any]:
        first = f"transformer.{name}.layers.0."
        points, _ = _shape(state, f"{first}{attention}.attention_weights.weight", 2)
        dim_feedforward, _ = _shape(state, first + "linear1.weight", 2)
        if points % (num_heads * num_levels):
            raise CheckpointError(
                f"{first}{attention}.attention_weights.weight has {points} rows, no multiple of {num_heads} heads "
                f"times {num_levels} levels"
            )
        return {
            "_target_": f"{_PACKAGE}.{name}.{target}",
            "num_layers": _num_layers(state, rf"transformer\.{name}\.layers\.(\d+)\."),
            "hidden_dim": hidden_dim,
            "num_heads": num_heads,
            "num_levels": num_levels,
            "num_points": points // (num_heads * num_levels),
            "dim_feedforward": dim_feedforward,
            "dropout": 0.0,
        }

    return {
        "_target_": f"{_PACKAGE}.detector.DeformableDETR",
        "num_classes": num_classes,
        "num_queries": num_queries,
        "num_levels": num_levels,
        "max_detections": 100,
        "pixel_mean": PIXEL_MEAN,
        "pixel_std": PIXEL_STD,
        "backbone": {
            "_target_": f"{_PACKAGE}.levels.BackboneLevels",
            "bottom_up": {
                "_target_": "sparse_rcnn.backbone.ResNet",
                "depth": blocks.depth,
                "stride_in_1x1": False,
                "num_frozen_stages": 2,
            },
        },
        "position_encoding": {
            "_target_": f"{_PACKAGE}.sine_encoding.CellCentreSineEncoding",
            "hidden_dim": hidden_dim,
            "temperature": 10000,
        },
        "encoder": stack("encoder", "DeformableEncoder", "self_attn"),
        "decoder": stack("decoder", "DeformableDecoder", "cross_attn"),
    }


def released_deformable_to_ours(state: dict[str, Tensor], num_heads: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Rename a released state dict; also give the architecture it holds.

    Raises:
        CheckpointError: names the first tensors that are missing, surplus or of another shape, or heads that differ
            between layers, which makes them those of box refinement.
    """
    architecture = infer_deformable_architecture(state, num_heads)
    with torch.device("meta"):
        model = build(architecture)
    wanted = model.state_dict()
    names = {ours: released_names(ours, architecture["decoder"]["num_layers"]) for ours in wanted}
    shapes = {released: wanted[ours] for ours, copies in names.items() for released in copies}
    problems = misfits(shapes, state)
    if problems:
        raise CheckpointError(f"{_NOT_RELEASED}: {problems}")
    different = [
        other for first, *others in names.values() for other in others if not torch.equal(state[first], state[other])
    ]
    if different:
        raise CheckpointError(
            f"the decoder layers have heads of their own, as with box refinement, and only the basic model can be "
            f"read: {first_three(different)}"
        )
    return {ours: state[copies[0]] for ours, copies in names.items()}, architecture


def our_deformable_to_released(state: dict[str, Tensor], architecture: dict[str, Any]) -> dict[str, Tensor]:
    """Name our tensors as the authors' release does; a shared head is one tensor under the index of every layer.

    Raises:
        CheckpointError: the architecture is a variant the release has no names for, or has a setting that the
            release takes for another value; names the first tensors or the setting.
    """
    num_layers = architecture["decoder"]["num_layers"]
    names = {ours: released_names(ours, num_layers) for ours in state}
    unknown = [ours for ours, copies in names.items() if not copies]
    if unknown:
        raise CheckpointError(f"the released layout has no name for: {first_three(unknown)}")
    converted = {released: state[ours] for ours, copies in names.items() for released in copies}
    # Reading it back also finds what a variant lacks.
    _, assumed = released_deformable_to_ours(converted, architecture["decoder"]["num_heads"])
    check_untraced(architecture, assumed)
    return converted
