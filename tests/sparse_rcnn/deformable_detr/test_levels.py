from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from sparse_rcnn.backbone import SmallNet
from sparse_rcnn.deformable_detr.levels import BackboneLevels, LevelProjection


def maps(*channels: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(2, c, 10 >> i, 12 >> i, generator=generator) for i, c in enumerate(channels)]


def test_the_backbone_gives_its_last_three_maps() -> None:
    bottom_up = SmallNet([16, 32, 48, 64], [0, 0, 0, 0])
    backbone = BackboneLevels(bottom_up)
    assert backbone.out_channels == [32, 48, 64]
    images = torch.randn(1, 3, 70, 97)
    for got, wanted, stride in zip(backbone(images), bottom_up(images)[1:], (8, 16, 32), strict=True):
        assert torch.equal(got, wanted)
        assert got.shape[2:] == (math.ceil(70 / stride), math.ceil(97 / stride))


def test_the_first_further_level_reads_the_last_map_and_the_next_the_level_before() -> None:
    projection = LevelProjection([4, 8], hidden_dim=32, num_levels=4)
    given = maps(4, 8)
    got = projection(given)
    assert [m.shape for m in got] == [(2, 32, 10, 12), (2, 32, 5, 6), (2, 32, 3, 3), (2, 32, 2, 2)]
    convolutions = [level[0] for level in projection.levels]  # type: ignore[index]
    assert [c.kernel_size[0] for c in convolutions] == [1, 1, 3, 3]
    for level, source in zip(projection.levels, [given[0], given[1], given[1], got[2]], strict=True):
        torch.testing.assert_close(got[list(projection.levels).index(level)], level(source))
    assert all(level[1].num_groups == 32 for level in projection.levels)  # type: ignore[index]


def test_start() -> None:
    projection = LevelProjection([16, 32], hidden_dim=64, num_levels=3)
    for level, (fan_in, fan_out) in zip(projection.levels, [(16, 64), (32, 64), (32 * 9, 64 * 9)], strict=True):
        convolution = level[0]  # type: ignore[index]
        assert isinstance(convolution, nn.Conv2d)
        bound = math.sqrt(6 / (fan_in + fan_out))
        assert 0.98 * bound < convolution.weight.abs().max() <= bound
        assert convolution.bias is not None
        assert not convolution.bias.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_dim": 48}, "hidden_dim 48 is not a multiple of 32"),
        ({"num_levels": 1}, "num_levels must be at least 2, the backbone's maps, got 1"),
    ],
)
def test_rejected(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LevelProjection([4, 8], **({"hidden_dim": 32, "num_levels": 3} | changes))


def test_a_level_of_one_cell_in_groups_of_one_channel() -> None:
    projection = LevelProjection([4], hidden_dim=32, num_levels=2).train()
    *_, last = projection([torch.randn(1, 4, 2, 2)])
    assert last.shape == (1, 32, 1, 1)
    assert last.abs().max() < 1e-4, "nothing but the bias, which starts at zero"
