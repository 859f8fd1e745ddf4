"""The names that other programs give to the tensors of a ResNet; ours are torchvision's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sparse_rcnn.errors import CheckpointError

_BLOCKS: dict[tuple[bool, tuple[int, ...]], int] = {
    (False, (2, 2, 2, 2)): 18,
    (False, (3, 4, 6, 3)): 34,
    (True, (3, 4, 6, 3)): 50,
    (True, (3, 4, 23, 3)): 101,
    (True, (3, 8, 36, 3)): 152,
}
DEPTHS = (18, 34, 50, 101)  # of ours
_STEM = r"(conv1|bn1)"
_BLOCK = r"layer(\d)\.(\d+)\.(conv|bn|downsample\.)(\d)"
_LEAF = r"(weight|bias|running_mean|running_var)"
RESNET_TENSOR = re.compile(rf"({_STEM}|{_BLOCK})\.{_LEAF}")  # of our names


def _same(name: str) -> str:
    return name


def detectron2_name(name: str) -> str:
    """Detectron2's name of one of our tensors, below the prefix of the network."""
    if match := re.fullmatch(rf"{_STEM}\.{_LEAF}", name):
        return f"stem.conv1.{'norm.' if match[1] == 'bn1' else ''}{match[2]}"
    match = re.fullmatch(rf"{_BLOCK}\.{_LEAF}", name)
    assert match is not None, name
    layer, block, kind, number, leaf = match.groups()
    part = "shortcut" if kind == "downsample." else f"conv{number}"
    norm = "norm." if kind == "bn" or (kind == "downsample." and number == "1") else ""
    return f"res{int(layer) + 1}.{block}.{part}.{norm}{leaf}"


def caffe2_name(name: str) -> str:
    """Caffe2's name of one of our tensors, as in the pickles of MSRA's ResNets (``uniform_caffe2_name``)."""
    leaves = {"weight": "s", "bias": "b", "running_mean": "running_mean", "running_var": "running_var"}
    if match := re.fullmatch(rf"{_STEM}\.{_LEAF}", name):
        return "conv1_w" if match[1] == "conv1" else f"res_conv1_bn_{leaves[match[2]]}"
    match = re.fullmatch(rf"{_BLOCK}\.{_LEAF}", name)
    assert match is not None, name
    layer, block, kind, number, leaf = match.groups()
    branch = "branch1" if kind == "downsample." else f"branch2{'abc'[int(number) - 1]}"
    is_norm = kind == "bn" or (kind == "downsample." and number == "1")
    return f"res{int(layer) + 1}_{block}_{branch}_{f'bn_{leaves[leaf]}' if is_norm else 'w'}"


def uniform_caffe2_name(name: str) -> str:
    """One spelling for the norms of Detectron's pickles (s, b, rm, riv) and of Detectron2's (gamma, beta, ...)."""
    spellings = {"gamma": "s", "beta": "b", "rm": "running_mean", "riv": "running_var"}
    head, bn, leaf = name.rpartition("_bn_")
    return f"{head}{bn}{spellings.get(leaf, leaf)}"


@dataclass(frozen=True)
class Blocks:
    """The residual blocks of a network.

    Attributes:
        are_bottlenecks: whether they have a third convolution.
        counts: of the four stages.
    """

    are_bottlenecks: bool
    counts: tuple[int, ...]

    @property
    def depth(self) -> int | None:
        """18, 34, 50, 101 or 152, by the third stage; None for any other network.

        A stage with fewer blocks than that depth has is one whose tensors are missing, with more it is another network.
        """
        for (are_bottlenecks, counts), depth in _BLOCKS.items():
            no_more = all(own <= count for own, count in zip(self.counts, counts, strict=True))
            if are_bottlenecks == self.are_bottlenecks and counts[2] == self.counts[2] and no_more:
                return depth
        return None

    @property
    def third(self) -> str:
        """The number and kind of the third stage's, for messages: ``6 bottleneck blocks``."""
        return f"{self.counts[2]} {'bottleneck' if self.are_bottlenecks else 'basic'} blocks"


@dataclass(frozen=True)
class Layout:
    """How a program names a ResNet.

    Attributes:
        program: of which it is, for messages.
        anchor: the name that every ResNet of it has, whatever its depth; what comes before it is a prefix.
        own_name: from our name to its.
        block: matches the names of the residual blocks: their stage, their index, the branch or layer within.
        first_stage: the number of the first of the four.
        stem: matches those of what comes before the blocks.
    """

    program: str
    anchor: str
    own_name: Callable[[str], str]
    block: re.Pattern[str]
    first_stage: int
    stem: re.Pattern[str]

    def prefixes(self, names: Iterable[str]) -> list[str]:
        """The prefix before the anchor, for each network that the names hold."""
        found = [name.removesuffix(self.anchor) for name in names if name.endswith(self.anchor)]
        return [prefix for prefix in found if prefix == "" or prefix.endswith(".")]

    def blocks(self, names: Iterable[str], prefix: str = "") -> Blocks:
        """The residual blocks that names below a prefix hold."""
        indices: dict[str, set[str]] = {}
        have_third = False
        for name in names:
            if name.startswith(prefix) and (match := self.block.match(name[len(prefix) :])):
                indices.setdefault(match[1], set()).add(match[2])
                have_third |= match[3] in ("conv3", "branch2c")
        stages = range(self.first_stage, self.first_stage + 4)
        return Blocks(have_third, tuple(len(indices.get(str(stage), ())) for stage in stages))


TORCHVISION = Layout(
    program="torchvision",
    anchor="layer1.0.conv1.weight",
    own_name=_same,
    block=re.compile(r"layer([1-4])\.(\d+)\.(\w+)"),
    first_stage=1,
    stem=re.compile(r"(conv1|bn1)\."),
)
DETECTRON2 = Layout(
    program="Detectron2",
    anchor="res2.0.conv1.weight",
    own_name=detectron2_name,
    block=re.compile(r"res([2-5])\.(\d+)\.(\w+)"),
    first_stage=2,
    stem=re.compile(r"stem\.conv"),
)
CAFFE2 = Layout(
    program="Caffe2",
    anchor="res2_0_branch2a_w",
    own_name=caffe2_name,
    block=re.compile(r"res([2-5])_(\d+)_(branch\w\w?)_"),
    first_stage=2,
    stem=re.compile(r"(conv1|res_conv1)_"),
)
LAYOUTS = (TORCHVISION, DETECTRON2, CAFFE2)


def torchvision_depth(names: Iterable[str], prefix: str) -> int:
    """The depth of torchvision's ResNet below a prefix in a released detector.

    Raises:
        CheckpointError: none of those that ours has.
    """
    blocks = TORCHVISION.blocks(names, prefix)
    if blocks.depth is None or blocks.depth not in DEPTHS:
        raise CheckpointError(
            f"the backbone is not a ResNet-18, 34, 50 or 101: layer3 has {blocks.third} (tensors {prefix}layer3.*)"
        )
    return blocks.depth
