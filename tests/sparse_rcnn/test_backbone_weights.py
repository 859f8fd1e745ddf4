"""ResNets of other programs' files: every layout and wrapping that loads, and every one that is refused by its name."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models import resnet18, resnet34

from sparse_rcnn.backbone import ResNet
from sparse_rcnn.backbone_layouts import caffe2_name, detectron2_name
from sparse_rcnn.backbone_weights import StrideError, load_backbone_weights, read_backbone_weights
from sparse_rcnn.errors import CheckpointError
from sparse_rcnn.weights import save_detector
from tests.support import caffe2_resnets
from tests.support.detectors import PIXEL_MEAN, PIXEL_STD, resnet, small_card, small_detector
from tests.support.paths import shared

State = dict[str, Tensor]


def net(depth: int = 18, stride_in_1x1: bool = False, device: str = "cpu") -> ResNet:
    with torch.device(device):
        return ResNet(depth=depth, stride_in_1x1=stride_in_1x1, num_frozen_stages=2)


def load(path: Path, model: ResNet | None = None) -> tuple[State, str]:
    model = model or net()
    note = load_backbone_weights(model, path, PIXEL_STD)
    return model.state_dict(), note


@pytest.fixture(scope="module")
def imagenet() -> State:
    """A classifier of torchvision, with statistics that differ."""
    torch.manual_seed(0)
    state = resnet18(weights=None).state_dict()
    for name in state:
        if "running" in name:
            state[name] = torch.rand_like(state[name]) + 0.5
    return state


@pytest.fixture(scope="module")
def wanted(imagenet: State) -> State:
    return {n: t for n, t in imagenet.items() if not n.startswith("fc.") and "num_batches" not in n}


def equal(loaded: State, wanted: State) -> bool:
    return loaded.keys() == wanted.keys() and all(torch.equal(loaded[name], wanted[name]) for name in wanted)


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def numbered(state: State) -> State:
    """Another network of the same names."""
    return {name: tensor + 1 for name, tensor in state.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_torchvisions_layout_loads(imagenet: State, wanted: State, tmp_path: Path, dtype: torch.dtype) -> None:
    state = {n: t.to(dtype) if t.is_floating_point() else t for n, t in imagenet.items()}
    torch.save(state, tmp_path / "w.pth")
    model = net()
    loaded, note = load(tmp_path / "w.pth", model)
    assert note == ""
    assert all(tensor.dtype == torch.float32 for tensor in loaded.values())
    assert equal(loaded, {name: tensor.to(dtype).float() for name, tensor in wanted.items()})
    frozen = [n for n, p in model.named_parameters() if not p.requires_grad]
    assert len(frozen) == 5, "loading thaws nothing"


# What people have, each from the state dict of torchvision's classifier; the second is the line on it.
WRAPPED: dict[str, tuple[Callable[[State], Any], str]] = {
    "an entry model": (lambda s: {"model": s, "epoch": 3}, ""),
    "an entry state_dict": (lambda s: {"state_dict": s, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}, ""),
    "DDP": (lambda s: prefixed(s, "module."), ""),
    "DDP in an entry": (lambda s: {"state_dict": prefixed(s, "module.")}, ""),
    "options of the training": (lambda s: {"model": s, "args": argparse.Namespace(lr=0.1)}, ""),
    "DETR": (lambda s: {"model": prefixed(s, "backbone.0.body.") | {"query_embed.weight": torch.ones(3)}}, ""),
    "lightning": (lambda s: {"state_dict": prefixed(s, "model.encoder."), "epoch": 1}, ""),
    "VISSL": (lambda s: {"base_model": {"model": {"trunk": prefixed(s, "_feature_blocks.")}}}, ""),
    "with a projector": (lambda s: {"resnet": s, "projector": {"0.weight": torch.ones(2, 2)}}, ""),
    "timm's training": (
        lambda s: {"state_dict": s, "state_dict_ema": numbered(s), "arch": "resnet18"},
        "a ResNet-18 in the layout of torchvision; its entry state_dict, not state_dict_ema",
    ),
    "a moving average alone": (lambda s: {"model_ema": s, "model": {"head": torch.ones(1)}}, ""),
    "MoCo": (
        lambda s: {"state_dict": prefixed(s, "module.encoder_q.") | prefixed(numbered(s), "module.encoder_k.")},
        "a ResNet-18 in the layout of torchvision; its module.encoder_q, not module.encoder_k",
    ),
    "DINO": (
        lambda s: {
            "student": prefixed(numbered(s), "module.backbone."),
            "teacher": prefixed(s, "backbone.") | {"head.mlp.0.weight": torch.ones(2, 2)},
        },
        "a ResNet-18 in the layout of torchvision; its entry teacher, not student",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRAPPED)
def test_prefixes_and_entries(imagenet: State, wanted: State, tmp_path: Path, kind: str) -> None:
    wrap, line = WRAPPED[kind]
    torch.save(wrap(imagenet), tmp_path / "w.pth.tar")
    loaded, note = load(tmp_path / "w.pth.tar")
    assert equal(loaded, wanted)
    assert note == line


def test_safetensors_as_timm_writes_them(imagenet: State, wanted: State, tmp_path: Path) -> None:
    save_file(imagenet, tmp_path / "model.safetensors")
    assert equal(load(tmp_path / "model.safetensors")[0], wanted)


def test_several_networks_are_not_chosen_from(imagenet: State, tmp_path: Path) -> None:
    torch.save(prefixed(imagenet, "left.") | prefixed(imagenet, "right."), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"w\.pth holds several networks, left\. and right\.: save the one"):
        load(tmp_path / "w.pth")
    torch.save({"left": imagenet, "right": imagenet}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"w\.pth holds several networks, in left and right: save the one"):
        load(tmp_path / "w.pth")


def of_detectron2(state: State) -> State:
    renamed = {detectron2_name(name): tensor for name, tensor in state.items() if not name.startswith("fc.")}
    return renamed | {"stem.fc.weight": torch.ones(2, 2), "stem.fc.bias": torch.ones(2)}


def test_names_of_detectron2_and_caffe2() -> None:
    assert {name: (detectron2_name(name), caffe2_name(name)) for name in NAMES} == NAMES


NAMES = {
    "conv1.weight": ("stem.conv1.weight", "conv1_w"),
    "bn1.weight": ("stem.conv1.norm.weight", "res_conv1_bn_s"),
    "bn1.running_var": ("stem.conv1.norm.running_var", "res_conv1_bn_running_var"),
    "layer1.0.conv1.weight": ("res2.0.conv1.weight", "res2_0_branch2a_w"),
    "layer1.0.bn2.bias": ("res2.0.conv2.norm.bias", "res2_0_branch2b_bn_b"),
    "layer3.22.conv3.weight": ("res4.22.conv3.weight", "res4_22_branch2c_w"),
    "layer4.0.downsample.0.weight": ("res5.0.shortcut.weight", "res5_0_branch1_w"),
    "layer4.0.downsample.1.running_mean": ("res5.0.shortcut.norm.running_mean", "res5_0_branch1_bn_running_mean"),
}


def test_torchvisions_network_in_a_pickle_of_detectron2(wanted: State, tmp_path: Path) -> None:
    """R-50.pkl of the authors' instructions: arrays, the converter's signature."""
    arrays = {name: tensor.numpy() for name, tensor in of_detectron2(wanted).items()}
    content = {"model": arrays, "__author__": "torchvision", "matching_heuristics": True}
    (tmp_path / "R-18.pkl").write_bytes(pickle.dumps(content))
    loaded, note = load(tmp_path / "R-18.pkl")
    assert equal(loaded, wanted)
    assert note == "a ResNet-18 in the layout of Detectron2"


@pytest.mark.parametrize("prefix", ["backbone.bottom_up.", "module.backbone.bottom_up.", "backbone."])
def test_a_detector_of_detectron2(wanted: State, tmp_path: Path, prefix: str) -> None:
    heads = {"roi_heads.box_predictor.cls_score.weight": torch.ones(2)}
    torch.save({"model": prefixed(of_detectron2(wanted), prefix) | heads, "iteration": 5}, tmp_path / "w.pth")
    loaded, note = load(tmp_path / "w.pth")
    assert equal(loaded, wanted)
    assert note == (
        "a ResNet-18 in the layout of Detectron2; the file does not say which pixels it was trained on: taken as "
        "normalised RGB"
    )
    released = {"head.head_series.0.class_logits.weight": torch.ones(2)}
    torch.save({"model": prefixed(of_detectron2(wanted), prefix) | released}, tmp_path / "w.pth")
    assert load(tmp_path / "w.pth")[1] == "a ResNet-18 in the layout of Detectron2", "the release is torchvision's"


def test_first_convolutions_for_pixels_in_255_are_noticed_under_detectron2s_names(
    wanted: State, tmp_path: Path
) -> None:
    raw = wanted | {"conv1.weight": wanted["conv1.weight"] / 57}
    torch.save({"model": of_detectron2(raw)}, tmp_path / "raw.pth")
    loaded, note = load(tmp_path / "raw.pth")
    assert "trained on BGR in 0..255" in note
    std = torch.tensor(PIXEL_STD).view(1, 3, 1, 1)
    assert torch.allclose(loaded["conv1.weight"], raw["conv1.weight"][:, [2, 1, 0]] * std)
    affine = wanted | {
        name: torch.zeros_like(t) if "mean" in name else torch.ones_like(t) - 1e-5
        for name, t in wanted.items()
        if "running" in name
    }
    torch.save({"model": of_detectron2(affine)}, tmp_path / "affine.pth")
    assert "trained on BGR in 0..255" in load(tmp_path / "affine.pth")[1]


@pytest.mark.parametrize("has_statistics", [False, True], ids=["Detectron", "Detectron2"])
def test_msras_network_computes_the_same(tmp_path: Path, has_statistics: bool) -> None:
    blobs = caffe2_resnets.blobs(has_statistics=has_statistics)
    content: Any = blobs | {"conv1_w_momentum": blobs["conv1_w"]} if has_statistics else {"blobs": blobs, "cfg": "A: 1"}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(StrideError, match=r"R-50\.pkl holds MSRA's ResNet-50, .* set stride_in_1x1=true$"):
        read_backbone_weights(net(50, device="meta"), tmp_path / "R-50.pkl", PIXEL_STD)
    model = net(50, stride_in_1x1=True)
    note = load_backbone_weights(model, tmp_path / "R-50.pkl", PIXEL_STD)
    assert note.startswith("a ResNet-50 in the layout of Caffe2; trained on BGR in 0..255")

    rgb = torch.randint(0, 256, (1, 3, 64, 64), generator=torch.Generator().manual_seed(0)).float()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
    theirs, ours = (rgb - mean).flip(1), (rgb - mean) / std
    for images in (theirs, ours):
        images[..., 50:] = 0  # padding is zero in both
    with torch.no_grad():
        expected, maps = caffe2_resnets.forward(blobs, theirs), model(ours)
    for one, other in zip(expected, maps, strict=True):
        assert one.std() > 0.05
        assert (one - other).abs().max() < 1e-4 * one.abs().max()


def test_a_convolutions_bias_goes_into_the_norm(tmp_path: Path) -> None:
    """Caffe's converters keep one, mostly of zeros."""
    blobs = caffe2_resnets.blobs()
    biased = blobs | {"conv1_b": blobs["res_conv1_bn_b"], "res2_0_branch1_b": blobs["res2_0_branch1_bn_s"]}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(biased))
    model = net(50, stride_in_1x1=True)
    load_backbone_weights(model, tmp_path / "R-50.pkl", PIXEL_STD)
    scale, shift = (torch.from_numpy(blobs[f"res_conv1_bn_{leaf}"]) for leaf in "sb")
    with torch.no_grad():
        at_zero = model.bn1(torch.zeros(1, 64, 1, 1)).flatten()
    assert torch.allclose(at_zero, scale * shift + shift, atol=1e-6)
    assert model.layer1[0].downsample[1].running_mean.abs().min() > 0.4


def test_the_converters_signature_rules_out_the_other_stride(tmp_path: Path) -> None:
    arrays = {detectron2_name(n): t.numpy() for n, t in net(50).state_dict().items()}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "torchvision"}))
    with pytest.raises(StrideError, match=r"torchvision's ResNet-50, .* in the 3x3 .* set stride_in_1x1=false$"):
        read_backbone_weights(net(50, stride_in_1x1=True, device="meta"), tmp_path / "R-50.pkl", PIXEL_STD)


def test_another_depth_is_named(imagenet: State, tmp_path: Path) -> None:
    torch.save(imagenet, tmp_path / "w.pth")
    model = net(34)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"w\.pth holds a ResNet-18, the model is resnet34$"):
        load(tmp_path / "w.pth", model)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items()), "nothing half-loaded"
    torch.save(resnet34(weights=None).state_dict(), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"w\.pth holds a ResNet-34, the model is resnet18$"):
        load(tmp_path / "w.pth")


def without(state: State, name: str) -> State:
    return {n: t for n, t in state.items() if n != name}


REFUSED: dict[str, tuple[Callable[[State], Any], str]] = {
    "grey": (
        lambda s: s | {"conv1.weight": torch.zeros(64, 1, 7, 7)},
        r"is not a resnet18: conv1\.weight has shape \(64, 1, 7, 7\), not \(64, 3, 7, 7\)$",
    ),
    "a tensor is missing": (lambda s: without(s, "layer3.1.bn2.bias"), r"layer3\.1\.bn2\.bias is missing$"),
    "a tensor too many": (
        lambda s: s | {"layer3.1.gate.weight": torch.ones(1)},
        r"layer3\.1\.gate\.weight is not part of the model$",
    ),
    "deep stem": (
        lambda s: without(s, "conv1.weight") | {"conv1.0.weight": torch.ones(32, 3, 3, 3)},
        r"its stem has several convolutions",
    ),
    "channel attention": (lambda s: s | {"layer1.0.se.fc1.weight": torch.ones(1)}, "its blocks have channel attention"),
    "groups": (lambda s: s | {"layer1.0.conv2.weight": torch.ones(64, 2, 3, 3)}, "its convolutions are grouped"),
    "group norm": (lambda s: {n: t for n, t in s.items() if "running" not in n}, "its norms are group norms"),
    "quantised": (
        lambda s: s | {"conv1.weight": torch.zeros(64, 3, 7, 7, dtype=torch.int8)},
        r"holds conv1\.weight as torch\.int8, not as floating point numbers$",
    ),
    "not finite": (
        lambda s: s | {"layer2.0.bn1.bias": torch.full((128,), torch.nan)},
        r"holds numbers that are not finite, in layer2\.0\.bn1\.bias$",
    ),
    "another network": (
        lambda _: {"features.0.weight": torch.ones(1), "features.0.bias": torch.ones(1)},
        r"holds no ResNet in the layout of torchvision, Detectron2, Caffe2 or timm; it begins with features\.0\.weight",
    ),
    "no tensors": (lambda _: {"model": {"a": 1}}, "holds no ResNet"),
    "a list": (lambda _: [1, 2], "holds no ResNet"),
    "a number": (lambda _: 3.0, "holds no ResNet"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_other_networks_are_refused(imagenet: State, tmp_path: Path, kind: str) -> None:
    change, message = REFUSED[kind]
    torch.save(change(imagenet), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=message) as caught:
        read_backbone_weights(net(device="meta"), tmp_path / "w.pth", PIXEL_STD)
    assert str(caught.value).startswith(str(tmp_path / "w.pth"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bottom_up", [None, resnet(18)], ids=["SmallNet", "ResNet"])
def test_a_detector_of_ours_is_to_be_started_from_whole(tmp_path: Path, bottom_up: dict[str, Any] | None) -> None:
    card = small_card(bottom_up=bottom_up)
    save_detector(small_detector(card=card), card, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="holds a whole detector of this project: start from it as a detector"):
        load(tmp_path / "model.safetensors")


def test_imagenet_resnet50_with_the_stride_on_the_1x1() -> None:
    path = shared("weights/resnet50_imagenet_stride_in_1x1_fp16.pth")
    model = net(50, stride_in_1x1=True)
    loaded, note = load(path, model)
    assert "the file does not say where the stride of a bottleneck is: taken as stride_in_1x1=true (" in note
    given = torch.load(path, weights_only=True)
    for name in ("conv1.weight", "bn1.running_var", "layer4.2.conv3.weight", "layer2.0.downsample.1.bias"):
        assert torch.equal(loaded[name], given[name].float())
    with torch.no_grad():
        maps = model.eval()(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert all(m.isfinite().all() and 0.01 < m.mean() < 10 for m in maps), (
        "trained statistics keep activations in range"
    )
