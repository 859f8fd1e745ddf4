"""RetinaNet's pyramid: its levels, and the map that p6 comes from."""

from __future__ import annotations

import pytest
import torch

from sparse_rcnn.backbone import ResNet, SmallNet
from sparse_rcnn.retinanet.backbone import RetinaNetBackbone


def small_net() -> SmallNet:
    return SmallNet([16, 16, 32, 32], [0, 0, 0, 0])


@pytest.mark.parametrize("side", [(128, 256), (96, 160)])
def test_five_levels_of_one_width(side: tuple[int, int]) -> None:
    backbone = RetinaNetBackbone(small_net(), 24, "res5")
    maps = backbone(torch.randn(2, 3, *side))
    wanted = [(-(-side[0] // stride), -(-side[1] // stride)) for stride in backbone.strides]
    assert [tuple(m.shape) for m in maps] == [(2, 24, *size) for size in wanted]


def test_p6_comes_from_the_map_that_is_named_even_where_widths_are_equal() -> None:
    sources = {}
    for source in ("res5", "p5"):
        torch.manual_seed(0)
        backbone = RetinaNetBackbone(small_net(), 32, source)
        maps = backbone(torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(1)))
        maps[3].sum().backward()
        # Of p5, the 3x3 convolution at its end is a part.
        sources[source] = backbone.fpn.layer_blocks[2][0].weight.grad is not None
    assert sources == {"res5": False, "p5": True}


@pytest.mark.parametrize("source", ["res5", "p5"])
def test_every_parameter_has_a_gradient(source: str) -> None:
    backbone = RetinaNetBackbone(small_net(), 16, source)
    sum(m.sum() for m in backbone(torch.randn(1, 3, 64, 64))).backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None] == []


def test_channels_are_those_of_the_bottom_up_network() -> None:
    backbone = RetinaNetBackbone(ResNet(18, False, 2), 16, "res5")
    assert [block[0].in_channels for block in backbone.fpn.inner_blocks] == [128, 256, 512]
    assert backbone.fpn.extra_blocks.p6.in_channels == 512


def test_another_source_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^p6_source must be one of res5, p5, got 'res4'$"):
        RetinaNetBackbone(small_net(), 16, "res4")
