"""The released checkpoints that can be converted: how each is recognised, read and written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from sparse_rcnn.backbone_layouts import RESNET_TENSOR
from sparse_rcnn.convert import check_untraced, ours_to_released, released_to_ours
from sparse_rcnn.deformable_detr.released_names import our_deformable_to_released, released_deformable_to_ours
from sparse_rcnn.detr import released_names as detr_names
from sparse_rcnn.detr.released_checkpoints import from_released
from sparse_rcnn.errors import CheckpointError
from sparse_rcnn.faster_rcnn import torchvision_names as faster_rcnn
from sparse_rcnn.norm_eps import COCO_V1_NORM_EPS
from sparse_rcnn.retinanet import torchvision_names as retinanet
from sparse_rcnn.state_dicts import first_three

State = Mapping[str, Tensor]
Architecture = dict[str, Any]
Settings = Mapping[str, Any]


class ReleasedFormat:
    """A layout of checkpoints that somebody released.

    Attributes:
        name: of the detector, for people.
        target: the class of ours that it becomes.
        settings: what its tensors cannot say, by the names of our constructors, with the values that are taken for
            granted.
        first_id: of its first class, where its classes may be the ids of categories, some of which do not exist; None
            where they are not.
    """

    name: str
    target: str
    settings: ClassVar[Settings] = {}
    first_id: ClassVar[int | None] = None

    def recognises(self, state: State) -> bool:
        """Whether a state dict is of this layout, or would be if it were whole."""
        raise NotImplementedError

    def read(self, state: State, settings: Settings) -> tuple[dict[str, Tensor], Architecture]:
        """Tensors by our names, and the architecture.

        Args:
            state: by released names.
            settings: a value for each of ``self.settings``.

        Raises:
            CheckpointError: names the first tensors that are missing, surplus or of another shape.
        """
        raise NotImplementedError

    def write(self, state: State, architecture: Architecture) -> dict[str, Tensor]:
        """Our tensors by released names.

        Raises:
            CheckpointError: the layout has no names for the architecture, or cannot say one of its settings.
        """
        raise CheckpointError(f"a checkpoint of a {self.name} can be read, and not be written")

    def settings_of(self, architecture: Architecture) -> dict[str, Any]:
        """The values of ``self.settings`` in an architecture: whoever reads the checkpoint has to give them."""
        return {}

    def describe(self, architecture: Architecture) -> str:
        """The architecture in a few words."""
        raise NotImplementedError


class SparseRCNNFormat(ReleasedFormat):
    name = "Sparse R-CNN"
    target = "sparse_rcnn.detector.SparseRCNN"

    def recognises(self, state: State) -> bool:
        return any(name.startswith(("init_proposal_", "head.head_series.")) for name in state)

    def read(self, state: State, settings: Settings) -> tuple[dict[str, Tensor], Architecture]:
        return released_to_ours(dict(state))

    def write(self, state: State, architecture: Architecture) -> dict[str, Tensor]:
        _check_backbone(state, architecture)
        return ours_to_released(dict(state), architecture)

    def describe(self, architecture: Architecture) -> str:
        return (
            f"{_bottom_up(architecture)}, {architecture['proposals']['num_proposals']} proposals, "
            f"{architecture['num_stages']} stages, {architecture['stage']['num_classes']} classes"
        )


class DETRFormat(ReleasedFormat):
    name = "DETR"
    target = "sparse_rcnn.detr.detector.DETR"
    settings: ClassVar[Settings] = {"dilation": False, "num_heads": 8, "with_position": True}
    first_id = 0

    def recognises(self, state: State) -> bool:
        return "transformer.decoder.layers.0.multihead_attn.in_proj_weight" in _without_prefix(state)

    def read(self, state: State, settings: Settings) -> tuple[dict[str, Tensor], Architecture]:
        if any(name.startswith(_SEGMENTATION) for name in state):
            raise CheckpointError("the checkpoint is a DETR for segmentation: only detectors can be read")
        return from_released(state, **settings)

    def write(self, state: State, architecture: Architecture) -> dict[str, Tensor]:
        _check_backbone(state, architecture)
        released = detr_names.ours_to_released(state)
        _, assumed = self.read(released, self.settings_of(architecture))  # which also finds what a variant lacks
        check_untraced(architecture, assumed)
        return released

    def settings_of(self, architecture: Architecture) -> dict[str, Any]:
        return {
            "dilation": architecture["backbone"]["dilation"],
            "num_heads": architecture["transformer"]["num_heads"],
            "with_position": architecture["with_position"],
        }

    def describe(self, architecture: Architecture) -> str:
        name = "DETR-DC5" if architecture["backbone"]["dilation"] else "DETR"
        return _describe_queries(name, architecture, architecture["transformer"]["num_decoder_layers"])


class DeformableDETRFormat(ReleasedFormat):
    name = "Deformable DETR"
    target = "sparse_rcnn.deformable_detr.detector.DeformableDETR"
    settings: ClassVar[Settings] = {"num_heads": 8}
    first_id = 0

    def recognises(self, state: State) -> bool:
        return any(name.startswith("transformer.") and ".sampling_offsets." in name for name in state)

    def read(self, state: State, settings: Settings) -> tuple[dict[str, Tensor], Architecture]:
        return released_deformable_to_ours(dict(state), **settings)

    def write(self, state: State, architecture: Architecture) -> dict[str, Tensor]:
        _check_backbone(state, architecture)
        return our_deformable_to_released(dict(state), architecture)

    def settings_of(self, architecture: Architecture) -> dict[str, Any]:
        return {"num_heads": architecture["decoder"]["num_heads"]}

    def describe(self, architecture: Architecture) -> str:
        return _describe_queries("Deformable DETR", architecture, architecture["decoder"]["num_layers"])


class TorchvisionRetinaNetFormat(ReleasedFormat):
    name = "RetinaNet of torchvision"
    target = "sparse_rcnn.retinanet.detector.RetinaNet"
    settings: ClassVar[Settings] = {"norm_eps": COCO_V1_NORM_EPS}
    first_id = 0

    def recognises(self, state: State) -> bool:
        return retinanet.is_torchvision_retinanet(state)

    def read(self, state: State, settings: Settings) -> tuple[dict[str, Tensor], Architecture]:
        return retinanet.from_torchvision(state, range(retinanet.num_outputs(state)), **settings)

    def describe(self, architecture: Architecture) -> str:
        return f"RetinaNet, {_bottom_up(architecture)}, {architecture['num_classes']} classes"


class TorchvisionFasterRCNNFormat(ReleasedFormat):
    name = "Faster R-CNN of torchvision"
    target = "sparse_rcnn.faster_rcnn.detector.FasterRCNN"
    settings: ClassVar[Settings] = {"norm_eps": COCO_V1_NORM_EPS}
    first_id = 1  # 0 is the background

    def recognises(self, state: State) -> bool:
        return faster_rcnn.is_torchvision_faster_rcnn(state)

    def read(self, state: State, settings: Settings) -> tuple[dict[str, Tensor], Architecture]:
        return faster_rcnn.to_ours(state, **settings)

    def describe(self, architecture: Architecture) -> str:
        return f"Faster R-CNN, {_bottom_up(architecture)}, {architecture['num_classes']} classes"


# One more layout is one more class here. Only one of them recognises a file.
FORMATS: tuple[ReleasedFormat, ...] = (
    SparseRCNNFormat(),
    DETRFormat(),
    DeformableDETRFormat(),
    TorchvisionRetinaNetFormat(),
    TorchvisionFasterRCNNFormat(),
)

_BOTTOM_UP = "backbone.bottom_up."
_SEGMENTATION = ("detr.", "mask_head.", "bbox_attention.")


def recognise(state: State) -> ReleasedFormat | None:
    """The layout of a state dict by its tensors' names; None for a stranger."""
    return next((layout for layout in FORMATS if layout.recognises(state)), None)


def format_of_file(state: State) -> ReleasedFormat:
    """The layout of a state dict.

    Raises:
        CheckpointError: none of those that there are; names some tensors.
    """
    found = recognise(state)
    if found is None:
        known = ", ".join(layout.name for layout in FORMATS)
        raise CheckpointError(f"not a released checkpoint of {known}: it has the tensors {first_three(list(state))}")
    return found


def format_of_architecture(architecture: Architecture) -> ReleasedFormat:
    """The layout that a detector of ours is written in.

    Raises:
        CheckpointError: there is none.
    """
    for layout in FORMATS:
        if layout.target == architecture.get("_target_"):
            return layout
    name = str(architecture.get("_target_")).rpartition(".")[2]
    raise CheckpointError(f"there is no released layout of a {name}")


def _check_backbone(state: State, architecture: Architecture) -> None:
    """Refuse a backbone whose tensors no release has names for, before these are looked for one by one.

    Raises:
        CheckpointError: names its class.
    """
    own = [name.removeprefix(_BOTTOM_UP) for name in state if name.startswith(_BOTTOM_UP)]
    if not all(map(RESNET_TENSOR.fullmatch, own)):
        raise CheckpointError(
            f"the backbone is not a ResNet-18, 34, 50 or 101 but a {_bottom_up(architecture)}: "
            "the released layout has no names for it"
        )


def _without_prefix(state: State) -> set[str]:
    return {name.removeprefix("detr.") for name in state}


def _bottom_up(architecture: Architecture) -> str:
    bottom_up = architecture["backbone"]["bottom_up"]
    return f"R{bottom_up['depth']}" if "depth" in bottom_up else str(bottom_up["_target_"]).rpartition(".")[2]


def _describe_queries(name: str, architecture: Architecture, num_layers: int) -> str:
    return (
        f"{name}, {_bottom_up(architecture)}, {architecture['num_queries']} queries, {num_layers} layers, "
        f"{architecture['num_classes']} classes"
    )
