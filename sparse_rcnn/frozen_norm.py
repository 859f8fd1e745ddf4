"""Convolutions with their frozen batch norm folded into the weight: one operation in place of three."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FrozenBatchNorm2d


def conv_frozen_norm(conv: nn.Conv2d, norm: FrozenBatchNorm2d, x: Tensor) -> Tensor:
    """``norm(conv(x))`` up to rounding, (N, C, h, w) to (N, D, h', w'), for a convolution without bias.

    The norm is affine with constant factors, so it goes into the weight, which is far smaller than the map: in training
    as well, where the gradient of the weight passes through the product. Under autocast the weight is scaled in
    float32, and the map is never touched in it.
    """
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias - norm.running_mean * scale
    return conv._conv_forward(x, conv.weight * scale[:, None, None, None], shift)


def _shortcut(downsample: nn.Module | None, x: Tensor) -> Tensor:
    if downsample is None:
        return x
    conv, norm = downsample.children()
    return conv_frozen_norm(conv, norm, x)  # type: ignore[arg-type]


class FoldedBasicBlock(BasicBlock):
    """torchvision's block of ResNet-18 and 34, whose norms are frozen."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) to (N, D, h', w')."""
        out = self.relu(conv_frozen_norm(self.conv1, self.bn1, x))
        out = conv_frozen_norm(self.conv2, self.bn2, out)
        out += _shortcut(self.downsample, x)
        return self.relu(out)


class FoldedBottleneck(Bottleneck):
    """torchvision's block of ResNet-50 and 101, whose norms are frozen."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) to (N, D, h', w')."""
        out = self.relu(conv_frozen_norm(self.conv1, self.bn1, x))
        out = self.relu(conv_frozen_norm(self.conv2, self.bn2, out))
        out = conv_frozen_norm(self.conv3, self.bn3, out)
        out += _shortcut(self.downsample, x)
        return self.relu(out)
