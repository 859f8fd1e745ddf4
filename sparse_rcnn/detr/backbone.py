"""The last map of a bottom-up network, for DETR, and at twice the resolution for DETR-DC5."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sparse_rcnn.backbone import ResNet, SmallNet


class LastMapBackbone(nn.Module):
    """A bottom-up network without a pyramid: res5 alone.

    Args:
        bottom_up: images to maps of increasing stride, with ``out_channels``; the last map is taken.
        dilation: DC5: the stride of res5 is 1, and every 3x3 of it but the first block's is dilated by 2. The output
            has stride 16, and every other cell of it is one of the map of stride 32; parameters are the same.

    Attributes:
        out_channels: of the last map.
        stride: of the last map.
    """

    def __init__(self, bottom_up: nn.Module, dilation: bool) -> None:
        super().__init__()
        if dilation:
            if not isinstance(bottom_up, ResNet) or bottom_up.depth < 50:
                raise ValueError("dilation needs a bottom_up with bottleneck blocks: a ResNet of depth 50 or 101")
            if bottom_up.stride_in_1x1:
                # Without its stride, the first 3x3 would read other cells than those that it was trained on.
                raise ValueError("dilation needs a bottom_up with the stride on the 3x3: stride_in_1x1 must be False")
            _dilate(bottom_up.layer4)
        if isinstance(bottom_up, SmallNet):
            # Of maps that are not read: a parameter without a gradient would stop distributed training.
            for i in range(len(bottom_up.out_norms) - 1):
                bottom_up.out_norms[i] = nn.Identity()
        self.bottom_up = bottom_up
        self.dilation = dilation
        self.stride = 16 if dilation else 32
        channels: Any = bottom_up.out_channels
        self.out_channels: int = channels[-1]

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (N, 3, H, W) of any size to (N, C, ceil(H / stride), ceil(W / stride))."""
        last: Tensor = self.bottom_up(images)[-1]
        return last


def _dilate(res5: nn.Sequential) -> None:
    blocks: list[Any] = list(res5)
    first, *others = blocks
    first.conv2.stride = first.downsample[0].stride = (1, 1)
    for block in others:
        block.conv2.dilation = block.conv2.padding = (2, 2)
