"""ResNets whose frozen norms are folded into their convolutions, against torchvision's own forward pass."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import resnet
from torchvision.ops import FrozenBatchNorm2d

from sparse_rcnn.backbone import ResNet
from sparse_rcnn.frozen_norm import conv_frozen_norm


def test_a_folded_convolution_by_hand() -> None:
    conv, norm = nn.Conv2d(1, 1, 1, bias=False), FrozenBatchNorm2d(1, eps=0.0)
    nn.init.constant_(conv.weight, 3.0)
    for name, value in {"weight": 2.0, "bias": 5.0, "running_mean": 7.0, "running_var": 16.0}.items():
        norm.get_buffer(name).fill_(value)
    # 3 * 4 = 12 comes out of the convolution, (12 - 7) / 4 * 2 + 5 of the norm.
    assert conv_frozen_norm(conv, norm, torch.full((1, 1, 1, 1), 4.0)).item() == 7.5


@pytest.mark.parametrize("depth", [18, 50])
def test_torchvisions_forward_and_its_gradients(depth: int) -> None:
    torch.manual_seed(depth)
    ours = ResNet(depth, stride_in_1x1=False, num_frozen_stages=0).double()
    theirs = getattr(resnet, f"resnet{depth}")(weights=None, norm_layer=FrozenBatchNorm2d).double()
    for module in ours.modules():
        if isinstance(module, FrozenBatchNorm2d):
            for name, low in (("weight", 0.5), ("bias", -0.5), ("running_mean", -0.5), ("running_var", 0.5)):
                module.get_buffer(name).uniform_(low, low + 1)
    assert theirs.load_state_dict(ours.state_dict(), strict=False).missing_keys == ["fc.weight", "fc.bias"]
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
    wanted = []
    for layer in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
        x = layer(x)
        wanted.append(x)
    got = ours(images)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    sum(m.square().mean() for m in got).backward()
    sum(m.square().mean() for m in wanted).backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-8, atol=1e-9)
