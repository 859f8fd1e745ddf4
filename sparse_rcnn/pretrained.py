"""ImageNet weights for the backbone: torchvision's by name, or a local file."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

import torch
from torch import nn
from torchvision.models import get_model_weights

from sparse_rcnn.backbone import ResNet
from sparse_rcnn.errors import UserError


def locate_backbone_weights(bottom_up: nn.Module, weights: str) -> Path:
    """The file of weights that are named as torchvision does (``IMAGENET1K_V1``) or by their path.

    A named file that is not in torch's cache is downloaded.

    Raises:
        UserError: not a name and not a file, or offline; says which file to put where.
    """
    if not isinstance(bottom_up, ResNet):
        raise UserError(f"weights {weights!r}: {type(bottom_up).__name__} has no pretrained weights; give none")
    if Path(weights).is_file():
        return Path(weights)
    if Path(weights).is_dir():
        files = sorted(
            p.name for p in Path(weights).iterdir() if p.suffix in (".safetensors", ".pth", ".pt", ".bin", ".pkl")
        )
        raise UserError(f"weights {weights!r} are a folder: give the file in it{f', {files[0]}' if files else ''}")
    known = get_model_weights(f"resnet{bottom_up.depth}")
    if weights not in known.__members__:
        raise UserError(
            f"weights {weights!r} are neither a file nor one of torchvision's for resnet{bottom_up.depth}: "
            f"{', '.join(known.__members__)}"
        )
    url = known[weights].url
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if not file.is_file():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(file), progress=True)
        except (URLError, OSError) as error:
            raise UserError(
                f"weights {weights!r} cannot be downloaded ({error}): put the file {file.name} of torchvision "
                f"into {file.parent}, or give the path of a local file"
            ) from error
    return file
