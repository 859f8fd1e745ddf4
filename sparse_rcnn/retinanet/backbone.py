"""RetinaNet's pyramid: p3 to p5 by top-down connections, p6 and p7 by strided convolutions."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelP6P7

from sparse_rcnn.backbone import SmallNet

P6_SOURCES = ("res5", "p5")


class RetinaNetBackbone(nn.Module):
    """A bottom-up network and torchvision's feature pyramid on its last three maps, with two coarser levels.

    Args:
        bottom_up: images (N, 3, H, W) to four maps at strides 4, 8, 16 and 32, of ``out_channels`` channels.
        hidden_dim: C, channels of every level.
        p6_source: the map that p6 is a convolution of: ``res5``, as in the paper, Detectron2 and torchvision's second
            version, or ``p5``, as in torchvision's first (the weights COCO_V1).
    """

    strides = (8, 16, 32, 64, 128)

    def __init__(self, bottom_up: nn.Module, hidden_dim: int, p6_source: str) -> None:
        super().__init__()
        if p6_source not in P6_SOURCES:
            raise ValueError(f"p6_source must be one of {', '.join(P6_SOURCES)}, got {p6_source!r}")
        if isinstance(bottom_up, SmallNet):
            # Of a map that is not read: a parameter without a gradient would stop distributed training.
            bottom_up.out_norms[0] = nn.Identity()
        self.hidden_dim, self.p6_source = hidden_dim, p6_source
        self.bottom_up = bottom_up
        out_channels: Any = bottom_up.out_channels
        channels: list[int] = list(out_channels)[1:]
        top = LastLevelP6P7(channels[-1] if p6_source == "res5" else hidden_dim, hidden_dim)
        top.use_P5 = p6_source == "p5"  # which it takes from the widths, and they may be equal
        self.fpn = FeaturePyramidNetwork(channels, hidden_dim, extra_blocks=top)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images (N, 3, H, W), H and W multiples of 32, to p3..p7, each (N, C, h, w).

        The sizes of p6 and p7 are rounded up where H or W is not a multiple of 128.
        """
        maps = self.bottom_up(images)[1:]
        return list(self.fpn(OrderedDict((f"p{i + 3}", m) for i, m in enumerate(maps))).values())
