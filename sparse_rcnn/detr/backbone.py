"""The one map of a bottom-up network that DETR reads, for DETR-DC5 at twice the resolution."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sparse_rcnn.backbone import ResNet, SmallNet

LEVELS = (3, 4, 5)  # of strides 8, 16 and 32; 5 is the last stage of a network


class LastMapBackbone(nn.Module):
    """A bottom-up network without a pyramid: its last map alone.

    Args:
        bottom_up: images to maps of increasing stride, with ``out_channels``.
        level: of the map, whose stride is 2 to the power of ``level``: 5 is res5, as in the paper. Stages behind a map
            of a finer level, such as one suits small images, are cut off the network.
        dilation: DC5: the stage of the map has stride 1, and every 3x3 of it but the first block's is dilated by 2. The
            map has half its stride, and every other cell of it is one of the map without dilation; parameters are the
            same.

    Attributes:
        out_channels, stride: of the map.
    """

    def __init__(self, bottom_up: nn.Module, level: int, dilation: bool) -> None:
        super().__init__()
        if level not in LEVELS:
            raise ValueError(f"level must be one of {', '.join(map(str, LEVELS))}, got {level}")
        if isinstance(bottom_up, SmallNet):
            _cut_small(bottom_up, level)
            if dilation:
                _dilate_small(bottom_up)
        elif isinstance(bottom_up, ResNet):
            if level != LEVELS[-1]:
                raise ValueError(f"level must be 5 for a ResNet, whose stages are all read, got {level}")
            if dilation:
                _dilate_resnet(bottom_up)
        elif dilation or level != LEVELS[-1]:
            raise ValueError(f"level 5 without dilation is all that is known of a {type(bottom_up).__name__}")
        self.bottom_up = bottom_up
        self.level, self.dilation = level, dilation
        self.stride = 2 ** (level - dilation)
        channels: Any = bottom_up.out_channels
        self.out_channels: int = channels[-1]

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (N, 3, H, W) of any size to (N, C, ceil(H / stride), ceil(W / stride))."""
        last: Tensor = self.bottom_up(images)[-1]
        return last


def _cut_small(bottom_up: SmallNet, level: int) -> None:
    num_stages = level - 1
    bottom_up.stages = bottom_up.stages[:num_stages]
    bottom_up.out_norms = bottom_up.out_norms[:num_stages]
    bottom_up.out_channels = bottom_up.out_channels[:num_stages]
    # Of maps that are not read: a parameter without a gradient would stop distributed training.
    for i in range(num_stages - 1):
        bottom_up.out_norms[i] = nn.Identity()


def _dilate_small(bottom_up: SmallNet) -> None:
    stage: Any = bottom_up.stages[-1]
    down, *others = stage
    down[0].stride = (1, 1)
    for block in others:
        block.conv[0].dilation = block.conv[0].padding = (2, 2)


def _dilate_resnet(bottom_up: ResNet) -> None:
    if bottom_up.depth < 50:
        raise ValueError("dilation needs a bottom_up with bottleneck blocks: a ResNet of depth 50 or 101")
    if bottom_up.stride_in_1x1:
        # Without its stride, the first 3x3 would read other cells than those that it was trained on.
        raise ValueError("dilation needs a bottom_up with the stride on the 3x3: stride_in_1x1 must be False")
    blocks: list[Any] = list(bottom_up.layer4)
    first, *others = blocks
    first.conv2.stride = first.downsample[0].stride = (1, 1)
    for block in others:
        block.conv2.dilation = block.conv2.padding = (2, 2)
