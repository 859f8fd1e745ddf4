"""The sine encoding of the maps, by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from sparse_rcnn.positional_encoding import NoEncoding, SineEncoding


def zeros(*shapes: tuple[int, int], num_images: int = 1, channels: int = 8) -> list[Tensor]:
    return [torch.zeros(num_images, channels, *shape) for shape in shapes]


def test_sine_encoding_by_hand() -> None:
    sizes = torch.tensor([[64, 32], [48, 20]])
    maps = SineEncoding(hidden_dim=8, temperature=10000)(zeros((16, 8), (8, 4), num_images=2), sizes)
    for level, stride in enumerate((4, 8)):
        for n, (height, width) in enumerate(sizes.tolist()):
            for row, column in ((0, 0), (2, 1), (5, 3)):
                wanted = []
                for center, length in (((row + 0.5) * stride, height), ((column + 0.5) * stride, width)):
                    angle = 2 * math.pi * center / length
                    for wave in (angle, angle / 100):  # 10000 ** (0 / 2), 10000 ** (1 / 2)
                        wanted += [math.sin(wave), math.cos(wave)]
                assert maps[level][n, :, row, column].tolist() == pytest.approx(wanted, abs=1e-5)
    # One in numbers: y is 10 of 64 pixels and x is 6 of 32.
    by_hand = [0.831470, 0.555570, 0.009817, 0.999952, 0.923880, 0.382683, 0.011781, 0.999931]
    assert maps[0][0, :, 2, 1].tolist() == pytest.approx(by_hand, abs=1e-5)


def test_sine_encoding_is_added_and_keeps_shape_and_dtype() -> None:
    module, sizes = SineEncoding(hidden_dim=8, temperature=10000), torch.tensor([[64, 64]])
    m = torch.randn(1, 8, 16, 16)
    (plain,) = module(zeros((16, 16)), sizes)
    torch.testing.assert_close(module([m], sizes)[0], m + plain)
    (half,) = module([m.bfloat16()], sizes)
    assert half.dtype == torch.bfloat16
    assert not list(module.parameters())
    assert not module.state_dict()
    (same,) = NoEncoding()([m], sizes)
    assert same is m


def test_sine_encoding_depends_on_neither_padding_nor_the_other_images() -> None:
    module = SineEncoding(hidden_dim=8, temperature=10000)
    sizes = torch.tensor([[64, 32], [40, 60]])
    small = module(zeros((16, 16), (8, 8), num_images=2), sizes)
    large = module(zeros((32, 24), (16, 12), num_images=2), sizes)
    for s, m in zip(small, large, strict=True):
        assert torch.equal(s, m[:, :, : s.shape[2], : s.shape[3]])
    for n in range(2):
        single = module(zeros((16, 16), (8, 8)), sizes[n : n + 1])
        for s, m in zip(single, small, strict=True):
            assert torch.equal(s[0], m[n])
    assert not torch.allclose(small[0][0], small[0][1])


def test_all_levels_agree_on_a_place() -> None:
    shapes = [(64, 64), (32, 32), (16, 16), (8, 8)]
    maps = SineEncoding(hidden_dim=8, temperature=10000)(zeros(*shapes), torch.tensor([[256, 224]]))
    for fine, coarse in itertools.pairwise(maps):
        half = math.pi * (256 / coarse.shape[2]) / 2 / 224  # between the centres of a coarse and a fine pixel
        wanted = torch.nn.functional.avg_pool2d(fine, 2)
        torch.testing.assert_close(wanted, coarse, rtol=0, atol=1.01 * (1 - math.cos(half)) + 1e-6)
