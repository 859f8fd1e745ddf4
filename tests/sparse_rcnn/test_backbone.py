"""Backbones: shapes, strides, frozen parts, the pyramid, and what they refuse."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet18, resnet50
from torchvision.ops import FrozenBatchNorm2d

from sparse_rcnn.backbone import FPNBackbone, ResNet, SmallNet


def parameter_names(module: nn.Module, trainable: bool) -> set[str]:
    return {n for n, p in module.named_parameters() if p.requires_grad == trainable}


@pytest.mark.parametrize(("depth", "widths"), [(18, [64, 128, 256, 512]), (50, [256, 512, 1024, 2048])])
def test_resnet_maps_have_strides_4_to_32(depth: int, widths: list[int]) -> None:
    net = ResNet(depth=depth, stride_in_1x1=False, num_frozen_stages=2)
    assert net.out_channels == widths
    with torch.no_grad():
        maps = net(torch.randn(1, 3, 64, 96))
    assert [tuple(m.shape) for m in maps] == [
        (1, w, 64 // s, 96 // s) for w, s in zip(widths, (4, 8, 16, 32), strict=True)
    ]


@pytest.mark.parametrize(("depth", "num_frozen"), [(18, 5), (34, 7), (50, 11), (101, 11)])
def test_stem_and_res2_are_frozen_and_norms_have_no_parameters(depth: int, num_frozen: int) -> None:
    with torch.device("meta"):
        net = ResNet(depth=depth, stride_in_1x1=False, num_frozen_stages=2)
    frozen = parameter_names(net, trainable=False)
    assert len(frozen) == num_frozen
    assert all(n.startswith(("conv1.", "layer1.")) for n in frozen)
    assert all(n.startswith(("layer2.", "layer3.", "layer4.")) for n in parameter_names(net, trainable=True))
    assert all(p.dim() == 4 for p in net.parameters()), "convolution weights alone are parameters"
    norms = [m for m in net.modules() if isinstance(m, FrozenBatchNorm2d)]
    assert len(norms) == len([m for m in net.modules() if isinstance(m, nn.Conv2d)])
    assert all(m.eps == 1e-5 for m in norms)


@pytest.mark.parametrize(
    ("num_frozen_stages", "first_trained"), [(0, "conv1"), (1, "layer1"), (3, "layer3"), (5, None)]
)
def test_number_of_frozen_stages(num_frozen_stages: int, first_trained: str | None) -> None:
    with torch.device("meta"):
        net = ResNet(depth=18, stride_in_1x1=False, num_frozen_stages=num_frozen_stages)
    trained = [n.split(".")[0] for n, p in net.named_parameters() if p.requires_grad]
    assert (trained[0] if trained else None) == first_trained


def test_training_mode_does_not_change_the_frozen_norms() -> None:
    net = ResNet(depth=18, stride_in_1x1=False, num_frozen_stages=2)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    x = torch.randn(1, 3, 64, 64)
    trained = net.train()(x)
    evaluated = net.eval()(x)
    assert all(torch.equal(a, b) for a, b in zip(trained, evaluated, strict=True))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_resnet_equals_torchvisions_in_evaluation() -> None:
    torch.manual_seed(0)
    reference = resnet18(weights=None).eval()
    with torch.no_grad():
        for module in reference.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
    state = {k: v for k, v in reference.state_dict().items() if not k.startswith("fc.") and "num_batches" not in k}
    net = ResNet(depth=18, stride_in_1x1=False, num_frozen_stages=2)
    net.load_state_dict(state)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        wanted = reference.relu(reference.bn1(reference.conv1(x)))
        wanted = reference.layer1(reference.maxpool(wanted))
        wanted = reference.layer4(reference.layer3(reference.layer2(wanted)))
        torch.testing.assert_close(net(x)[3], wanted, rtol=1e-4, atol=1e-4)


def test_stride_on_the_1x1_or_the_3x3() -> None:
    with torch.device("meta"):
        nets = [ResNet(50, stride_in_1x1=s, num_frozen_stages=2) for s in (False, True)]
    for net, first, second in ((nets[0], (1, 1), (2, 2)), (nets[1], (2, 2), (1, 1))):
        for layer in (net.layer2, net.layer3, net.layer4):
            assert layer[0].conv1.stride == first
            assert layer[0].conv2.stride == second
            assert layer[0].downsample[0].stride == (2, 2)
            assert layer[1].conv1.stride == layer[1].conv2.stride == (1, 1)
        assert net.layer1[0].conv1.stride == net.layer1[0].conv2.stride == (1, 1)
    assert nets[0].state_dict().keys() == nets[1].state_dict().keys()
    assert nets[0].state_dict().keys() == {
        k for k in resnet50(weights=None).state_dict() if not k.startswith("fc.") and "num_batches" not in k
    }


def test_pyramid_is_lateral_plus_upsampled_then_3x3() -> None:
    torch.manual_seed(0)
    backbone = FPNBackbone(SmallNet(widths=[16, 16, 32, 32], num_blocks=[0, 0, 0, 0]), hidden_dim=8).double()
    for parameter in backbone.fpn.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    got = backbone(x)
    assert [tuple(m.shape) for m in got] == [(2, 8, 64 // s, 96 // s) for s in backbone.strides]
    p = dict(backbone.fpn.named_parameters())
    above = None
    for level, m in reversed(list(enumerate(backbone.bottom_up(x)))):
        inner = torch.einsum("oc,nchw->nohw", p[f"inner_blocks.{level}.0.weight"][..., 0, 0], m)
        inner = inner + p[f"inner_blocks.{level}.0.bias"][:, None, None]
        if above is not None:
            inner = inner + above.repeat_interleave(2, 2).repeat_interleave(2, 3)  # nearest
        wanted = F.conv2d(inner, p[f"layer_blocks.{level}.0.weight"], p[f"layer_blocks.{level}.0.bias"], padding=1)
        torch.testing.assert_close(got[level], wanted, rtol=1e-9, atol=1e-9)
        above = inner


def test_pyramid_starts_kaiming_uniform_with_zero_biases() -> None:
    torch.manual_seed(0)
    fpn = FPNBackbone(SmallNet(widths=[16, 16, 32, 32], num_blocks=[0, 0, 0, 0]), hidden_dim=64).fpn
    for name, parameter in fpn.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all()
        else:
            bound = math.sqrt(3 / parameter[0].numel())  # a=1: gain 1, uniform within sqrt(3 / fan_in)
            assert 0.95 * bound < parameter.abs().max() <= bound


def test_small_network_does_not_mix_images() -> None:
    torch.manual_seed(0)
    net = SmallNet(widths=[16, 32, 48, 64], num_blocks=[1, 0, 2, 1]).double()  # norms of one pixel blow rounding up
    x = torch.randn(3, 3, 64, 32, dtype=torch.float64)
    together = net(x)
    assert [m.shape[1] for m in together] == net.out_channels == [16, 32, 48, 64]
    for n in range(3):
        for a, b in zip(together, net(x[n : n + 1]), strict=True):
            torch.testing.assert_close(a[n], b[0], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (ResNet, (42, False, 2), r"depth must be one of \[18, 34, 50, 101\], got 42"),
        (ResNet, (18, True, 2), "stride_in_1x1 needs bottleneck blocks .*, got depth 18"),
        (ResNet, (50, False, 6), "num_frozen_stages must be within 0 and 5, got 6"),
        (ResNet, (50, False, -1), "num_frozen_stages must be within 0 and 5, got -1"),
        (SmallNet, ([16, 16, 16], [1, 1, 1]), "need 4 entries"),
        (SmallNet, ([16, 16, 16, 40], [1, 1, 1, 1]), r"multiples of 16, got \[16, 16, 16, 40\]"),
        (SmallNet, ([0, 16, 16, 16], [1, 1, 1, 1]), "multiples of 16"),
    ],
)
def test_values_out_of_range_are_refused(make: Any, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(*arguments)
