"""The last map of a bottom-up network, and its dilated form."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sparse_rcnn.backbone import ResNet, SmallNet
from sparse_rcnn.detr.backbone import LastMapBackbone


def resnet(depth: int = 50, stride_in_1x1: bool = False) -> ResNet:
    return ResNet(depth, stride_in_1x1, num_frozen_stages=2)


@pytest.mark.parametrize("name", ["resnet18", "small"])
def test_the_last_map_of_images_of_any_size(name: str) -> None:
    net = resnet(18) if name == "resnet18" else SmallNet([16, 16, 32, 48], [0, 0, 0, 0])
    backbone = LastMapBackbone(net, level=5, dilation=False)
    with torch.no_grad():
        got = backbone(torch.randn(1, 3, 65, 97))
    assert got.shape == (1, backbone.out_channels, 3, 4)  # rounded up
    assert backbone.out_channels == net.out_channels[-1]
    assert backbone.stride == 32


def test_every_other_cell_of_dc5_is_the_map_without_dilation() -> None:
    # At even cells a 3x3 that is dilated by 2 reads even cells alone, which are those of the map of stride 32; this
    # holds only where the first 3x3 is not dilated and all later ones are.
    torch.manual_seed(0)
    plain = LastMapBackbone(resnet(50), level=5, dilation=False)
    dilated = LastMapBackbone(resnet(50), level=5, dilation=True)
    dilated.load_state_dict(plain.state_dict())  # same names and shapes
    images = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        got, wanted = dilated(images), plain(images)
    assert got.shape == (1, 2048, 5, 7)
    assert dilated.stride == 16
    torch.testing.assert_close(got[..., ::2, ::2], wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


def test_dc5_dilates_the_later_blocks_alone() -> None:
    net: Any = LastMapBackbone(resnet(), level=5, dilation=True).bottom_up
    threes = [(b.conv2.stride, b.conv2.dilation, b.conv2.padding) for b in net.layer4]
    assert threes == [((1, 1), (1, 1), (1, 1))] + 2 * [((1, 1), (2, 2), (2, 2))]
    assert net.layer4[0].downsample[0].stride == (1, 1)
    assert net.layer3[0].conv2.stride == (2, 2), "res4 is as it was"
    assert net.layer3[1].conv2.dilation == (1, 1)


def test_a_finer_level_of_a_small_network_and_its_dilated_form() -> None:
    for level, dilation, stride, channels in [
        (4, False, 16, 32),
        (4, True, 8, 32),
        (3, False, 8, 16),
        (5, True, 16, 48),
    ]:
        net = SmallNet([16, 16, 32, 48], [1, 1, 1, 1])
        backbone = LastMapBackbone(net, level, dilation)
        with torch.no_grad():
            got = backbone(torch.randn(1, 3, 64, 96))
        assert got.shape == (1, channels, 64 // stride, 96 // stride)
        assert (backbone.stride, backbone.out_channels) == (stride, channels)
        assert len(net.stages) == level - 1
        block: Any = net.stages[-1]
        assert block[1].conv[0].dilation == ((2, 2) if dilation else (1, 1))


@pytest.mark.parametrize(("name", "level"), [("resnet18", 5), ("small", 5), ("small", 3)])
def test_every_trainable_parameter_is_used(name: str, level: int) -> None:
    net = resnet(18) if name == "resnet18" else SmallNet([16, 16, 32, 48], [1, 0, 0, 0])
    backbone = LastMapBackbone(net, level, dilation=False)
    backbone(torch.randn(1, 3, 64, 64)).square().sum().backward()
    assert [n for n, p in backbone.named_parameters() if p.requires_grad and p.grad is None] == []


def test_stem_and_res2_are_frozen() -> None:
    backbone = LastMapBackbone(resnet(18), level=5, dilation=False)
    frozen = {n.split(".")[1] for n, p in backbone.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "layer1"}


def test_dilation_needs_the_stride_on_the_3x3() -> None:
    with pytest.raises(ValueError, match="stride_in_1x1 must be False"):
        LastMapBackbone(resnet(50, stride_in_1x1=True), level=5, dilation=True)


def test_dilation_of_a_resnet_needs_bottlenecks() -> None:
    with pytest.raises(ValueError, match=r"dilation needs .* depth 50 or 101"):
        LastMapBackbone(resnet(34), level=5, dilation=True)


def test_levels_that_there_are_not() -> None:
    with pytest.raises(ValueError, match="level must be one of 3, 4, 5, got 6"):
        LastMapBackbone(resnet(18), level=6, dilation=False)
    with pytest.raises(ValueError, match=r"level must be 5 for a ResNet.*, got 4"):
        LastMapBackbone(resnet(18), level=4, dilation=False)
    other = torch.nn.Sequential()
    with pytest.raises(ValueError, match="level 5 without dilation is all that is known of a Sequential"):
        LastMapBackbone(other, level=5, dilation=True)
