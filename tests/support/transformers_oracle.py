"""transformers' DETR and Deformable DETR, built from a configuration, with the weights of ours."""

from __future__ import annotations

import re
from typing import Any

import pytest
from torch import Tensor, nn

from sparse_rcnn.deformable_detr.released_names import released_names
from sparse_rcnn.detr.released_names import ours_to_released
from sparse_rcnn.query_detector import QueryDetector

_RESNET = [
    (r"^conv1\.", "embedder.embedder.convolution."),
    (r"^bn1\.", "embedder.embedder.normalization."),
    (r"downsample\.0\.", "shortcut.convolution."),
    (r"downsample\.1\.", "shortcut.normalization."),
    (r"conv(\d)\.", lambda m: f"layer.{int(m[1]) - 1}.convolution."),
    (r"bn(\d)\.", lambda m: f"layer.{int(m[1]) - 1}.normalization."),
    (r"^layer(\d)\.(\d+)\.", lambda m: f"encoder.stages.{int(m[1]) - 1}.layers.{m[2]}."),
]
_LAYER = {
    "self_attn": "self_attn",
    "multihead_attn": "encoder_attn",
    "cross_attn": "encoder_attn",
    "linear1": "mlp.fc1",
    "linear2": "mlp.fc2",
}
# Deformable DETR's decoder has its first two norms the other way round.
_NORMS = {
    ("encoder", False): ["self_attn_layer_norm", "final_layer_norm"],
    ("decoder", False): ["self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"],
    ("encoder", True): ["self_attn_layer_norm", "final_layer_norm"],
    ("decoder", True): ["encoder_attn_layer_norm", "self_attn_layer_norm", "final_layer_norm"],
}


def theirs_of(ours: QueryDetector) -> nn.Module:
    """A model of transformers that should compute the same; skips the test where transformers is absent.

    DETR's has no auxiliary losses: with them transformers 5.24 feeds the normed output of each decoder layer on.
    """
    transformers = pytest.importorskip("transformers", reason="transformers is the other implementation here")
    assert ours.card is not None
    architecture = ours.card.architecture
    is_deformable = "encoder" in architecture
    stack = architecture["encoder" if is_deformable else "transformer"]
    resnet = transformers.ResNetConfig(
        embedding_size=64,
        hidden_sizes=[64, 128, 256, 512],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"] if is_deformable else ["stage4"],
    )
    num_layers = stack["num_layers" if is_deformable else "num_encoder_layers"]
    options: dict[str, Any] = {
        "use_timm_backbone": False,
        "use_pretrained_backbone": False,
        "backbone": None,
        "backbone_config": resnet,
        "d_model": stack["hidden_dim"],
        "encoder_layers": num_layers,
        "decoder_layers": num_layers,
        "encoder_ffn_dim": stack["dim_feedforward"],
        "decoder_ffn_dim": stack["dim_feedforward"],
        "encoder_attention_heads": stack["num_heads"],
        "decoder_attention_heads": stack["num_heads"],
        "num_queries": architecture["num_queries"],
        "num_labels": architecture["num_classes"],
        "auxiliary_loss": False,
    }
    if is_deformable:
        points = {"encoder_n_points": stack["num_points"], "decoder_n_points": stack["num_points"]}
        config = transformers.DeformableDetrConfig(**options, **points, num_feature_levels=architecture["num_levels"])
        theirs = transformers.DeformableDetrForObjectDetection(config)
        released = {
            released: tensor
            for name, tensor in ours.state_dict().items()
            for released in released_names(name, num_layers)
        }
    else:
        theirs = transformers.DetrForObjectDetection(transformers.DetrConfig(**options))
        released = ours_to_released(ours.state_dict())
    state = {}
    for name, tensor in released.items():
        state |= _renamed(name, tensor, is_deformable)
    prefix = next(n for n in theirs.state_dict() if "embedder" in n).partition("embedder")[0]
    state = {n.replace("BACKBONE.", prefix): tensor for n, tensor in state.items()}
    counters = {n: t for n, t in theirs.state_dict().items() if n.endswith("num_batches_tracked")}
    theirs.load_state_dict(state | counters)
    evaluated: nn.Module = theirs.eval()
    return evaluated


def _renamed(name: str, tensor: Tensor, is_deformable: bool) -> dict[str, Tensor]:
    if name.startswith("backbone.0.body."):
        name = name.removeprefix("backbone.0.body.")
        for pattern, new in _RESNET:
            name = re.sub(pattern, new, name)
        return {f"BACKBONE.{name}": tensor}
    if match := re.fullmatch(r"transformer\.(encoder|decoder)\.layers\.(\d+)\.(\w+)\.?(.*)", name):
        stack, layer, part, rest = match.groups()
        start = f"model.{stack}.layers.{layer}"
        if part.startswith("norm"):
            return {f"{start}.{_NORMS[stack, is_deformable][int(part[-1]) - 1]}.{rest}": tensor}
        part = _LAYER[part]
        if packed := re.fullmatch(r"in_proj_(weight|bias)", rest):
            return {
                f"{start}.{part}.{letter}_proj.{packed[1]}": third
                for letter, third in zip("qkv", tensor.chunk(3), strict=True)
            }
        return {f"{start}.{part}.{rest.replace('out_proj', 'o_proj')}": tensor}
    simple = [
        ("query_embed.", "model.query_position_embeddings."),
        ("transformer.decoder.norm.", "model.decoder.layernorm."),
        ("transformer.", "model."),
        ("input_proj.", "model.input_proj." if is_deformable else "model.input_projection."),
    ]
    if not is_deformable:
        simple += [("class_embed.", "class_labels_classifier."), ("bbox_embed.", "bbox_predictor.")]
    for ours, theirs in simple:
        if name.startswith(ours):
            return {theirs + name.removeprefix(ours): tensor}
    return {name: tensor}
