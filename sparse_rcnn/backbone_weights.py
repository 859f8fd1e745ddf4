"""The ResNet of a file, in the layout of another program, for ours."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparse_rcnn.backbone import ResNet
from sparse_rcnn.backbone_layouts import LAYOUTS, Layout, uniform_caffe2_name
from sparse_rcnn.checkpoint_files import load_checkpoint, tensors_of
from sparse_rcnn.errors import CheckpointError
from sparse_rcnn.state_dicts import misfits


class StrideError(CheckpointError):
    """The weights need the stride of the bottlenecks where the network does not have it; says the value to set."""


@dataclass(frozen=True)
class BackboneWeights:
    """A network of a file, ready to be loaded.

    Attributes:
        tensors: by our names, for pixels as the model normalises them.
        note: how the file was understood where that is not plain; empty where it is.
    """

    tensors: dict[str, Tensor]
    note: str


def read_backbone_weights(bottom_up: ResNet, path: Path, pixel_std: Sequence[float]) -> BackboneWeights:
    """The weights of an ImageNet network for ours, which may be on the meta device: nothing is loaded into it.

    Layouts: torchvision (and timm), Detectron2, Caffe2 (the pickles of MSRA's networks), below any prefix and in any
    entry of the file. Classifiers and other heads are left out. Networks that were trained on BGR in 0..255 get a
    first convolution that computes the same of normalised RGB.

    Raises:
        CheckpointError: no such network, or another one; names it, or the first tensors that do not fit.
        StrideError: the file implies another ``stride_in_1x1``.
    """
    content = load_checkpoint(path)
    found = _choose_network(content, path)
    names = [name.removeprefix(found.prefix) for name in found.tensors if name.startswith(found.prefix)]
    depth = found.layout.blocks(names).depth
    if depth is not None and depth != bottom_up.depth:
        raise CheckpointError(f"{path} holds a ResNet-{depth}, the model is resnet{bottom_up.depth}")
    wanted = bottom_up.state_dict()
    given = _renamed(found, wanted, bottom_up)
    surplus = _surplus(found, names, wanted)
    problems = misfits(wanted, given | dict.fromkeys(surplus, torch.empty(0)))
    if problems:
        variant = _variant(found, names)
        raise CheckpointError(f"{path} is not a resnet{bottom_up.depth}: {variant or problems}")
    if odd := [name for name, tensor in given.items() if not tensor.is_floating_point()]:
        raise CheckpointError(f"{path} holds {odd[0]} as {given[odd[0]].dtype}, not as floating point numbers")
    tensors = {name: tensor.float() for name, tensor in given.items()}
    if infinite := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise CheckpointError(f"{path} holds numbers that are not finite, in {infinite[0]}")
    notes = [found.note] if found.note else []
    convention = _convention(found, content, tensors)
    _check_stride(bottom_up, convention, path)
    if convention == "MSRA":
        std = torch.tensor(list(pixel_std)).view(1, 3, 1, 1)
        tensors["conv1.weight"] = tensors["conv1.weight"].flip(1) * std
        notes.append("trained on BGR in 0..255: its first convolution is rewritten for normalised RGB")
    if convention == "unknown":
        notes.append("the file does not say which pixels it was trained on: taken as normalised RGB")
    if convention in ("", "unknown") and bottom_up.depth >= 50:
        notes.append(
            "the file does not say where the stride of a bottleneck is: taken as stride_in_1x1="
            f"{str(bottom_up.stride_in_1x1).lower()} (torchvision's and timm's networks have it false, MSRA's and "
            "Keras' true)"
        )
    if notes or found.layout.program != "torchvision":
        notes.insert(0, f"a ResNet-{bottom_up.depth} in the layout of {found.layout.program}")
    return BackboneWeights(tensors, "; ".join(notes))


def load_backbone_weights(bottom_up: ResNet, path: Path, pixel_std: Sequence[float]) -> str:
    """Load an ImageNet network (``read_backbone_weights``); returns how its file was understood.

    Raises: as ``read_backbone_weights``.
    """
    weights = read_backbone_weights(bottom_up, path, pixel_std)
    bottom_up.load_state_dict(weights.tensors)
    return weights.note


@dataclass(frozen=True)
class _Network:
    layout: Layout
    prefix: str
    tensors: dict[str, Tensor]  # of the whole entry, by their names in the file
    note: str


def _choose_network(content: Any, path: Path) -> _Network:
    """The one network of a checkpoint, or the one of several that their authors mean to be taken."""
    if isinstance(content, Mapping) and "proposals.boxes_cxcywh_norm" in content:
        raise CheckpointError(
            f"{path} holds a whole detector of this project: start from it as a detector, which takes all that fits"
        )
    found: dict[tuple[str, ...], tuple[Layout, dict[str, Tensor]]] = dict(_entries(content, ()))
    if not found:
        names = [str(name) for name in content][:3] if isinstance(content, Mapping) else []
        hint = f"; it begins with {', '.join(names)}" if names else ""
        programs = ", ".join(layout.program for layout in LAYOUTS)
        raise CheckpointError(f"{path} holds no ResNet in the layout of {programs} or timm{hint}")
    entries = sorted(found, key=_preference)
    if len(entries) > 1 and _preference(entries[0]) == _preference(entries[1]):
        several = " and ".join(".".join(entry) for entry in entries[:2])
        raise CheckpointError(f"{path} holds several networks, in {several}: save the one that is meant alone")
    layout, tensors = found[entries[0]]
    notes = []
    if len(entries) > 1:
        others = ", ".join(".".join(entry) for entry in entries[1:])
        notes.append(f"its entry {'.'.join(entries[0])}, not {others}")
    prefixes = layout.prefixes(tensors)
    prefix = prefixes[0]
    if len(prefixes) > 1:
        chosen = [p for p in prefixes if any(word in p for word in _PREFERRED_PREFIXES)]
        if len(chosen) != 1:
            raise CheckpointError(
                f"{path} holds several networks, {' and '.join(prefixes[:2])}: save the one that is meant alone"
            )
        prefix = chosen[0]
        notes.append(f"its {prefix.rstrip('.')}, not {', '.join(p.rstrip('.') for p in prefixes if p != prefix)}")
    return _Network(layout, prefix, tensors, "; ".join(notes))


# Where a checkpoint holds a network more than once. The plain one comes before its moving average.
_PREFERRED_ENTRIES = (
    "model", "state_dict", "model_state", "model_state_dict", "module", "teacher", "network", "net", "backbone",
    "encoder", "student", "state_dict_ema", "model_ema", "ema",
)  # fmt: skip
# MoCo's query encoder, the teacher of DINO, the encoder of MoCo v3, the online network of BYOL.
_PREFERRED_PREFIXES = ("encoder_q", "teacher", "base_encoder", "online")
_MAX_NESTING = 5


def _preference(entry: tuple[str, ...]) -> int:
    first = entry[0] if entry else ""
    if not entry:
        return -1
    return _PREFERRED_ENTRIES.index(first) if first in _PREFERRED_ENTRIES else len(_PREFERRED_ENTRIES)


def _entries(
    content: Any, entry: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], tuple[Layout, dict[str, Tensor]]]]:
    if not isinstance(content, Mapping):
        return
    for layout in LAYOUTS:
        if layout.prefixes(name for name in content if isinstance(name, str)):
            tensors = tensors_of(content)
            if layout.program == "Caffe2":
                tensors = {uniform_caffe2_name(name): tensor for name, tensor in tensors.items()}
            yield entry, (layout, tensors)
            return
    if len(entry) < _MAX_NESTING:
        for key, value in content.items():
            yield from _entries(value, (*entry, str(key)))


def _renamed(found: _Network, wanted: Mapping[str, Tensor], bottom_up: ResNet) -> dict[str, Tensor]:
    """Those of the wanted tensors that the file has, by our names; a norm without statistics gets neutral ones."""
    given = {}
    for name in wanted:
        theirs = found.prefix + found.layout.own_name(name)
        if theirs in found.tensors:
            given[name] = found.tensors[theirs]
    if found.layout.program != "Caffe2":
        return given
    eps = bottom_up.bn1.eps
    for name, weight in list(given.items()):
        module, _, leaf = name.rpartition(".")
        if leaf == "weight" and f"{module}.running_mean" in wanted and f"{module}.running_mean" not in given:
            given[f"{module}.running_mean"] = torch.zeros(weight.shape)
            given[f"{module}.running_var"] = torch.full(weight.shape, 1 - eps)  # with eps it is 1
    for name in wanted:  # a convolution's bias, which ours lack, is part of the mean that is subtracted next
        norm = _norm_after(name)
        bias = found.tensors.get(f"{found.prefix}{found.layout.own_name(name).removesuffix('_w')}_b")
        mean = given.get(f"{norm}.running_mean")
        if mean is not None and bias is not None and mean.shape == bias.shape:
            given[f"{norm}.running_mean"] = mean.float() - bias.float()
    return given


def _norm_after(name: str) -> str | None:
    """The norm that follows a convolution of ours."""
    module, _, leaf = name.rpartition(".")
    if leaf != "weight" or not re.search(r"(conv\d|downsample\.0)$", module):
        return None
    return re.sub(r"conv(\d)$", r"bn\1", module).replace("downsample.0", "downsample.1")


def _surplus(found: _Network, names: Sequence[str], wanted: Mapping[str, Tensor]) -> list[str]:
    """Tensors of the file that belong to its network and that ours has no place for."""
    used = {found.layout.own_name(name) for name in wanted}
    ignored = ("num_batches_tracked", "_momentum", *(["_b"] if found.layout.program == "Caffe2" else []))
    return [
        name
        for name in names
        if name not in used
        and not name.endswith(ignored)
        and (found.layout.block.match(name) or found.layout.stem.match(name))
    ]


def _variant(found: _Network, names: Sequence[str]) -> str | None:
    """The traits that make a network another kind of ResNet, for those that are common."""
    if any(re.match(r"conv1\.\d|stem\.conv1_\d", name) for name in names):
        return "its stem has several convolutions (as timm's resnet50d and deeplab's networks), the model's one"
    if any(re.search(r"\.(se|eca|attn)\.", name) for name in names):
        return "its blocks have channel attention (as SE-ResNets), the model's have none"
    is_plain = found.layout.program != "Caffe2" and found.layout.own_name("bn1.running_mean") not in names
    if is_plain or any("_gn_" in name for name in names):
        return "its norms are group norms, the model's batch norms with statistics"
    second = found.tensors.get(found.prefix + found.layout.own_name("layer1.0.conv2.weight"))
    if second is not None and second.dim() == 4 and second.shape[0] != second.shape[1]:
        return "its convolutions are grouped (a ResNeXt), the model's are not"
    return None


def _convention(found: _Network, content: Any, tensors: Mapping[str, Tensor]) -> str:
    """Whose pixels and strides a network was trained with: torchvision, MSRA or unknown; "" leaves it to the user.

    MSRA's networks have the stride in the 1x1 and take BGR in 0..255 (less its mean), which Caffe2's names and those of
    Detectron imply. Detectron2's names do not: there the converter's signature says it, or the released detector's
    heads, or a first convolution whose outputs vary far more than normalised pixels could make them.
    """
    if found.layout.program == "torchvision":
        return ""
    if found.layout.program == "Caffe2":
        return "MSRA"
    if isinstance(content, Mapping) and content.get("__author__") == "torchvision":
        return "torchvision"
    if any(name.startswith("head.head_series.") for name in found.tensors):
        return "torchvision"
    mean, var = tensors["bn1.running_mean"], tensors["bn1.running_var"]
    gain = (var / tensors["conv1.weight"].square().sum((1, 2, 3)).clamp(min=1e-12)).median()
    is_affine = bool((mean == 0).all()) and bool((var - 1).abs().max() < 1e-3)  # as Detectron fuses its norms
    return "MSRA" if is_affine or gain > 100 else "unknown"


def _check_stride(bottom_up: ResNet, convention: str, path: Path) -> None:
    if bottom_up.depth < 50 or convention not in ("MSRA", "torchvision"):
        return
    in_1x1 = convention == "MSRA"
    if bottom_up.stride_in_1x1 != in_1x1:
        where = "1x1" if in_1x1 else "3x3"
        raise StrideError(
            f"{path} holds {convention}'s ResNet-{bottom_up.depth}, whose stride is in the {where} convolutions: set "
            f"stride_in_1x1={str(in_1x1).lower()}"
        )
