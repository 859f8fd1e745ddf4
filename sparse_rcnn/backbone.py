"""Feature pyramids: torchvision's ResNets with frozen batch norm, and a small network to train from scratch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d

from sparse_rcnn.frozen_norm import FoldedBasicBlock, FoldedBottleneck, conv_frozen_norm

RESNETS = {  # depth to the kind of block and the number of blocks in res2..res5
    18: (FoldedBasicBlock, [2, 2, 2, 2]),
    34: (FoldedBasicBlock, [3, 4, 6, 3]),
    50: (FoldedBottleneck, [3, 4, 6, 3]),
    101: (FoldedBottleneck, [3, 4, 23, 3]),
}


class ResNet(nn.Module):
    """torchvision's ResNet up to its last stage, with frozen batch norm (semantics.md#backbone).

    Args:
        depth: 18, 34, 50 or 101.
        stride_in_1x1: put the stride of a bottleneck on its first 1x1 convolution (the original layout, that
            of the MSRA weights) and not on its 3x3 (torchvision's, that of the released detectors).
        num_frozen_stages: 0 trains everything, 1 freezes the stem, 2 the stem and res2 as in the paper.
    """

    def __init__(self, depth: int, stride_in_1x1: bool, num_frozen_stages: int) -> None:
        super().__init__()
        if depth not in RESNETS:
            raise ValueError(f"depth must be one of {sorted(RESNETS)}, got {depth}")
        if stride_in_1x1 and depth < 50:
            raise ValueError(f"stride_in_1x1 needs bottleneck blocks (depth 50 or 101), got depth {depth}")
        if not 0 <= num_frozen_stages <= 5:
            raise ValueError(f"num_frozen_stages must be within 0 and 5, got {num_frozen_stages}")
        self.depth, self.stride_in_1x1, self.num_frozen_stages = depth, stride_in_1x1, num_frozen_stages
        net = resnet.ResNet(*RESNETS[depth], norm_layer=FrozenBatchNorm2d)
        # The names stay torchvision's, so that its weight files load as they are.
        self.conv1, self.bn1, self.relu, self.maxpool = net.conv1, net.bn1, net.relu, net.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4
        if stride_in_1x1:
            for layer in (self.layer2, self.layer3, self.layer4):
                layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)
        expansion = 1 if depth < 50 else 4
        self.out_channels = [width * expansion for width in (64, 128, 256, 512)]
        stages = [self.conv1, self.layer1, self.layer2, self.layer3, self.layer4]
        for stage in stages[:num_frozen_stages]:
            stage.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images (N, 3, H, W) to res2..res5, strides 4, 8, 16, 32."""
        x = self.maxpool(self.relu(conv_frozen_norm(self.conv1, self.bn1, images)))
        res2 = self.layer1(x)
        res3 = self.layer2(res2)
        res4 = self.layer3(res3)
        res5 = self.layer4(res4)
        return [res2, res3, res4, res5]


def _conv_norm_relu(num_in: int, num_out: int, stride: int) -> nn.Sequential:
    # Group norm: no statistics shared between images, so the split of a batch over processes changes nothing.
    return nn.Sequential(
        nn.Conv2d(num_in, num_out, 3, stride=stride, padding=1, bias=False),
        nn.GroupNorm(max(1, num_out // 16), num_out),
        nn.ReLU(inplace=True),
    )


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = _conv_norm_relu(width, width, stride=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


class SmallNet(nn.Module):
    """A convolutional network of a few layers, to be trained from scratch on small images.

    Args:
        widths: channels at strides 4, 8, 16 and 32.
        num_blocks: residual blocks at each of these strides.
    """

    def __init__(self, widths: Sequence[int], num_blocks: Sequence[int]) -> None:
        super().__init__()
        if len(widths) != 4 or len(num_blocks) != 4:
            raise ValueError(f"widths and num_blocks need 4 entries, got {list(widths)} and {list(num_blocks)}")
        if any(w < 16 or w % 16 for w in widths):
            raise ValueError(f"widths must be multiples of 16, got {list(widths)}")
        self.widths, self.num_blocks = list(widths), list(num_blocks)
        self.out_channels = list(widths)
        self.stem = _conv_norm_relu(3, widths[0], stride=2)
        num_in = widths[0]
        self.stages = nn.ModuleList()
        for width, blocks in zip(widths, num_blocks, strict=True):
            down = _conv_norm_relu(num_in, width, stride=2)
            self.stages.append(nn.Sequential(down, *(_Residual(width) for _ in range(blocks))))
            num_in = width
        # What leaves is centred per channel and image. Without this the maps are mostly a constant (they end in a
        # ReLU), little of an object feature depends on the image, and a short training learns the prior alone.
        self.out_norms = nn.ModuleList(nn.GroupNorm(width, width) for width in widths)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images (N, 3, H, W) to four maps at strides 4, 8, 16, 32."""
        x = self.stem(images)
        maps = []
        for stage, norm in zip(self.stages, self.out_norms, strict=True):
            x = stage(x)
            maps.append(norm(x))
        return maps


class FPNBackbone(nn.Module):
    """A bottom-up network and torchvision's feature pyramid on its four maps (semantics.md#backbone).

    1x1 lateral and 3x3 output convolutions with bias and no norm, nearest upsampling, sum; Kaiming-uniform
    weights with a=1 and zero biases, as torchvision initialises them.
    """

    strides = (4, 8, 16, 32)

    def __init__(self, bottom_up: nn.Module, hidden_dim: int) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.bottom_up = bottom_up
        self.fpn = FeaturePyramidNetwork(bottom_up.out_channels, hidden_dim)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images (N, 3, H, W), H and W multiples of 32, to p2..p5, each (N, hidden_dim, h, w)."""
        maps = self.bottom_up(images)
        return list(self.fpn(OrderedDict((str(i), m) for i, m in enumerate(maps))).values())
