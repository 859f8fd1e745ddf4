"""The depth of a ResNet by the names of its tensors, in every program's layout."""

from __future__ import annotations

import pytest
from torchvision.models import resnet

from sparse_rcnn.backbone import RESNETS
from sparse_rcnn.backbone_layouts import DEPTHS, LAYOUTS, Layout, torchvision_depth
from sparse_rcnn.errors import CheckpointError

KINDS = {18: resnet.BasicBlock, 34: resnet.BasicBlock, 50: resnet.Bottleneck, 101: resnet.Bottleneck}


def names_of(block: type, counts: list[int]) -> list[str]:
    """Those of torchvision; narrow networks have the same."""
    net = resnet.ResNet(block, counts, width_per_group=64 if block is resnet.BasicBlock else 1)  # type: ignore[arg-type]
    return [name for name in net.state_dict() if not name.startswith("fc.") and "num_batches" not in name]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.program)
@pytest.mark.parametrize("depth", DEPTHS)
def test_the_depth_is_read_off_the_blocks(depth: int, layout: Layout) -> None:
    names = names_of(KINDS[depth], RESNETS[depth][1])
    own = [f"prefix.{layout.own_name(name)}" for name in names]
    found = layout.blocks([*own, *map(layout.own_name, names_of(resnet.BasicBlock, [1, 1, 9, 1]))], "prefix.")
    assert found.depth == depth
    assert found.counts == tuple(RESNETS[depth][1])
    assert found.are_bottlenecks == (depth >= 50)
    assert layout.blocks(own).depth is None


def test_depths_are_those_of_our_networks() -> None:
    assert list(RESNETS) == list(DEPTHS)


@pytest.mark.parametrize(
    ("block", "counts", "depth"),
    [
        (resnet.Bottleneck, [3, 8, 36, 3], 152),
        (resnet.Bottleneck, [2, 4, 6, 3], 50),  # whose missing block is named where the tensors are compared
        (resnet.Bottleneck, [3, 24, 36, 3], None),
        (resnet.Bottleneck, [2, 2, 2, 2], None),
        (resnet.BasicBlock, [3, 4, 23, 3], None),
    ],
    ids=str,
)
def test_other_networks_have_none(block: type, counts: list[int], depth: int | None) -> None:
    names = names_of(block, counts)
    assert LAYOUTS[0].blocks(names).depth == depth
    if depth != 50:
        kind = "bottleneck" if block is resnet.Bottleneck else "basic"
        message = rf"not a ResNet-18, 34, 50 or 101: layer3 has {counts[2]} {kind} blocks \(tensors layer3\.\*\)$"
        with pytest.raises(CheckpointError, match=message):
            torchvision_depth(names, "")
