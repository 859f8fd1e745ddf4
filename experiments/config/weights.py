"""The weights that a training starts from: checked before there is any data, loaded once there is a model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from experiments.cli.naming import naming
from experiments.config.targets import ConfigError
from sparse_rcnn.backbone import ResNet
from sparse_rcnn.backbone_weights import StrideError, load_backbone_weights, read_backbone_weights
from sparse_rcnn.checkpoint_files import is_safetensors, load_checkpoint, tensors_of
from sparse_rcnn.detector_base import Detector
from sparse_rcnn.errors import CheckpointError, UserError
from sparse_rcnn.pretrained import locate_backbone_weights
from sparse_rcnn.released_formats import recognise
from sparse_rcnn.transfer import apply_transfer, plan_transfer
from sparse_rcnn.weights import find_weights, load_tensors, read_header, read_weights

Config = dict[str, Any]
TORCH_SUFFIXES = (".pth", ".pt", ".pkl", ".pickle", ".ckpt", ".tar", ".bin")


def check_weights(config: Config, model: Detector) -> None:
    """Refuse files that a model, which may be on the meta device and of any number of classes, cannot start from.

    Raises:
        UserError: names the key.
    """
    weights = config["weights"]
    if weights["detector"] is not None:
        path = locate_detector_weights(weights["detector"])
        with naming("weights.detector"):
            shapes, card = read_header(path)
        if not weights["strict"]:
            plan_transfer(model, config["model"], None, shapes, card, _source(weights))
    if weights["backbone"] is not None:
        path = locate(config, model)
        with _naming_stride():
            read_backbone_weights(_resnet(model), path, config["model"]["pixel_std"])


def load_weights(config: Config, model: Detector, is_main: bool) -> None:
    """Load the weights that a configuration names; where `is_main`, one line on stderr says what was taken.

    Raises:
        UserError: a file cannot be read or does not fit; names the key.
    """
    weights = config["weights"]
    if weights["backbone"] is not None:
        path = locate(config, model)
        with _naming_stride():
            note = load_backbone_weights(_resnet(model), path, config["model"]["pixel_std"])
        if note and is_main and Path(weights["backbone"]).is_file():  # a name of torchvision's leaves nothing open
            print(f"weights.backbone={weights['backbone']}: {note}", file=sys.stderr)
    if weights["detector"] is None:
        return
    with naming("weights.detector"):
        tensors, card = read_weights(locate_detector_weights(weights["detector"]))
    if weights["strict"]:
        load_tensors(model, tensors, _source(weights))
        return
    assert model.card is not None
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    plan = plan_transfer(model, config["model"], model.card.class_names, shapes, card, _source(weights))
    apply_transfer(model, plan, tensors, _source(weights))
    if is_main:
        print(f"{_source(weights)}: {plan.describe()}", file=sys.stderr)


def locate_detector_weights(given: str) -> Path:
    """The weights file of `weights.detector`, which may be a run directory.

    Raises:
        UserError: absent, or a file of another program; a released checkpoint gets the command that converts it.
    """
    path = Path(given)
    if not path.exists():
        raise ConfigError(f"weights.detector: there is no file {given}")
    with naming("weights.detector"):
        path = find_weights(path)
        with open(path, "rb") as file:
            is_ours = is_safetensors(file.read(9))
        if path.suffix in TORCH_SUFFIXES and not is_ours:
            content = load_checkpoint(path)  # what is not read at all is refused by its name
            state = content.get("model", content) if isinstance(content, dict) else {}
            if (released := recognise(tensors_of(state if isinstance(state, dict) else {}))) is not None:
                raise CheckpointError(
                    f"{path} is a released checkpoint of {released.name}: convert it first, python -m "
                    f"experiments.convert {path} {path.with_suffix('.safetensors')}"
                )
            raise CheckpointError(
                f"{path} is neither a weights file of this project nor a released checkpoint of a detector; an "
                "ImageNet network goes into weights.backbone"
            )
    return path


def locate(config: Config, model: Detector) -> Path:
    """The file of `weights.backbone`, downloaded where it is a name of torchvision's."""
    with naming("weights.backbone"):
        bottom_up = model.backbone.bottom_up
        assert isinstance(bottom_up, nn.Module)
        return locate_backbone_weights(bottom_up, config["weights"]["backbone"])


def _resnet(model: Detector) -> ResNet:
    bottom_up = model.backbone.bottom_up
    assert isinstance(bottom_up, ResNet)  # no other one has weights to be located
    return bottom_up


def _source(weights: dict[str, Any]) -> str:
    return f"weights.detector={weights['detector']}"


@contextmanager
def _naming_stride() -> Iterator[None]:
    try:
        with naming("weights.backbone"):
            yield
    except StrideError as error:
        key = "model.backbone.bottom_up.stride_in_1x1"
        raise UserError(str(error).replace("set stride_in_1x1", f"set {key}")) from error
